package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// TestCheckWatches shows the checker watches that are right and ones that are not, of shard 1, of which revision 2 has replaced v1 and revision 3 has deleted
// v2, and revision 4 is of another group.
func TestCheckWatches(t *testing.T) {
	for name, c := range map[string]struct {
		change func(all, group *Watch)
		want   string
	}{
		"sound":                 {func(_, _ *Watch) {}, ""},
		"a revision left out":   {func(all, _ *Watch) { at := all.Shards[0]; at.Seen = append(at.Seen[:1:1], at.Seen[2:]...) }, "not told of revision 2"},
		"the last one left out": {func(all, _ *Watch) { at := all.Shards[0]; at.Seen = at.Seen[:3] }, "said to be complete to 4"},
		"an event left out":     {func(_, group *Watch) { at := group.Shards[0]; at.Seen = at.Seen[:1] }, "of revision 3 of shard 1 it is told []"},
		"an event too many": {func(_, group *Watch) {
			at := group.Shards[0]
			at.Seen = append(at.Seen, Watched{Revision: 4, Key: key(8, 0), Value: "v9", Version: 1})
		}, "of revision 4"},
		"another value":           {func(all, _ *Watch) { all.Shards[0].Seen[1].Value = "v9" }, "says"},
		"another value, filtered": {func(_, group *Watch) { group.Shards[0].Seen[0].Value = "v9" }, "it is told"},
		"a skipped version":       {func(all, _ *Watch) { all.Shards[0].Seen[1].Version = 3 }, "version 3"},
		"a delete of nothing":     {func(all, _ *Watch) { all.Shards[0].Seen[1].Deleted = true }, "which is not there"},
		"replaced something else": {func(all, _ *Watch) { all.Shards[0].Seen[2].Before.Value = "v1" }, "and before of"},
		"replaced nothing":        {func(all, _ *Watch) { all.Shards[0].Seen[1].Before = Cell{} }, "and before of"},
		"fresher than it is":      {func(all, _ *Watch) { all.Marks = []Mark{{Shard: 1, Revision: 1, AsOf: time.Hour}} }, "when revision 4 was acknowledged"},
		"as fresh as it says": {func(all, _ *Watch) {
			all.Marks = []Mark{{Shard: 1, Revision: 4, AsOf: time.Hour}, {Shard: 1, Revision: 1, AsOf: 16}}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, all, group := watchedHistory()
			c.change(all, group)
			expect(t, CheckWatches(h, []*Watch{all, group}, nil), c.want)
		})
	}
}

// watchedHistory is a history, and two watches of it that are right.
func watchedHistory() (h *History, all, group *Watch) {
	deleted := put(1, 30, 31, 0, "", 3, 0)
	deleted.Changes[0].Delete, deleted.Cells[0].Existed = true, true
	h = &History{Operations: []*Operation{put(1, 10, 15, 0, "v1", 1, 1), put(1, 20, 25, 0, "v2", 2, 2), deleted, put(1, 40, 45, 1, "v4", 4, 1)}}
	h.Operations[3].Group = 8
	shard := h.Operations[0].Shard
	second := Watched{Revision: 2, Key: key(0, 0), Value: "v2", Version: 2, Before: Cell{Value: "v1", Version: 1, Revision: 1}}
	third := Watched{Revision: 3, Key: key(0, 0), Deleted: true, Before: Cell{Value: "v2", Version: 2, Revision: 2}}
	all = &Watch{Name: "all", All: true, Initial: true, Before: true, Covers: func(string) bool { return true }, Shards: []*WatchedShard{{Shard: shard, Complete: 4, Seen: []Watched{
		{Revision: 1, Key: key(0, 0), Value: "v1", Version: 1}, second, third, {Revision: 4, Key: key(8, 1), Value: "v4", Version: 1},
	}}}}
	group = &Watch{Name: "group", Covers: func(k string) bool { return strings.HasPrefix(k, "{g0}") }, Shards: []*WatchedShard{{
		Shard: shard, From: 1, Complete: 4, Seen: []Watched{second, third},
	}}}
	return h, all, group
}

