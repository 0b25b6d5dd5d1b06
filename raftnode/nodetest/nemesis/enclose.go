package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// workPrefix is that of work directories; lockName the file in each that its owner holds locked as long as it lives.
const (
	workPrefix = "raftkv-nemesis-"
	lockName   = "OWNER"
)

// stopPatience is how long the inner process may take to stop by itself.
const stopPatience = 60 * time.Second

// enclose starts the inner process in namespaces of its own. Their network, mounts and processes are gone as soon as it has ended, by
// whatever cause, and it ends with this one.
func enclose(ctx context.Context, o *options) (code int, err error) {
	if os.Geteuid() != 0 {
		return exitUnable, errors.New("needs root, to make namespaces and mount disks: run it as root, or in a privileged container")
	}
	if _, err := os.Stat(o.binary); err != nil {
		return exitUnable, fmt.Errorf("the program of the nodes: %w; build it with 'make build'", err)
	}
	sweep(os.TempDir())
	work, lock, err := newWork(os.TempDir())
	if err != nil {
		return exitUnable, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work), lock.Close()) }()

	// The child dies with the thread that made it.
	runtime.LockOSThread()
	inner := exec.CommandContext(ctx, "/proc/self/exe", append(os.Args[1:], "-work="+work, fmt.Sprintf("-seed=%d", o.seed))...)
	inner.Stdout, inner.Stderr = os.Stdout, os.Stderr
	inner.Cancel = func() error { return inner.Process.Signal(syscall.SIGTERM) }
	inner.WaitDelay = stopPatience
	inner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // A signal of the terminal comes through this process, once.
	}
	if err := inner.Start(); err != nil {
		return exitUnable, fmt.Errorf("namespaces of network, mounts and processes: %w; run it as root, or in a privileged container", err)
	}
	err = inner.Wait()
	if status := inner.ProcessState; status.Exited() {
		return status.ExitCode(), nil
	}
	return exitUnable, err
}

// furnish makes the namespaces of this process fit to live in.
func furnish() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, // What is mounted here stays here.
		{"proc", "/proc", "proc", 0},
		{"tmpfs", "/run", "tmpfs", 0}, // for the names of network namespaces
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// newWork makes a work directory and takes its lock.
func newWork(parent string) (string, *os.File, error) {
	work, err := os.MkdirTemp(parent, workPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make a work directory: %w", err)
	}
	lock, err := os.Create(filepath.Join(work, lockName))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return "", nil, fmt.Errorf("lock the work directory: %w", err)
	}
	return work, lock, nil
}

// sweep removes the work directories of owners that are dead. A file without its lock is the mark of one.
func sweep(parent string) {
	locks, err := filepath.Glob(filepath.Join(parent, workPrefix+"*", lockName))
	if err != nil {
		return // the pattern is right
	}
	for _, name := range locks {
		lock, err := os.Open(name)
		if err != nil {
			continue // Its owner is removing it.
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := os.RemoveAll(filepath.Dir(name)); err != nil {
				fmt.Fprintln(os.Stderr, "nemesis: what an earlier run has left cannot be removed:", err)
			}
		}
		_ = lock.Close() // It was only read.
	}
}
