package nodetest

import (
	"errors"
	"io"
	"path"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// ruin is what has become of a disk beyond the promises of a disk. A node on it may only refuse, and is lost to its cluster then, because
// nodes cannot be replaced yet.
type ruin uint8

const (
	sound ruin = iota
	// emptied: the disk was replaced by an empty one. The node must refuse, and say nothing as a member (R13).
	emptied
	// flipped: a bit of a log file is wrong. The node may refuse when it is opened, or when it reads the bit, or never need it.
	flipped
)

// ruinable says whether one more disk may be ruined: a majority of each shard must stay sound, and a cluster that is not formed yet has
// nothing that an emptied disk could have lost.
func (c *Cluster) ruinable() bool {
	for _, q := range c.processes {
		if q.ruin != sound || !q.served {
			return false
		}
	}
	return min(len(c.processes), c.options.Replicas) >= 3
}

// loseDisk takes the disk of a node away; it finds an empty one.
func (c *Cluster) loseDisk(i int) {
	p := c.processes[i]
	if !c.ruinable() {
		return
	}
	c.seen(DiskLost)
	c.log("disk lost", "node", p.id)
	p.end(c.grace())
	p.disk, p.ruin = simfs.New(simfs.Options{Seed: c.scheduler.random.Uint64()}), emptied
	if c.ended == nil {
		p.start()
	}
}

// flipBit stops a node in good order and turns a bit in a file of its log. Of one that was not stopped like that, the end of the log may be
// taken for one that was never acknowledged.
func (c *Cluster) flipBit(i int) {
	p := c.processes[i]
	if p.life == nil || p.life.node == nil || p.life.node.Err() != nil || !c.ruinable() {
		return
	}
	p.halt()
	file, bit := p.flip(c.scheduler.random.Uint64())
	p.ruin = flipped
	c.seen(BitFlipped)
	c.log("bit flip", "node", p.id, "file", file, "bit", bit)
}

// flip turns a bit of a log file on the disk.
func (p *process) flip(draw uint64) (file string, bit uint64) {
	dir := raftnode.LogDir(p.disk, dataDir)
	var files []string
	names, err := p.disk.List(dir)
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			files = append(files, path.Join(dir, name))
		}
	}
	if err != nil || len(files) == 0 {
		return "", 0
	}
	file = files[draw%uint64(len(files))]
	info, err := p.disk.Stat(file)
	if err != nil || info.Size() == 0 {
		return "", 0
	}
	bit = draw / uint64(len(files)) % uint64(8*info.Size())
	if err := p.rot(file, bit); err != nil {
		p.c.violate("%s: %v", p.id, err)
	}
	return file, bit
}

func (p *process) rot(file string, bit uint64) error {
	f, err := p.disk.OpenReadWrite(file, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err = f.ReadAt(b[:], int64(bit/8)); err == nil || errors.Is(err, io.EOF) {
		b[0] ^= 1 << (bit % 8)
		_, err = f.WriteAt(b[:], int64(bit/8))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// refuses says whether a node on a ruined disk has failed for that reason, clearly.
func (p *process) refuses(err error) bool {
	var damage *logstore.CorruptionError
	switch p.ruin {
	case emptied:
		return errors.Is(err, raftnode.ErrFormedWithout)
	case flipped:
		return errors.As(err, &damage)
	default:
		return false
	}
}

// refuse ends a node that has refused, for good.
func (p *process) refuse(err error) {
	p.c.seen(Refused)
	p.c.log("refused", "node", p.id, "err", err)
	p.out = true
	p.end(0)
}

// sound are the processes that owe service.
func (c *Cluster) sound() []*process {
	var out []*process
	for _, p := range c.processes {
		if p.ruin == sound {
			out = append(out, p)
		}
	}
	return out
}
