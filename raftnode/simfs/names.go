package simfs

import (
	"slices"
)

// directory maps names to inodes, once as programs see it and once as the disk surely holds it.
type directory struct {
	id      uint64 // that of its inode
	entries map[string]*inode
	disk    map[string]*inode
	// last is the newest change of each name that is not durable.
	last map[string]*change
	// birth is the change that put this directory where it is, nil once durable.
	birth *change
}

func newDirectory(id uint64) *directory {
	return &directory{id: id, entries: map[string]*inode{}, disk: map[string]*inode{}, last: map[string]*change{}}
}

// change is a change of names that is done as a whole or not at all: a create, a link, a mkdir, a removal or a rename.
type change struct {
	// key stands for the change in draws: a hash of its path and of how many changes that path had before.
	key     uint64
	touches []touch
	// removes: an inode lost this name and got no other by the same change (an unlink, a create over a file).
	removes bool
	// after are the changes that a sync of this one makes durable with it, because it cannot have happened without them: earlier
	// ones of the same names, and for the removal of a directory those in it.
	after []*change
	// above are the changes that put the directory of a rename where it is. They belong to other directories, so a sync of this
	// one does not make them durable; it waits for theirs.
	above []*change
	// synced: a sync has asked for the change. It is durable as soon as everything above it is.
	synced bool
	state  changeState
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

func (c *change) in(d *directory) bool { return slices.Contains(c.dirs(), d) }

// dirs are the directories whose names the change touches.
func (c *change) dirs() []*directory {
	dirs := []*directory{c.touches[0].dir}
	if last := c.touches[len(c.touches)-1].dir; last != dirs[0] {
		dirs = append(dirs, last)
	}
	return dirs
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
		c.sync()
	}
	// A change stands behind all that it waits for, so one pass settles what an earlier sync of another directory has left waiting, too.
	f.journal = slices.DeleteFunc(f.journal, (*change).settle)
}

// forgetDir is a failed sync of d. What an earlier sync has asked for only waits for other directories.
func (f *FS) forgetDir(d *directory) {
	for _, c := range f.pendingIn(d) {
		if !c.synced {
			c.state = forgotten
		}
	}
}

// sync asks for c and all that came before it on the same names, if nothing of it was forgotten.
func (c *change) sync() bool {
	if c.state != pending || c.synced {
		return c.state != forgotten
	}
	for _, before := range c.after {
		if !before.sync() {
			c.state = forgotten
			return false
		}
	}
	c.synced = true
	return true
}

// ready says whether all that c waits for satisfies is.
func (c *change) ready(is func(*change) bool) bool {
	return !slices.ContainsFunc(slices.Concat(c.after, c.above), func(before *change) bool { return !is(before) })
}

// settle makes c durable if a sync has asked for it and all that it waits for is durable. It says whether c is durable.
func (c *change) settle() bool {
	isDurable := func(c *change) bool { return c.state == durable }
	if c.state != pending || !c.synced || !c.ready(isDurable) {
		return isDurable(c)
	}
	c.state, c.after, c.above = durable, nil, nil
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
