package state

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
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
	p := page{read: r}
	for ok := first(); ok && !more; ok = next() {
		if more, err = p.take(it); err != nil {
			err = &CorruptionError{Shard: id, Key: slices.Clone(it.Key()), Err: err}
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
	read    *peerv1.RangeRead
	records []*peerv1.KeyRecord
	bytes   uint64
}

func (p *page) full() bool {
	if len(p.records) == 0 {
		return false
	}
	return (p.read.MaxItems != 0 && len(p.records) >= int(p.read.MaxItems)) || (p.read.MaxBytes != 0 && p.bytes >= p.read.MaxBytes)
}

// take adds the record under the iterator, unless the page is full; then there is more.
func (p *page) take(it *pebble.Iterator) (more bool, err error) {
	stored, err := it.ValueAndErr()
	if err != nil {
		return false, err
	}
	h, err := readHead(stored)
	if err != nil || h.tombstone {
		return false, err
	}
	if p.full() {
		return true, nil
	}
	key := string(it.Key()[sectionLen:])
	kr := &peerv1.KeyRecord{Key: key}
	if p.read.KeysOnly {
		kr.Record = &record{CreateRevision: h.create, ModRevision: h.mod, Version: h.version}
	} else if kr.Record, err = readRecord(stored); err != nil {
		return false, err
	}
	p.records = append(p.records, kr)
	p.bytes += uint64(len(key))
	if !p.read.KeysOnly {
		p.bytes += uint64(len(h.value))
	}
	return false, nil
}
