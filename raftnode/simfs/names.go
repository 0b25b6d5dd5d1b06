package simfs

import (
	"slices"
)

// directory maps names to inodes, once as programs see it and once as the disk surely holds it.
type directory struct {
	entries map[string]*inode
	disk    map[string]*inode
	// last is the newest change of each name that is not durable.
	last map[string]*change
	// birth is the change that put this directory where it is, nil once durable.
	birth *change
}

func newDirectory() *directory {
	return &directory{entries: map[string]*inode{}, disk: map[string]*inode{}, last: map[string]*change{}}
}

// change is a change of names that is done as a whole or not at all: a create, a link, a mkdir, a removal or a rename.
type change struct {
	// key stands for the change in draws: a hash of its path and of how many changes that path had before.
	key     uint64
	touches []touch
	// removes: an inode lost this name and got no other by the same change (an unlink, a create over a file).
	removes bool
	// after are the changes without which this one cannot have happened: earlier ones of the same names.
	after []*change
	state changeState
}

type changeState uint8

const (
	pending changeState = iota
	durable
	// forgotten: a sync of the directory has failed. No later sync makes the change durable.
	forgotten
)

// touch is one name of a change and what it leads to afterwards; nil is nothing.
type touch struct {
	dir  *directory
	name string
	node *inode
}

func (c *change) adds() bool {
	return slices.ContainsFunc(c.touches, func(t touch) bool { return t.node != nil })
}

func (c *change) in(d *directory) bool {
	return slices.ContainsFunc(c.touches, func(t touch) bool { return t.dir == d })
}

// alter does a change and notes it in the journal. mu is held.
func (f *FS) alter(path string, c *change) {
	c.key = f.seed.hash("change", path, f.count(eventChange, path))
	for _, t := range c.touches {
		if before := t.dir.last[t.name]; before != nil {
			c.after = append(c.after, before)
		}
		t.dir.last[t.name] = c
		if t.node == nil {
			delete(t.dir.entries, t.name)
			continue
		}
		t.dir.entries[t.name] = t.node
		if t.node.dir != nil {
			t.node.dir.birth = c
		}
	}
	f.journal = append(f.journal, c)
}

// births returns the changes without which d is not where it is: its own and those of the directories above. A rename
// into d must come after them, or a crash could lose a file that never was without a name.
func births(d *directory) []*change {
	var all []*change
	for c := d.birth; c != nil; {
		all = append(all, c)
		i := slices.IndexFunc(c.touches, func(t touch) bool { return t.node != nil })
		c = c.touches[i].dir.birth
	}
	return all
}

// pendingIn returns the changes in d that are not durable. The removal of d must come after them, or a crash could lose
// a file that was moved out of it.
func (f *FS) pendingIn(d *directory) []*change {
	var all []*change
	for _, c := range f.journal {
		if c.in(d) {
			all = append(all, c)
		}
	}
	return all
}

// syncDir makes the names of d durable. mu is held.
func (f *FS) syncDir(d *directory) {
	for _, c := range f.pendingIn(d) {
		c.settle()
	}
	f.journal = slices.DeleteFunc(f.journal, func(c *change) bool { return c.state == durable })
}

// forgetDir is a failed sync of d.
func (f *FS) forgetDir(d *directory) {
	for _, c := range f.pendingIn(d) {
		c.state = forgotten
	}
}

// settle makes c and all that came before it durable, if nothing of it was forgotten.
func (c *change) settle() bool {
	if c.state != pending {
		return c.state == durable
	}
	for _, before := range c.after {
		if !before.settle() {
			c.state = forgotten
			return false
		}
	}
	c.state, c.after = durable, nil
	for _, t := range c.touches {
		if t.dir.last[t.name] == c {
			delete(t.dir.last, t.name)
		}
		if t.node == nil {
			delete(t.dir.disk, t.name)
			continue
		}
		t.dir.disk[t.name] = t.node
		if t.node.dir != nil && t.node.dir.birth == c {
			t.node.dir.birth = nil
		}
	}
	return true
}
