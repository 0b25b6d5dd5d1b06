package state

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// RangeAt returns a page of the keys from start up to end (empty: to the last) as they were at a revision, and the key to go on from, empty
// after the last page. It looks at maxItems records at the most, those that it follows back through the history included but for the last key, and ends
// when maxBytes of keys and values are reached, after at least one record.
//
// What was deleted since has its tombstone, because the history has not passed it; so nothing of the revision is missed.
func (v *View) RangeAt(id placement.ShardID, start, end string, revision uint64, maxItems int, maxBytes uint64) (records []*peerv1.KeyRecord, next string, err error) {
	if err := v.checkRevision(id, revision); err != nil {
		return nil, "", err
	}
	if end != "" && end <= start {
		return nil, "", nil
	}
	upper := appendKey(nil, id, sectionRecord+1)
	if end != "" {
		upper = appendRecordKey(nil, id, end)
	}
	it, err := v.iterate(id, appendRecordKey(nil, id, start), upper)
	if err != nil {
		return nil, "", err
	}
	looked, size := 0, uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		key := string(it.Key()[sectionLen:])
		if looked > 0 && (looked >= maxItems || size >= maxBytes) {
			next = key
			break
		}
		r, steps, err1 := v.recordAt(id, key, it, revision)
		if err = err1; err != nil {
			break
		}
		looked += 1 + steps
		if r != nil {
			size += uint64(len(key) + len(r.GetValue()))
			records = append(records, &peerv1.KeyRecord{Key: key, Record: r})
		}
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, "", err
	}
	return records, next, v.check(id)
}

// recordAt returns the record under an iterator as it was at a revision, nil if the key did not exist, and how far it was to go back.
func (v *View) recordAt(id placement.ShardID, key string, it *pebble.Iterator, revision uint64) (r *record, steps int, err error) {
	stored, err := it.ValueAndErr()
	if err != nil {
		return nil, 0, err
	}
	if r, err = readRecord(stored); err != nil {
		return nil, 0, &CorruptionError{Shard: id, Key: []byte(key), Err: err}
	}
	return v.back(id, key, r, revision)
}
