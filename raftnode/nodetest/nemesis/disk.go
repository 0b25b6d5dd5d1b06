package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system on a loop device on a sparse file.
type disk struct {
	image, mount string
	// loop is kept open, because the device goes away by itself when nobody has it.
	loop    *os.File
	mounted bool
	// off: the power is off. Every write and fsync fails, and what was not synced is lost at the next mount.
	off bool
}

// ballastName is the file that fills a disk, beside the data directory.
const ballastName = "BALLAST"

// ext4's ioctl, which include/uapi/linux/ext4.h has and package unix has not: the file system stops at once, and its journal is not
// flushed before.
const (
	fsIocShutdown                    = 0x8004587d
	fsShutdownNoLogFlush             = 2
	loopAttempts                     = 10
	blockBytes                       = 4096
	flipBelow                        = 1 << 20
	flips                            = 8
	imageMode            fs.FileMode = 0o600
)

func newDisk(dir, name string, bytes int64) (d *disk, err error) {
	d = &disk{image: filepath.Join(dir, name+".img"), mount: filepath.Join(dir, name)}
	if err := os.MkdirAll(d.mount, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.image, os.O_CREATE|os.O_RDWR|os.O_TRUNC, imageMode)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(bytes); err != nil {
		return nil, err
	}
	if err := format(d.image); err != nil {
		return nil, err
	}
	if d.loop, err = attach(f); err != nil {
		return nil, fmt.Errorf("a loop device for %s: %w", d.image, err)
	}
	return d, d.turnOn()
}

// format makes an empty file system.
func format(path string) error { return command("mkfs.ext4", "-q", "-F", "-m", "0", path) }

// attach gives a file to a free loop device. Another process may be faster, so it is tried more than once.
func attach(f *os.File) (_ *os.File, err error) {
	for range loopAttempts {
		var n int
		if n, err = freeLoop(); err != nil {
			return nil, err
		}
		var loop *os.File
		if loop, err = os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0); err != nil {
			return nil, err
		}
		config := &unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}} //nolint:gosec // a file descriptor
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), config); err == nil {
			return loop, nil
		}
		err = errors.Join(err, loop.Close())
	}
	return nil, err
}

func freeLoop() (n int, err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	return unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
}

// turnOn mounts the disk. The journal decides what is there.
func (d *disk) turnOn() error {
	if err := unix.Mount(d.loop.Name(), d.mount, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", d.mount, err)
	}
	d.mounted, d.off = true, false
	return nil
}

// cutPower stops the disk as a loss of power does. Who still writes gets EIO.
func (d *disk) cutPower() error {
	if d.off || !d.mounted {
		return nil
	}
	if err := shutdown(d.mount); err != nil {
		return err
	}
	d.off = true
	return nil
}

func shutdown(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), fsIocShutdown, fsShutdownNoLogFlush); err != nil {
		return fmt.Errorf("shut the file system of %s down: %w", dir, err)
	}
	return nil
}

// unmount ends the mount. No process may use it.
func (d *disk) unmount() error {
	if !d.mounted {
		return nil
	}
	if err := unix.Unmount(d.mount, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", d.mount, err)
	}
	d.mounted = false
	return nil
}

// restart mounts the disk anew, as after a loss of power.
func (d *disk) restart() error {
	if err := d.unmount(); err != nil {
		return err
	}
	return d.turnOn()
}

// empty puts an empty disk in its place.
func (d *disk) empty() error {
	return errors.Join(d.unmount(), format(d.loop.Name()), d.turnOn())
}

// fill leaves no space on the disk.
func (d *disk) fill() (err error) {
	f, err := os.OpenFile(filepath.Join(d.mount, ballastName), os.O_CREATE|os.O_WRONLY, imageMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var size int64
	for {
		var s unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
			return err
		}
		free := int64(s.Bavail) * s.Bsize //nolint:gosec // it is a small disk
		if free < blockBytes {
			return nil
		}
		// The last blocks may be needed to say where the others are; then less is asked for.
		for err = unix.ENOSPC; errors.Is(err, unix.ENOSPC) && free >= blockBytes; free /= 2 {
			err = unix.Fallocate(int(f.Fd()), 0, size, free)
			if err == nil {
				size += free
			}
		}
		if err != nil {
			if errors.Is(err, unix.ENOSPC) {
				return nil
			}
			return fmt.Errorf("fill %s: %w", d.mount, err)
		}
	}
}

// free gives the space back.
func (d *disk) free() error {
	err := os.Remove(filepath.Join(d.mount, ballastName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// flip flips some bits in files of the log or of the state in a data directory: most have places that nobody reads again. It returns what it
// did. Not in the identity: a node that does not know who it is stays down.
func flip(dir string, random *rand.Rand) (string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || filepath.Dir(path) == dir || filepath.Ext(path) == ".free" { // which holds nothing
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > 0 {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("look for files in %s: found %d: %w", dir, len(files), err)
	}
	slices.Sort(files)
	var done []string
	for range flips {
		path := files[random.IntN(len(files))]
		at, err := flipOne(path, random)
		if err != nil {
			return "", err
		}
		name, _ := filepath.Rel(dir, path) // WalkDir has found it there
		done = append(done, fmt.Sprintf("%s at %d", name, at))
	}
	return strings.Join(done, ", "), nil
}

func flipOne(path string, random *rand.Rand) (at int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	// Files of the log are longer than what is in them.
	at = random.Int64N(min(info.Size(), flipBelow))
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return 0, err
	}
	b[0] ^= 1 << random.IntN(8)
	_, err = f.WriteAt(b, at)
	return at, err
}

// destroy ends the disk for good.
func (d *disk) destroy() error {
	return errors.Join(d.unmount(), d.loop.Close(), os.Remove(d.image))
}
