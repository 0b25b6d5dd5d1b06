package state

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// Range returns one page of a range of keys, and whether the range goes on behind it. A page ends at r.MaxItems keys or when r.MaxBytes of
// keys and values are reached, after at least one key; 0 is no bound.
func (v *View) Range(id placement.ShardID, r *peerv1.RangeRead) (records []*peerv1.KeyRecord, more bool, err error) {
	start, end := appendRecordKey(nil, id, r.Start), appendKey(nil, id, sectionRecord+1)
	if r.End != "" {
		end = appendRecordKey(nil, id, r.End)
	}
	if r.End != "" && r.End <= r.Start {
		return nil, false, v.check(id)
	}
	it, err := v.iterate(id, start, end)
	if err != nil {
		return nil, false, err
	}
	first, next := it.First, it.Next
	if r.Reverse {
		first, next = it.Last, it.Prev
	}
	p := page{view: v, shard: id, read: r}
	for ok := first(); ok && !more; ok = next() {
		if more, err = p.take(it); err != nil {
			break
		}
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, false, err
	}
	return p.records, more, nil
}

// page is one that is being filled.
type page struct {
	view    *View
	shard   placement.ShardID
	read    *peerv1.RangeRead
	records []*peerv1.KeyRecord
	bytes   uint64
}

func (p *page) full() bool { return p.fullWith(len(p.records), p.bytes) }

// fullWith says whether so many keys fill the page, or so many bytes.
func (p *page) fullWith(n int, bytes uint64) bool {
	if n == 0 {
		return false
	}
	return (p.read.MaxItems != 0 && n >= int(p.read.MaxItems)) || (p.read.MaxBytes != 0 && bytes >= p.read.MaxBytes)
}

// take adds the record under the iterator, unless the page is full; then there is more.
func (p *page) take(it *pebble.Iterator) (more bool, err error) {
	stored, err := it.ValueAndErr()
	if err != nil {
		return false, err
	}
	h, err := readHead(stored)
	if err != nil {
		return false, p.damage(it, err)
	}
	if h.tombstone && !planted.Is(planted.TombstonesShown) { // promise 1
		return false, nil
	}
	if p.full() {
		return true, nil
	}
	key := string(it.Key()[sectionLen:])
	kr := &peerv1.KeyRecord{Key: key}
	p.bytes += uint64(len(key))
	p.records = append(p.records, kr)
	if p.read.KeysOnly {
		kr.Record = &record{CreateRevision: h.create, ModRevision: h.mod, Version: h.version, Lease: h.lease, DeadlineMs: h.deadline}
		return false, nil
	}
	p.bytes += h.valueLen()
	if kr.Record, err = readRecord(stored); err != nil {
		return false, p.damage(it, err)
	}
	return false, p.view.whole(p.shard, key, kr.Record)
}

func (p *page) damage(it *pebble.Iterator, err error) error {
	return &CorruptionError{Shard: p.shard, Key: slices.Clone(it.Key()), Err: err}
}
