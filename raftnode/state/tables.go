package state

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// tablesEnd is where Pebble ends a table that begins with a key. History has tables of its own, and so do separated values; what trims have removed of them has others. All of that is
// written in order and removed in order. In a table of its own it overlaps nothing, so it stays where it was flushed to until a trim covers all of it, and is dropped.
// Beside records, which are written anywhere, it would be read and written again with them at every compaction. The deletion of a trim in the same table would
// make that overlap all history before it.
//
// With several data shards tables would be many, and small: a flush makes up to six for each. It decides nothing but which keys stand in which file.
func (s *Store) tablesEnd(start []byte) (_ pebble.SpanPolicy, end []byte, _ error) {
	if s.loaded.Load() != 1 {
		return pebble.SpanPolicy{}, nil, nil
	}
	var first [sectionLen]byte // a deletion of a whole shard begins with less
	copy(first[:], start)
	switch {
	case first[0] < shardSpace:
		return pebble.SpanPolicy{}, []byte{shardSpace}, nil
	case first[0] > shardSpace:
		return pebble.SpanPolicy{}, nil, nil
	}
	shard, _ := shardOfKey(first[:])
	at := section(first[shardPrefixLen])
	if at == sectionHistory || at == sectionValue { // both by revision
		if floor := appendRevisionKey(nil, shard, at, s.floor(shard), ""); bytes.Compare(start, floor) < 0 {
			return pebble.SpanPolicy{}, floor, nil
		}
	}
	for _, apart := range [...]section{sectionHistory, sectionHistory + 1, sectionValue, sectionValue + 1} {
		if at < apart {
			return pebble.SpanPolicy{}, appendKey(nil, shard, apart), nil
		}
	}
	_, end = shardSpan(shard)
	return pebble.SpanPolicy{}, end, nil
}

// floor returns the first revision whose history a shard keeps, 0 if it is not loaded.
func (s *Store) floor(shard placement.ShardID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shards[shard]; sh != nil {
		return sh.Position().HistoryFloor
	}
	return 0
}
