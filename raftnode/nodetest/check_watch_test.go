package nodetest

import (
	"strings"
	"testing"
	"time"
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
			deleted := put(1, 30, 31, 0, "", 3, 0)
			deleted.Changes[0].Delete, deleted.Cells[0].Existed = true, true
			h := &History{Operations: []*Operation{put(1, 10, 15, 0, "v1", 1, 1), put(1, 20, 25, 0, "v2", 2, 2), deleted, put(1, 40, 45, 1, "v4", 4, 1)}}
			h.Operations[3].Group = 8
			shard := h.Operations[0].Shard
			second := Watched{Revision: 2, Key: key(0, 0), Value: "v2", Version: 2, Before: Cell{Value: "v1", Version: 1, Revision: 1}}
			third := Watched{Revision: 3, Key: key(0, 0), Deleted: true, Before: Cell{Value: "v2", Version: 2, Revision: 2}}
			all := &Watch{Name: "all", All: true, Initial: true, Before: true, Covers: func(string) bool { return true }, Shards: []*WatchedShard{{Shard: shard, Complete: 4, Seen: []Watched{
				{Revision: 1, Key: key(0, 0), Value: "v1", Version: 1}, second, third, {Revision: 4, Key: key(8, 1), Value: "v4", Version: 1},
			}}}}
			group := &Watch{Name: "group", Covers: func(k string) bool { return strings.HasPrefix(k, "{g0}") }, Shards: []*WatchedShard{{
				Shard: shard, From: 1, Complete: 4, Seen: []Watched{second, third},
			}}}
			c.change(all, group)
			expect(t, CheckWatches(h, []*Watch{all, group}, nil), c.want)
		})
	}
}
