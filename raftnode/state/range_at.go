package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// RangeAt returns one page of a range of keys as they were at r.Revision, and the last key that it has looked at if the range goes on behind that one, else
// "". It looks at look records at the most, those that it follows back through the history included but for the last key, so it may show fewer keys than
// r.MaxItems, or none, although others follow. It ends earlier as Range does.
//
// What was deleted since has its tombstone, because the history has not passed it; so nothing of the revision is missed.
func (v *View) RangeAt(id placement.ShardID, r *peerv1.RangeRead, look int) (records []*peerv1.KeyRecord, behind string, err error) {
	if err := v.checkRevision(id, r.Revision); err != nil {
		return nil, "", err
	}
	if r.End != "" && r.End <= r.Start {
		return nil, "", nil
	}
	upper := appendKey(nil, id, sectionRecord+1)
	if r.End != "" {
		upper = appendRecordKey(nil, id, r.End)
	}
	it, err := v.iterate(id, appendRecordKey(nil, id, r.Start), upper)
	if err != nil {
		return nil, "", err
	}
	first, next := it.First, it.Next
	if r.Reverse {
		first, next = it.Last, it.Prev
	}
	p := page{view: v, shard: id, read: r}
	last, more := "", false
	for ok := first(); ok; ok = next() {
		if more = last != "" && (look <= 0 || p.full()); more {
			break
		}
		last = string(it.Key()[sectionLen:])
		steps, err1 := p.takeAt(it, last)
		if err = err1; err != nil {
			break
		}
		look -= 1 + steps
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, "", err
	}
	if !more {
		last = ""
	}
	return p.records, last, v.check(id)
}

// takeAt adds the record under the iterator as it was at the revision of the page, if the key existed then, and says how far it was to go back.
func (p *page) takeAt(it *pebble.Iterator, key string) (steps int, err error) {
	stored, err := it.ValueAndErr()
	if err != nil {
		return 0, err
	}
	r, err := readRecord(stored)
	if err != nil {
		return 0, p.damage(it, err)
	}
	r, steps, err = p.view.back(p.shard, key, r, p.read.Revision)
	if err != nil || r == nil {
		return steps, err
	}
	p.bytes += uint64(len(key))
	if p.read.KeysOnly {
		r.Content = nil
	} else {
		p.bytes += uint64(len(r.GetValue()))
	}
	p.records = append(p.records, &peerv1.KeyRecord{Key: key, Record: r})
	return steps, nil
}
