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
// in buckets of eight, which are a line of the processor's cache: the hash of a key names its bucket, and the oldest of the bucket goes when it is full. With one place
// for each hash, every tenth key was in the place of another, was copied again at its next write, and so drove those out that had a place.
// So memory and work are bounded, and the collector sees two objects.
type recentRecords struct {
	ring []byte
	// end is where the next entry goes, counted from the first byte ever written: modulo the ring once that has its full size. An entry is there
	// while end has not passed it by the size of the ring.
	end   uint64
	index []recentPlace
}

// recentPlace is one more than where an entry begins, 0 for none, and above that eight bits of the hash of its key, so that hardly any other key's entry is looked at. No
// process writes 2^56 bytes.
type recentPlace uint64

const (
	recentBytesFirst = 64 << 10
	recentHeader     = 2 + 4 // lengths of key and record
	recentPlaceBytes = 128
	recentBucket     = 8
	recentRecordMax  = 4 << 10
	recentTagBits    = 56
)

func (p recentPlace) after() uint64 { return uint64(p) & (1<<recentTagBits - 1) }

func (p recentPlace) tag() uint64 { return uint64(p) >> recentTagBits }

// bucket is where the index may have a key of a hash; nil before the first put.
func (r *recentRecords) bucket(hash uint64) []recentPlace {
	if len(r.index) == 0 {
		return nil
	}
	at := hash % uint64(len(r.index)/recentBucket) * recentBucket
	return r.index[at : at+recentBucket : at+recentBucket]
}

// find returns the place and the record of a key, nil if it is not here.
func (r *recentRecords) find(hash uint64, key string) (*recentPlace, []byte) {
	bucket := r.bucket(hash)
	for i, p := range bucket {
		if p == 0 || p.tag() != hash>>recentTagBits {
			continue
		}
		if record := r.entry(p.after()-1, key); record != nil {
			return &bucket[i], record
		}
	}
	return nil, nil
}

// get returns the record of a key, nil if it is not here. It may be read until the next put.
func (r *recentRecords) get(key string) []byte {
	_, record := r.find(xxhash.Sum64String(key), key)
	return record
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
	hash := xxhash.Sum64String(key)
	p, old := r.find(hash, key)
	if old != nil && len(old) == len(record) {
		copy(old, record)
		return
	}
	if p != nil {
		*p = 0
	}
	if len(record) > recentRecordMax {
		return
	}
	at := r.room(recentHeader+len(key)+len(record), max(most, recentBytesFirst))
	e := r.ring[at%uint64(len(r.ring)):]
	binary.BigEndian.PutUint16(e, uint16(len(key)))        //nolint:gosec // at most 4 KiB
	binary.BigEndian.PutUint32(e[2:], uint32(len(record))) //nolint:gosec // at most 4 KiB
	copy(e[recentHeader:], key)
	copy(e[recentHeader+len(key):], record)
	r.enter(hash, at)
}

// enter takes a place for an entry: a free one, or that of the oldest of its bucket.
func (r *recentRecords) enter(hash, at uint64) {
	bucket := r.bucket(hash)
	oldest := 0
	for i, p := range bucket {
		if p.after() < bucket[oldest].after() {
			oldest = i
		}
	}
	bucket[oldest] = recentPlace(hash>>recentTagBits<<recentTagBits | (at + 1))
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
	r.ring, r.index = ring, make([]recentPlace, size/recentPlaceBytes)
	for _, p := range places {
		if p == 0 {
			continue
		}
		e := ring[p.after()-1:]
		keyLen := int(binary.BigEndian.Uint16(e))
		r.enter(xxhash.Sum64(e[recentHeader:recentHeader+keyLen]), p.after()-1)
	}
}

// remove forgets a key.
func (r *recentRecords) remove(key string) {
	if p, _ := r.find(xxhash.Sum64String(key), key); p != nil {
		*p = 0
	}
}
