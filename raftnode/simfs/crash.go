package simfs

import (
	"maps"
	"slices"
)

// Survival says how much of what was not synced is left after a crash. What was synced is always left.
type Survival uint8

const (
	// KeepSynced leaves exactly what was synced.
	KeepSynced Survival = iota
	// KeepSome leaves what the seed decides: each unsynced name, block and sector on its own. It is the worst that a
	// system may do: new names appear in any order.
	KeepSome
	// KeepOrdered is KeepSome for data; of the changes of names in a directory that were not synced it leaves the first so many, as
	// file systems do that write their metadata to a journal in order.
	KeepOrdered
	// KeepAll leaves everything except what a failed sync has forgotten.
	KeepAll
)

// CrashOptions chooses one of the disks that a crash may leave.
type CrashOptions struct {
	// Seed decides, with the seed of the disk, what survives.
	Seed uint64
	Keep Survival
}

// Crash takes the power away, if it is still there, and returns the disk as it is when it comes back. The FS is dead
// then, and its operations fail with ErrCrashed; only closing still works. Crash may be called again on a dead disk to
// look at other outcomes of the same moment.
//
// The returned disk counts operations from 1 again. It has no locks, no open files and no fault function.
func (f *FS) Crash(c CrashOptions) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	return f.image(c)
}

// Image returns what Crash would return, and leaves the power on: for programs that must be closed in good order.
func (f *FS) Image(c CrashOptions) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.image(c)
}

func (f *FS) image(c CrashOptions) *FS {
	o := Options{BlockBytes: f.blockBytes, SectorBytes: f.sectorBytes, QuotaBytes: f.quota}
	im := &image{
		from:  f,
		to:    newFS(o, draw(f.seed.hash("crash", "", c.Seed))),
		keep:  c.Keep,
		names: map[*directory]map[string]*inode{},
		files: map[*inode]*inode{},
	}
	im.seed = im.to.seed
	im.chooseNames()
	im.to.root = im.copyDir(f.root)
	return im.to
}

// image is one run of Crash or Image. It changes nothing of the disk it reads; the two share the bytes of blocks that are
// never changed in place.
type image struct {
	from, to *FS
	seed     draw
	keep     Survival
	names    map[*directory]map[string]*inode // what the disk holds, where it is more than directory.disk
	files    map[*inode]*inode                // old to new: a file with two names is one file
}

// chooseNames decides which changes of names have happened. A change never survives without those it comes after. One that a sync has
// asked for, and that waits for directories above, survives with them.
func (im *image) chooseNames() {
	happened := map[*change]bool{}
	stands := func(c *change) bool { return c.state == durable || happened[c] }
	lucky := im.lucky()
	for _, c := range im.from.journal {
		waits := !c.ready(stands)
		if c.synced && waits || !c.synced && !lucky(c, waits) {
			continue
		}
		happened[c] = true
		for _, t := range c.touches {
			im.touch(t)
		}
	}
}

// lucky returns the rule by which single changes survive that no sync has asked for. It is asked for each of them in the order of the
// journal; those that wait for something that has not happened never survive.
//
// No file system removes a name on the disk before it adds those that programs added earlier, and programs rely on it
// (create the new, remove the old, sync the directory). To keep that without asking which goroutine was first, KeepSome makes one draw
// for the whole disk, which says whether removals can survive at all; if so, everything that adds a name survives.
func (im *image) lucky() func(c *change, waits bool) bool {
	coin := func(c *change) bool { return im.seed.below(2, "change", c.key) == 0 }
	switch {
	case im.keep == KeepSynced:
		return func(*change, bool) bool { return false }
	case im.keep == KeepAll:
		return func(c *change, waits bool) bool { return !waits && c.state != forgotten }
	case im.keep == KeepOrdered:
		return im.prefixes()
	case im.seed.below(2, "removals") == 0:
		return func(c *change, waits bool) bool { return !waits && !c.removes && coin(c) }
	}
	needed := map[*change]bool{}
	for _, c := range slices.Backward(im.from.journal) {
		if c.adds() || needed[c] {
			needed[c] = true
			for _, before := range slices.Concat(c.after, c.above) {
				needed[before] = true
			}
		}
	}
	return func(c *change, waits bool) bool { return !waits && (needed[c] || coin(c)) }
}

