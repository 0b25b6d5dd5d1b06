package state

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Lease returns a lease whose home the shard is, nil if it does not live.
func (v *View) Lease(id placement.ShardID, lease uint64) (*storev1.Lease, error) {
	l := new(storev1.Lease)
	found, err := v.get(id, appendLeaseKey(nil, id, lease), l, "lease")
	if err != nil || !found || l.Ended {
		return nil, err
	}
	return l, nil
}

// Leases returns the leases of the shard with ids above after, ascending, at most most, and whether there are others behind them.
func (v *View) Leases(id placement.ShardID, after uint64, most int) (found []*peerv1.LeaseState, more bool, err error) {
	it, err := v.iterate(id, append(appendLeaseKey(nil, id, after), 0), appendKey(nil, id, sectionLease+1))
	if err != nil {
		return nil, false, err
	}
	err = eachPair(it, id, func(rest, value []byte) error {
		lease, err := parseLease(rest)
		if err != nil {
			return err
		}
		l, err := readLease(value)
		if err != nil || l.Ended {
			return err
		}
		if more = len(found) == most; more {
			return errEnough
		}
		found = append(found, &peerv1.LeaseState{Id: lease, TtlMs: l.TtlMs, DeadlineMs: l.DeadlineMs})
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, more, err
}

// LeasedKeys returns the keys of the shard behind after that hang on a lease, ascending, at most most and until bytes are reached, and whether there are
// others behind them.
func (v *View) LeasedKeys(id placement.ShardID, lease uint64, after string, most, bytes int) (keys []string, more bool, err error) {
	start := appendRevisionKey(nil, id, sectionLeased, lease, after)
	if after != "" {
		start = append(start, 0)
	}
	it, err := v.iterate(id, start, appendRevisionKey(nil, id, sectionLeased, lease+1, ""))
	if err != nil {
		return nil, false, err
	}
	err = eachPair(it, id, func(rest, _ []byte) error {
		_, key, err := parseRevisionKey(rest)
		if err != nil {
			return err
		}
		if more = len(keys) == most || bytes <= 0; more {
			return errEnough
		}
		keys = append(keys, string(key))
		bytes -= len(key)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return keys, more, err
}

// LeasesElsewhere returns leases above after on which keys of the shard hang, ascending, those that fit of at most most that it looks at, and the last one
// of these; 0 if there is none behind it. It passes each lease once, whatever the number of its keys.
func (v *View) LeasesElsewhere(id placement.ShardID, after uint64, most int, fits func(lease uint64) bool) (found []uint64, until uint64, err error) {
	it, err := v.iterate(id, appendRevisionKey(nil, id, sectionLeased, after+1, ""), appendKey(nil, id, sectionLeased+1))
	if err != nil {
		return nil, 0, err
	}
	found, until, err = distinctLeases(it, id, most, fits)
	return found, until, errors.Join(err, it.Error(), it.Close())
}

func distinctLeases(it *pebble.Iterator, id placement.ShardID, most int, fits func(uint64) bool) (found []uint64, until uint64, err error) {
	ok := it.First()
	for ; ok && most > 0; most-- {
		rest := it.Key()[sectionLen:]
		if len(rest) < 9 {
			return nil, 0, &CorruptionError{Shard: id, Key: append([]byte(nil), it.Key()...), Err: errBadKey}
		}
		until = binary.BigEndian.Uint64(rest)
		if fits(until) {
			found = append(found, until)
		}
		ok = it.SeekGE(appendRevisionKey(nil, id, sectionLeased, until+1, ""))
	}
	if !ok {
		until = 0
	}
	return found, until, nil
}
