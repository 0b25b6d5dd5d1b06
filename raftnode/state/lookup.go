package state

import (
	"bytes"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// lookup finds records in what is committed, for the entries of one batch. Pebble's Get does not ask the filters of the last level, where nearly all
// tables are: a key that is not there, as the first write of any key finds it, cost the reading of a block. An iterator can be told to, and one for a
// whole batch costs less than a Get for each key.
type lookup struct {
	store *Store
	it    *pebble.Iterator
	// installs is Store.installs as of when it was opened: an image that is replaced is not in sight.
	installs *map[placement.ShardID]uint64
}

// find returns the value of a key, nil if there is none. It may be read until the next find.
func (l *lookup) find(key []byte) ([]byte, error) {
	if installs := l.store.installs.Load(); l.it == nil || l.installs != installs {
		if err := l.close(); err != nil {
			return nil, err
		}
		it, err := l.store.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
		if err != nil {
			return nil, fmt.Errorf("state: look records up: %w", err)
		}
		l.it, l.installs = it, installs
	}
	if !l.it.SeekPrefixGE(key) || !bytes.Equal(l.it.Key(), key) {
		if err := l.it.Error(); err != nil {
			return nil, fmt.Errorf("state: look %x up: %w", key, err)
		}
		return nil, nil
	}
	value, err := l.it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("state: look %x up: %w", key, err)
	}
	return value, nil
}

// close lets go of the tables. The next find opens it again, and sees what is committed then.
func (l *lookup) close() error {
	if l.it == nil {
		return nil
	}
	err := l.it.Close()
	l.it = nil
	if err != nil {
		return fmt.Errorf("state: end a look for records: %w", err)
	}
	return nil
}