// TestCheckFilteredWatches shows the checker watches that leave something out, of the same history: puts, deletes, all but a range of keys, and what was before a revision.
func TestCheckFilteredWatches(t *testing.T) {
	first := Watched{Revision: 1, Key: key(0, 0), Value: "v1", Version: 1}
	second := Watched{Revision: 2, Key: key(0, 0), Value: "v2", Version: 2, Before: Cell{Value: "v1", Version: 1, Revision: 1}}
	third := Watched{Revision: 3, Key: key(0, 0), Deleted: true, Before: Cell{Value: "v2", Version: 2, Revision: 2}}
	fourth := Watched{Revision: 4, Key: key(8, 1), Value: "v4", Version: 1}
	again := Watched{Revision: 2, Key: key(0, 0), Value: "v2", Version: 1}
	anew := Watched{Revision: 5, Key: key(0, 0), Value: "v5", Version: 1}
	thirdVersion := Watched{Revision: 1, Key: key(0, 0), Value: "v1", Version: 3}
	initial := func(e Watched) Watched { e.Before, e.Initial = Cell{}, true; return e }
	found := func(before Cell) Watched { e := third; e.Before = before; return e }
	everything := func(string) bool { return true }
	between := func(k string) bool { return k >= key(0, 0) && k < key(8, 1) }
	for name, c := range map[string]struct {
		watch Watch
		from  uint64
		seen  []Watched
		want  string
	}{
		"without deletes":                        {Watch{NoDeletes: true, Covers: everything}, 0, []Watched{first, second, fourth}, ""},
		"without deletes, and one is there":      {Watch{NoDeletes: true, Covers: everything}, 0, []Watched{first, second, third, fourth}, "of revision 3 of shard 1"},
		"without deletes, and a put is missing":  {Watch{NoDeletes: true, Covers: everything}, 0, []Watched{first, fourth}, "of revision 2 of shard 1 it is told []"},
		"without puts":                           {Watch{NoPuts: true, Before: true, Covers: everything}, 0, []Watched{third}, ""},
		"without puts, and one is there":         {Watch{NoPuts: true, Covers: everything}, 0, []Watched{third, fourth}, "of revision 4 of shard 1"},
		"without puts, and a delete is missing":  {Watch{NoPuts: true, Covers: everything}, 0, nil, "of revision 3 of shard 1 it is told []"},
		"without puts, replaced nothing":         {Watch{NoPuts: true, Before: true, Covers: everything}, 0, []Watched{found(Cell{})}, "which is not there"},
		"without puts, replaced another value":   {Watch{NoPuts: true, Before: true, Covers: everything}, 0, []Watched{found(Cell{Value: "v9", Version: 2, Revision: 2})}, "has found"},
		"without puts, replaced what comes late": {Watch{NoPuts: true, Before: true, Covers: everything}, 0, []Watched{found(Cell{Value: "v2", Version: 2, Revision: 3})}, "has found"},
		"a range":                                {Watch{Covers: between}, 0, []Watched{first, second, third}, ""},
		"a range, and its end is there":          {Watch{Covers: between}, 0, []Watched{first, second, third, fourth}, "of revision 4 of shard 1"},
		"a range, and its start is missing":      {Watch{Covers: between}, 0, []Watched{second, third}, "of revision 1 of shard 1 it is told []"},
		"from a revision":                        {Watch{Covers: between}, 1, []Watched{second, third}, ""},
		"from a revision, which is missing":      {Watch{Covers: between}, 1, []Watched{third}, "of revision 2 of shard 1 it is told []"},
		"from a revision, before which a key is another": {
			Watch{Covers: between, Initial: true},
			1,
			[]Watched{{Revision: 1, Key: key(0, 0), Value: "v0", Version: 3, Initial: true}, second, third},
			"version 2",
		},
		"without deletes, and a key begins anew that nobody deleted": {
			Watch{NoDeletes: true, Covers: everything}, 0, []Watched{first, again, fourth}, "and nobody has deleted it",
		},
		"without deletes, and a key begins anew": {Watch{NoDeletes: true, Covers: everything}, 0, []Watched{first, second, fourth, anew}, ""},
		"without puts, the start has what is deleted": {
			Watch{NoPuts: true, Before: true, Initial: true, Covers: everything}, 2, []Watched{initial(second), third}, "",
		},
		"without puts, the start has not what is deleted": {
			Watch{NoPuts: true, Before: true, Initial: true, Covers: everything}, 2, []Watched{third}, "has found",
		},
		"without puts, the start has what was replaced": {
			Watch{NoPuts: true, Before: true, Initial: true, Covers: everything}, 1, []Watched{initial(first), third}, "",
		},
		"without puts, the start has a later version of what was replaced": {
			Watch{NoPuts: true, Before: true, Initial: true, Covers: everything}, 1, []Watched{initial(thirdVersion), third}, "has found",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, all, _ := watchedHistory()
			c.watch.Name, c.watch.Shards = "filtered", []*WatchedShard{{Shard: 1, From: c.from, Complete: 4, Seen: c.seen}}
			expect(t, CheckWatches(h, []*Watch{all, &c.watch}, nil), c.want)
		})
	}
}

