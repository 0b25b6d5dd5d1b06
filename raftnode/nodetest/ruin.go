package nodetest

import (
	"errors"
	"io"
	"path"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// ruin is what has become of a disk beyond the promises of a disk.
type ruin uint8

const (
	sound ruin = iota
	// emptied: the disk was replaced by an empty one. The node must refuse, and say nothing as a member (R13). It is lost to its cluster then,
	// because nodes cannot be replaced yet.
	emptied
	// damaged: something in it is wrong or gone. The node finds that when it is opened, or never needs it; it must not speak for replicas that
	// are damaged, and has them rebuilt from the others (R15).
	damaged
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

// stopToDamage stops a node in good order, if its disk may be damaged. Of one that was not stopped like that, the end of the log may be taken for
// one that was never acknowledged.
func (c *Cluster) stopToDamage(i int) (*process, bool) {
	p := c.processes[i]
	if p.life == nil || p.life.node == nil || p.life.node.Err() != nil || !c.ruinable() {
		return nil, false
	}
	p.halt()
	p.ruin = damaged
	return p, true
}

// flipBit turns a bit in a file of the log of a node.
func (c *Cluster) flipBit(i int) {
	if p, ok := c.stopToDamage(i); ok {
		file, bit := p.flip(c.scheduler.random.Uint64())
		c.seen(BitFlipped)
		c.log("bit flip", "node", p.id, "file", file, "bit", bit)
	}
}

// loseDir takes the log or the state of a node away.
func (c *Cluster) loseDir(i int, name string) {
	p, ok := c.stopToDamage(i)
	if !ok {
		return
	}
	c.seen(DirLost)
	c.log("lost", "node", p.id, "what", name)
	if err := p.remove(path.Join(dataDir, name)); err != nil {
		c.violate("%s: %v", p.id, err)
	}
}

func (p *process) remove(dir string) error {
	if err := p.disk.RemoveAll(dir); err != nil {
		return err
	}
	d, err := p.disk.OpenDir(path.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
	return p.ruin == emptied && errors.Is(err, raftnode.ErrFormedWithout)
}

// heal makes a disk count as sound again whose replicas are all rebuilt. What those before had promised is nobody's promise any more.
func (p *process) heal() {
	p.ruin = sound
	p.c.promises.forget(p)
	p.c.log("rebuilt", "node", p.id)
}

// rebuilt says whether all replicas of a node take part, as voters.
func (p *process) rebuilt() bool {
	return p.serving() && len(p.life.node.Rebuilding()) == 0
}

// refuse ends a node that has refused, for good.
func (p *process) refuse(err error) {
	p.c.seen(Refused)
	p.c.log("refused", "node", p.id, "err", err)
	p.out = true
	p.end(0)
}

// owing are the processes that owe service in the end.
func (c *Cluster) owing() []*process {
	var out []*process
	for _, p := range c.processes {
		if p.ruin != emptied {
			out = append(out, p)
		}
	}
	return out
}
