package state

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// History and large values have tables of their own, behind flushes and behind compactions, and what a trim has removed has others: else every compaction of records would write
// history again.
func TestTablesApart(t *testing.T) {
	m := newServing(t, Options{})
	large := strings.Repeat("v", 2*separateBytes)
	for round := range 12 {
		for i := range 200 {
			m.commit(putCommand(fmt.Sprintf("key-%d", i), fmt.Sprint(round)), putCommand(fmt.Sprintf("large-%d", i%7), large))
		}
		if round > 2 {
			m.commit(trimCommand(m.shard.meta.Revision-500, 400))
		}
		if done, err := m.store.Flush(); err != nil {
			t.Fatal(err)
		} else {
			<-done
		}
		checkTables(t, m)
	}
	start, end := shardSpan(testShard)
	if err := m.store.db.Compact(t.Context(), start, end, false); err != nil {
		t.Fatal(err)
	}
	if n := checkTables(t, m); n < 3 {
		t.Errorf("%d tables", n)
	}
}

// checkTables returns how many tables there are.
func checkTables(t *testing.T, m *machine) (tables int) {
	t.Helper()
	levels, err := m.store.db.SSTables(pebble.WithProperties())
	if err != nil {
		t.Fatal(err)
	}
	floor := appendHistoryKey(nil, testShard, m.shard.Position().HistoryFloor)
	for level, infos := range levels {
		for _, i := range infos {
			smallest, largest := i.Smallest.UserKey, i.Largest.UserKey
			if shard, ok := shardOfKey(smallest); !ok || shard != testShard {
				continue
			}
			tables++
			from, to := section(smallest[shardPrefixLen]), section(largest[shardPrefixLen])
			if i.Largest.IsExclusiveSentinel() && len(largest) == sectionLen {
				to-- // it ends where that section begins
			}
			for _, apart := range []section{sectionHistory, sectionValue} {
				if from != to && from <= apart && apart <= to {
					t.Errorf("level %d: a table %v of %d bytes from %q to %q", level, i.FileNum, i.Size, smallest, largest)
				}
			}
			if from == sectionHistory && level == 0 && bytes.Compare(smallest, floor) < 0 && bytes.Compare(largest, floor) > 0 && i.Properties.NumRangeDeletions > 0 {
				t.Errorf("level 0: a table of history from %x to %x around the floor %x", smallest, largest, floor)
			}
		}
	}
	return tables
}

// Whatever a table begins with, its end is behind that: Pebble would not go on.
func TestTablesEnd(t *testing.T) {
	m := newServing(t, Options{})
	for range 30 {
		m.commit(putCommand("a", "1"))
	}
	m.commit(trimCommand(20, 100))
	fresh, after := shardSpan(testShard)
	starts := [][]byte{formatKey, {shardSpace}, fresh, append(bytes.Clone(fresh), 0xff), append(bytes.Clone(fresh), 0xff, 0xff), after}
	for s := range 256 {
		for _, revision := range []uint64{0, 1, 19, 20, 21, 1 << 40, 1<<64 - 1} {
			starts = append(starts, appendKey(nil, testShard, section(s)), appendRevisionKey(nil, testShard, section(s), revision, "key"))
		}
	}
	last, _ := shardSpan(^placement.ShardID(0))
	for _, start := range append(starts, last, append(bytes.Clone(last), 0xff), []byte{shardSpace + 1}, []byte("z")) {
		if _, end, err := m.store.tablesEnd(start); err != nil || end != nil && bytes.Compare(end, start) <= 0 {
			t.Errorf("a table from %x ends at %x: %v", start, end, err)
		}
	}
}

// An answer that is forgotten is gone with the flush: nothing of it goes to level 0, not even that it was removed.
func TestForgottenAnswersVanish(t *testing.T) {
	m := newServing(t, Options{})
	for i := range uint64(500) {
		m.commit(as(1, i+1, 0, i+1, putCommand("key", "v"))) // acknowledges all before
	}
	m.flushed()
	levels, err := m.store.db.SSTables(pebble.WithProperties())
	if err != nil {
		t.Fatal(err)
	}
	answers := uint64(0)
	for _, i := range levels[0] {
		if section(i.Largest.UserKey[shardPrefixLen]) == sectionDedup {
			answers += i.Properties.NumEntries
		}
	}
	if answers == 0 || answers > 20 {
		t.Errorf("%d entries about answers in level 0", answers)
	}
	if m.shard.dedup.len() != 1 {
		t.Errorf("%d answers are kept", m.shard.dedup.len())
	}
}

// An answer that was kept twice and forgotten once is the end of the store: it could come back.
func TestAnswerKeptTwice(t *testing.T) {
	m := newServing(t, Options{})
	key := appendDedupKey(nil, testShard, 1000, 0)
	for _, step := range []func() error{
		func() error { return m.store.db.Set(key, []byte("one"), pebble.NoSync) },
		func() error { return m.store.db.Set(key, []byte("two"), pebble.NoSync) },
		func() error { return m.store.db.SingleDelete(key, pebble.NoSync) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		m.flushed()
	}
	_ = m.store.compact(t.Context(), key, key) // It may end with the store.
	if err := m.store.fatal.err(); err == nil || !strings.Contains(err.Error(), "kept twice") {
		t.Errorf("the store goes on: %v", err)
	}
}

// A failed store compacts nothing, whatever is resumed.
func TestFailedStoreDoesNotCompact(t *testing.T) {
	m := newServing(t, Options{})
	m.store.engine.EventListener.BackgroundError(errors.New("the disk is gone"))
	m.store.ResumeCompactions()
	if granted, _ := m.store.room.compactions.TrySchedule(); granted {
		t.Error("a compaction is granted")
	}
	if err := m.store.compact(t.Context(), []byte{0}, []byte{255}); !errors.Is(err, ErrFatal) {
		t.Errorf("compact: %v", err)
	}
}