// TestCheckCompacted shows the checker what watches were refused for, where history begins at revision 4 in the end.
func TestCheckCompacted(t *testing.T) {
	for name, c := range map[string]struct {
		refused Forgotten
		want    string
	}{
		"forgotten":             {Forgotten{Shard: 1, Asked: 2, Oldest: 3}, ""},
		"forgotten just before": {Forgotten{Shard: 1, Asked: 3, Oldest: 4}, ""},
		"known":                 {Forgotten{Shard: 1, Asked: 3, Oldest: 3}, "and what it asks for is 3"},
		"known to the end":      {Forgotten{Shard: 1, Asked: 4, Oldest: 5}, "and in the end at 4"},
		"of another shard":      {Forgotten{Shard: 2, Asked: 1, Oldest: 2}, "and in the end at 0"},
	} {
		t.Run(name, func(t *testing.T) {
			l := ledger{floors: map[placement.ShardID]uint64{1: 4}}
			expect(t, l.checkForgotten(&Watch{Name: "group", Forgotten: []Forgotten{c.refused}}), c.want)
		})
	}
}

// TestCheckWatchedKeys compares what watches make of a key with what a node shows: where something is left out, that is not all.
func TestCheckWatchedKeys(t *testing.T) {
	put, deleted := Watched{Revision: 1, Key: key(0, 0), Value: "a", Version: 1}, Watched{Revision: 2, Key: key(0, 0), Deleted: true}
	for name, c := range map[string]struct {
		watch Watch
		seen  []Watched
		final string
		want  string
	}{
		"the last value":                         {Watch{}, []Watched{put}, "a", ""},
		"another value":                          {Watch{}, []Watched{put}, "b", "a node shows"},
		"a deleted key":                          {Watch{}, []Watched{put, deleted}, "", ""},
		"a key that is back":                     {Watch{}, []Watched{put, deleted}, "a", "a node shows"},
		"a key it was not told of":               {Watch{}, nil, "a", ""},
		"a key it was not told of at the start":  {Watch{Initial: true}, nil, "a", "a node shows"},
		"without deletes, another value":         {Watch{NoDeletes: true}, []Watched{put}, "b", "a node shows"},
		"without deletes, a deleted key":         {Watch{NoDeletes: true}, []Watched{put}, "", ""},
		"without puts, a key that is back":       {Watch{NoPuts: true}, []Watched{deleted}, "b", ""},
		"without puts, the start has an old one": {Watch{NoPuts: true, Initial: true}, []Watched{put}, "b", ""},
	} {
		c.watch.Covers = func(k string) bool { return k == key(0, 0) }
		c.watch.Shards = []*WatchedShard{{Shard: 1, Complete: 4, Seen: c.seen}}
		t.Run(name, func(t *testing.T) {
			version := uint64(min(len(c.final), 1))
			expect(t, CheckWatchedKeys([]*Watch{&c.watch}, []*Operation{read(9, 9, 10, 0, c.final, 4, version)}), c.want)
		})
	}
}
