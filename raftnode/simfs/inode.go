package simfs

import (
	"slices"
	"time"
)

// inode is a file or a directory, whatever its names are. The FS's mu guards it.
type inode struct {
	// id stands for the inode in draws: a hash of the path under which it was born. It outlives renames and crashes.
	id uint64
	// dir is set for a directory, and then nothing below is used.
	dir *directory

	// links counts the names that programs see, handles the open files: at 0 and 0 the space is free.
	links, handles int
	// changed counts modifications and is the modification time, because there is no clock here.
	changed int64

	// size is what programs see, diskSize what the disk surely holds, sizes what came between, in order: after a crash
	// the size is diskSize or one of them.
	size, diskSize int64
	sizes          []int64
	sizeChanges    uint64 // ever
	// blocks hold the data; nil is a hole, which reads as zeros. dirty lists the blocks with writes that are not synced.
	blocks []*block
	dirty  []int
	// reserved is the space that was preallocated, in blocks from the start of the file.
	reserved, diskReserved int
}

func (n *inode) modTime() time.Time { return time.Unix(n.changed, 0).UTC() }

// space returns the blocks that the file occupies. Holes count, so that filling one never fails.
func (n *inode) space(blockBytes int) int {
	return max(blocksFor(n.size, blockBytes), n.reserved)
}

func blocksFor(size int64, blockBytes int) int {
	return int((size + int64(blockBytes) - 1) / int64(blockBytes))
}

// readAt copies what programs see. It returns the bytes copied, fewer than len(p) at the end of the file.
func (n *inode) readAt(blockBytes int, p []byte, off int64) int {
	if off >= n.size {
		return 0
	}
	p = p[:min(int64(len(p)), n.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		i, from := int(at/int64(blockBytes)), int(at%int64(blockBytes))
		part := p[done:min(len(p), done+blockBytes-from)]
		if i < len(n.blocks) && n.blocks[i] != nil {
			copy(part, n.blocks[i].data[from:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p)
}

// writeAt changes what programs see. The space is checked by the caller.
func (n *inode) writeAt(blockBytes int, p []byte, off int64) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		i, from := int(at/int64(blockBytes)), int(at%int64(blockBytes))
		part := p[done:min(len(p), done+blockBytes-from)]
		n.put(blockBytes, i, write{from: from, data: slices.Clone(part)})
		done += len(part)
	}
	n.changed++
	if end := off + int64(len(p)); end > n.size {
		n.resize(end)
	}
}

func (n *inode) put(blockBytes, i int, w write) {
	for len(n.blocks) <= i {
		n.blocks = append(n.blocks, nil)
	}
	if n.blocks[i] == nil {
		n.blocks[i] = &block{data: make([]byte, blockBytes)}
	}
	if n.blocks[i].put(w) {
		n.dirty = append(n.dirty, i)
	}
}

func (n *inode) resize(size int64) {
	n.size = size
	n.sizes = append(n.sizes, size)
	n.sizeChanges++
}

// truncate sets the size. What is cut off becomes zeros, bound to the change of the size: after a crash either both or
// neither have happened.
func (n *inode) truncate(blockBytes int, size int64) {
	cut := len(n.sizes) + 1
	for i := int(size / int64(blockBytes)); i < len(n.blocks); i++ {
		if n.blocks[i] == nil {
			continue
		}
		from := max(0, int(size-int64(i)*int64(blockBytes)))
		n.put(blockBytes, i, write{from: from, data: make([]byte, blockBytes-from), cut: cut})
	}
	n.changed++
	if size < n.size {
		n.reserved = blocksFor(size, blockBytes)
	}
	n.resize(size)
}

// sync makes durable what programs see, except blocks that a failed sync has forgotten. It returns the blocks written.
func (n *inode) sync(blockBytes int) int {
	written := len(n.dirty)
	for _, i := range n.dirty {
		n.blocks[i].disk, n.blocks[i].writes = nil, nil
	}
	n.dirty = nil
	n.diskSize, n.sizes = n.size, nil
	n.diskReserved = n.reserved
	if blocks := blocksFor(n.size, blockBytes); blocks < len(n.blocks) {
		n.blocks = slices.Clip(n.blocks[:blocks])
	}
	return written
}

// forget is a failed sync: the system marks the dirty pages clean and reports the error once.
func (n *inode) forget() {
	for _, i := range n.dirty {
		n.blocks[i].writes = nil
	}
	n.dirty = nil
}

// block is one page of a file, in one of three states:
//
//	clean      disk is nil: the disk holds data. data is never changed again, only replaced, so that disks share it.
//	dirty      disk is what the disk surely holds; it may also hold disk with the first few of writes done.
//	forgotten  disk is what the disk holds, and writes is empty: a failed sync has dropped them.
type block struct {
	data   []byte
	disk   []byte
	writes []write
	count  uint64 // writes ever
}

// write is a change of a block.
type write struct {
	from int
	data []byte
	// cut, unless 0, is the number of the size change that the write belongs to, from 1 in the inode's sizes.
	cut int
}

// put does a write and reports whether the block was not dirty before.
func (b *block) put(w write) (dirtied bool) {
	b.count++
	switch {
	case b.disk == nil:
		b.disk, b.data, dirtied = b.data, slices.Clone(b.data), true
	case len(b.writes) == 0:
		// The page is dirty again as a whole and takes what was forgotten along.
		copy(b.data[w.from:], w.data)
		b.writes = []write{{data: slices.Clone(b.data), cut: w.cut}}
		return true
	}
	copy(b.data[w.from:], w.data)
	b.writes = append(b.writes, w)
	return dirtied
}

// version returns what the disk holds if the first n unsynced writes have reached it.
func (b *block) version(n int) []byte {
	if b.disk == nil {
		return b.data
	}
	if n == 0 {
		return b.disk
	}
	data := slices.Clone(b.disk)
	for _, w := range b.writes[:n] {
		copy(data[w.from:], w.data)
	}
	return data
}
