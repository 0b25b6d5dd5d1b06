package state

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// recentRecords are copies of records that a shard has written of late, by key: every write looks at the record before it, and that search is a
// third of what applying costs. It holds what the newest write of a key has left or nothing, so it decides nothing (R20): a shard that has
// forgotten a record reads it from Pebble.
//
// Records stand in a ring of bytes, the newest at its end, and the oldest are written over. The index is a table of places in it, one for each 128 bytes,
// by the hashes of keys; a key takes the place of another one that has the same. So memory and work are bounded, and the collector sees two objects.
type recentRecords struct {
	ring []byte
	// end is where the next entry goes, counted from the first byte ever written: modulo the ring once that has its full size. An entry is there
	// while end has not passed it by the size of the ring.
	end   uint64
	index []uint64 // one more than where an entry begins; 0 is none
}

const (
	recentBytesFirst = 64 << 10
	recentHeader     = 2 + 4 // lengths of key and record
	recentPlace      = 128
	recentRecordMax  = 4 << 10
)

// place is where the index has a key; nil before the first put.
func (r *recentRecords) place(key string) *uint64 {
	if len(r.index) == 0 {
		return nil
	}
	return &r.index[xxhash.Sum64String(key)%uint64(len(r.index))]
}

// get returns the record of a key, nil if it is not here. It may be read until the next put.
func (r *recentRecords) get(key string) []byte {
	if p := r.place(key); p != nil && *p != 0 {
		return r.entry(*p-1, key)
	}
	return nil
}

// entry returns the record of an entry, nil if it has been written over or is of another key.
func (r *recentRecords) entry(at uint64, key string) []byte {
	if at+uint64(len(r.ring)) < r.end {
		return nil
	}
	e := r.ring[at%uint64(len(r.ring)):]
	keyLen, recordLen := int(binary.BigEndian.Uint16(e)), int(binary.BigEndian.Uint32(e[2:]))
	if string(e[recentHeader:recentHeader+keyLen]) != key {
		return nil
	}
	return e[recentHeader+keyLen : recentHeader+keyLen+recordLen : recentHeader+keyLen+recordLen]
}

// put keeps what a write has left at a key. most bounds the bytes of all entries; a ring that has grown does not shrink.
func (r *recentRecords) put(key string, record []byte, most int) {
	if len(record) > recentRecordMax {
		r.remove(key)
		return
	}
	if old := r.get(key); old != nil && len(old) == len(record) {
		copy(old, record)
		return
	}
	at := r.room(recentHeader+len(key)+len(record), max(most, recentBytesFirst))
	e := r.ring[at%uint64(len(r.ring)):]
	binary.BigEndian.PutUint16(e, uint16(len(key)))        //nolint:gosec // at most 4 KiB
	binary.BigEndian.PutUint32(e[2:], uint32(len(record))) //nolint:gosec // at most 4 KiB
	copy(e[recentHeader:], key)
	copy(e[recentHeader+len(key):], record)
	*r.place(key) = at + 1
}

// room returns where an entry of so many bytes goes, in one piece. Entries are smaller than the smallest ring.
func (r *recentRecords) room(need, most int) uint64 {
	size := len(r.ring)
	if end := int(r.end); end <= size && end+need > size && size < most { //nolint:gosec // below the size
		for size < end+need && size < most {
			size = min(max(2*size, recentBytesFirst), most)
		}
		r.grow(size)
	}
	if left := size - int(r.end%uint64(size)); left < need { //nolint:gosec // below the size
		r.end += uint64(left) //nolint:gosec // positive
	}
	at := r.end
	r.end += uint64(need) //nolint:gosec // positive
	return at
}

// grow makes the ring larger. It has never been full, so every entry stays where it is.
func (r *recentRecords) grow(size int) {
	ring, places := make([]byte, size), r.index
	copy(ring, r.ring)
	r.ring, r.index = ring, make([]uint64, size/recentPlace)
	for _, p := range places {
		if p == 0 {
			continue
		}
		e := ring[p-1:]
		keyLen := int(binary.BigEndian.Uint16(e))
		*r.place(string(e[recentHeader : recentHeader+keyLen])) = p
	}
}

// remove forgets a key. Another one in its place goes along.
func (r *recentRecords) remove(key string) {
	if p := r.place(key); p != nil {
		*p = 0
	}
}
