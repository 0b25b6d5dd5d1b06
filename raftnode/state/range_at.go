package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Effort is how much a page at a revision looks at: Records of keys and revisions of history, and the Bytes that they take.
type Effort struct {
	Records int
	Bytes   uint64
}

// gatheredMax bounds the keys that are followed back together, and so the memory for them: values of more than separateBytes are not in it.
const gatheredMax = 1000

// RangeAt returns one page of a range of keys as they were at r.Revision, and the last key that it has looked at if the range goes on behind that one, else
// "". Once it has spent most it ends before it reads another revision of history, after at least one key, so it may show fewer keys than
// r.MaxItems, or none, although others follow. It ends earlier as Range does.
//
// What was deleted since has its tombstone, because the history has not passed it; so nothing of the revision is missed.
func (v *View) RangeAt(id placement.ShardID, r *peerv1.RangeRead, most Effort) (records []*peerv1.KeyRecord, behind string, err error) {
	p := pastPage{page: page{view: v, shard: id, read: r}, most: most}
	if err := p.fill(); err != nil {
		return nil, "", err
	}
	return p.records, p.behind, nil
}

// pastPage is a page at a revision that is being filled. It gathers some keys as they are and follows one after the other back. Each history
// that is read for one takes all gathered keys that it has changed back at once, so it is read once for all of them.
type pastPage struct {
	page
	most, spent Effort
	behind      string
	gathered    map[string]*pastKey
}

// pastKey is a key on its way back. record is the oldest of its records since the revision of the page that has been met, nil if there was none before.
type pastKey struct {
	key    string
	record *record
}

func (p *pastPage) fill() error {
	r := p.read
	if err := p.view.checkRevision(p.shard, r.Revision); err != nil {
		return err
	}
	if r.End != "" && r.End <= r.Start {
		return nil
	}
	upper := appendKey(nil, p.shard, sectionRecord+1)
	if r.End != "" {
		upper = appendRecordKey(nil, p.shard, r.End)
	}
	it, err := p.view.iterate(p.shard, appendRecordKey(nil, p.shard, r.Start), upper)
	if err != nil {
		return err
	}
	if err := errors.Join(p.walk(it), it.Error(), it.Close()); err != nil {
		return err
	}
	return p.view.check(p.shard)
}

func (p *pastPage) walk(it *pebble.Iterator) error {
	first, next := it.First, it.Next
	if p.read.Reverse {
		first, next = it.Last, it.Prev
	}
	last := ""
	// Of keys that did not exist then, ever more are gathered: else a history that has created all of them is read for each.
	more := first()
	for least := 1; more && (last == "" || !p.full() && !p.exhausted()); least *= 2 {
		keys, goesOn, err := p.gather(it, next, least)
		if err != nil {
			return err
		}
		more = goesOn
		for i := range keys {
			enough := last != "" && p.full()
			if !enough {
				if enough, err = p.follow(&keys[i], last != ""); err != nil {
					return err
				}
			}
			if enough {
				p.behind = last
				return nil
			}
			if err := p.show(&keys[i]); err != nil {
				return err
			}
			last = keys[i].key
		}
	}
	if more {
		p.behind = last
	}
	return nil
}

// gather reads keys as they are, least of them and more if the page has room, and says whether others follow.
func (p *pastPage) gather(it *pebble.Iterator, next func() bool, least int) (keys []pastKey, more bool, err error) {
	bytes := p.bytes // of the page with all of them, if their values were as long then as they are now
	for more = true; more; more = next() {
		if n := len(keys); n >= gatheredMax || n > 0 && (p.exhausted() || n >= least && p.fullWith(len(p.records)+n, bytes)) {
			break
		}
		stored, err := it.ValueAndErr()
		if err != nil {
			return nil, false, err
		}
		r, err := readRecord(stored)
		if err != nil {
			return nil, false, p.damage(it, err)
		}
		key := string(it.Key()[sectionLen:])
		p.spend(len(key) + len(stored))
		bytes += uint64(len(key))
		if p.read.KeysOnly {
			r.Content = nil
		} else {
			bytes += max(uint64(len(r.GetValue())), r.GetSeparated().GetLength())
		}
		keys = append(keys, pastKey{key, r})
	}
	p.gathered = make(map[string]*pastKey, len(keys))
	for i := range keys {
		p.gathered[keys[i].key] = &keys[i]
	}
	return keys, more, nil
}

func (p *pastPage) spend(bytes int) {
	p.spent.Records++
	p.spent.Bytes += uint64(bytes)
}

func (p *pastPage) exhausted() bool {
	return p.spent.Records >= p.most.Records || p.spent.Bytes >= p.most.Bytes
}

// follow takes a key back to what it was at the revision of the page, unless the effort may end and is exhausted.
func (p *pastPage) follow(k *pastKey, mayEnd bool) (enough bool, err error) {
	for k.record != nil && k.record.ModRevision > p.read.Revision {
		if mayEnd && p.exhausted() {
			return true, nil
		}
		if err := p.back(k); err != nil {
			return false, err
		}
	}
	return false, nil
}

// back takes all gathered keys back to before the last write of k, as far as that has changed them. One that was written again later is taken
// there at once: nobody asks for what was in between.
func (p *pastPage) back(k *pastKey) error {
	revision := k.record.ModRevision
	at, h, err := p.view.history(p.shard, revision)
	if err != nil {
		return err
	}
	p.spend(h.SizeVT())
	for _, c := range h.Changes {
		other := p.gathered[c.Key]
		if other == nil || other.record == nil || other.record.ModRevision < revision {
			continue
		}
		if other.record, err = replacedRecord(c, revision); err != nil {
			return &CorruptionError{Shard: p.shard, Key: at, Err: err}
		}
		if p.read.KeysOnly && other.record != nil {
			other.record.Content = nil
		}
	}
	if k.record != nil && k.record.ModRevision >= revision {
		return &CorruptionError{Shard: p.shard, Key: at, Err: fmt.Errorf("no change of %q: %w", k.key, errMissing)}
	}
	return nil
}

// show adds a key that has been followed back, if it existed.
func (p *pastPage) show(k *pastKey) error {
	if k.record == nil || k.record.GetTombstone() {
		return nil
	}
	if !p.read.KeysOnly {
		if err := p.view.whole(p.shard, k.key, k.record); err != nil {
			return err
		}
	}
	p.bytes += uint64(len(k.key) + len(k.record.GetValue()))
	p.records = append(p.records, &peerv1.KeyRecord{Key: k.key, Record: k.record})
	return nil
}