// prefixes is the rule of KeepOrdered: of the changes in each directory the first so many survive. One that does not, because of another
// directory that it touches or that it waits for, ends them too.
func (im *image) prefixes() func(c *change, waits bool) bool {
	left := map[*directory]int{}
	for _, c := range im.from.journal {
		if c.synced {
			continue
		}
		for _, d := range c.dirs() {
			left[d]++
		}
	}
	for d, n := range left {
		switch im.seed.below(4, "names", d.id) {
		case 0:
			left[d] = 0
		case 1: // all
		default:
			left[d] = im.seed.below(n+1, "prefix", d.id, uint64(n))
		}
	}
	return func(c *change, waits bool) bool {
		survives := !waits && !slices.ContainsFunc(c.dirs(), func(d *directory) bool { return left[d] == 0 })
		for _, d := range c.dirs() {
			left[d]--
			if !survives {
				left[d] = 0
			}
		}
		return survives
	}
}

func (im *image) touch(t touch) {
	names, ok := im.names[t.dir]
	if !ok {
		names = maps.Clone(t.dir.disk)
		im.names[t.dir] = names
	}
	if t.node == nil {
		delete(names, t.name)
		return
	}
	names[t.name] = t.node
}

func (im *image) copyDir(old *inode) *inode {
	names, ok := im.names[old.dir]
	if !ok {
		names = old.dir.disk
	}
	dir := newDirectory(old.id)
	for name, child := range names {
		copied := im.files[child]
		if copied == nil {
			if child.dir != nil {
				copied = im.copyDir(child)
			} else {
				copied = im.copyFile(child)
			}
			im.files[child] = copied
		}
		copied.links++
		dir.entries[name], dir.disk[name] = copied, copied
	}
	return &inode{id: old.id, dir: dir}
}

// copyFile decides which bytes and which size a file has.
func (im *image) copyFile(old *inode) *inode {
	file := im.ofFile(old)
	kept := len(old.sizes) // how many changes of the size have happened
	switch file {
	case KeepSynced:
		kept = 0
	case KeepSome:
		kept = im.seed.below(len(old.sizes)+1, "size", old.id, old.sizeChanges)
	}
	size := old.diskSize
	if kept > 0 {
		size = old.sizes[kept-1]
	}
	n := &inode{
		id: old.id, changed: old.changed, sizeChanges: old.sizeChanges,
		size: size, diskSize: size, reserved: old.diskReserved, diskReserved: old.diskReserved,
	}
	bs := im.from.blockBytes
	n.blocks = make([]*block, min(blocksFor(size, bs), len(old.blocks)))
	for i := range n.blocks {
		if old.blocks[i] == nil {
			continue
		}
		data := im.surviving(old, i, kept, file)
		if end := size - int64(i)*int64(bs); end < int64(bs) {
			data = slices.Clone(data)
			clear(data[end:])
		}
		n.blocks[i] = &block{data: data, count: old.blocks[i].count}
	}
	im.to.used += int64(n.space(bs)) * int64(bs)
	return n
}

// ofFile returns how much of a file survives. With independent draws alone a file of many unsynced blocks would next to
// never survive, or vanish, as a whole; both are worth seeing.
func (im *image) ofFile(n *inode) Survival {
	if im.keep != KeepSome && im.keep != KeepOrdered {
		return im.keep
	}
	switch im.seed.below(4, "file", n.id, n.sizeChanges) {
	case 0:
		return KeepSynced
	case 1:
		return KeepAll
	}
	return KeepSome
}

// surviving returns the bytes of block i after a crash. The system may have written the page at any moment since the
// last sync, so the disk holds it with the first so many of its writes, and if the power went during that, a mix by
// sectors with what it held before.
func (im *image) surviving(old *inode, i, sizes int, file Survival) []byte {
	b := old.blocks[i]
	least, most := 0, len(b.writes)
	for j, w := range b.writes {
		if w.cut == 0 {
			continue
		}
		if w.cut > sizes { // the file was not cut off here, so nothing later happened either
			most = j
			break
		}
		least = j + 1
	}
	if file == KeepSynced || most == least {
		return b.version(least)
	}
	if file == KeepAll {
		return b.version(most)
	}
	key := []uint64{old.id, uint64(i), b.count}
	now := least + im.seed.below(most-least+1, "block", key...)
	if now == least || im.seed.below(2, "tear", key...) == 0 {
		return b.version(now)
	}
	before := least + im.seed.below(now-least, "before", key...)
	return im.tear(b.version(before), b.version(now), key)
}

func (im *image) tear(before, now []byte, key []uint64) []byte {
	torn := slices.Clone(before)
	bs := im.from.sectorBytes
	for at := 0; at < len(torn); at += bs {
		if im.seed.below(2, "sector", append(key, uint64(at))...) == 0 {
			copy(torn[at:at+bs], now[at:at+bs])
		}
	}
	return torn
}
