package nodetest

import (
	"strings"
	"testing"
)

// of names the revision of the state that an answer shows.
func of(op *Operation, revision uint64) *Operation {
	op.Origin = revision
	return op
}

// conditional makes a write one with a condition.
func conditional(op *Operation, key int, value string) *Operation {
	op.Condition, op.Attempts = &Condition{Key: key, Value: value}, 1
	return op
}

func TestCheckReplay(t *testing.T) {
	a, b := func() *Operation { return of(put(1, 0, 1, 0, "a", 1, 1), 1) }, func() *Operation { return of(put(1, 2, 3, 0, "b", 2, 2), 2) }
	removed := func() *Operation {
		return &Operation{
			Client: 1, Kind: Write, Changes: []Change{{Key: 0, Delete: true}}, Outcome: Done, Shard: 1, Revision: 2, Origin: 2, Cells: []Cell{{Existed: true}},
		}
	}
	failed := func(value string, current uint64) *Operation {
		op := conditional(of(put(1, 2, 3, 1, "x", 0, 0), 1), 0, value)
		op.Outcome, op.Cells, op.Current = CompareFailed, nil, current
		return op
	}
	other := of(put(1, 4, 5, 1, "c", 4, 1), 4) // revision 3 is of nobody
	for name, c := range map[string]struct {
		ops  []*Operation
		says string
	}{
		"the newest":                   {ops: []*Operation{a(), b(), of(read(2, 4, 5, 0, "b", 2, 2), 2)}},
		"an older one at its revision": {ops: []*Operation{a(), b(), of(read(2, 4, 5, 0, "a", 1, 1), 1)}},
		"an older one later":           {ops: []*Operation{a(), b(), of(read(2, 4, 5, 0, "a", 1, 1), 2)}, says: "all that came after it is known"},
		"of the future":                {ops: []*Operation{a(), b(), of(read(2, 4, 5, 0, "b", 2, 2), 1)}, says: "which is later"},
		"another version":              {ops: []*Operation{a(), b(), of(read(2, 4, 5, 0, "b", 2, 3), 2)}, says: "all that came after it is known"},
		"nothing":                      {ops: []*Operation{a(), of(read(2, 4, 5, 0, "", 0, 0), 1)}, says: "all that came after it is known"},
		"removed":                      {ops: []*Operation{a(), removed(), of(read(2, 4, 5, 0, "", 0, 0), 2)}},
		"removed and there":            {ops: []*Operation{a(), removed(), of(read(2, 4, 5, 0, "a", 1, 1), 2)}, says: "all that came after it is known"},
		"of unknown outcome":           {ops: []*Operation{a(), b(), other, lost(3, 4, 0, "u"), of(read(2, 4, 5, 0, "u", 3, 3), 3)}},
		"of nobody":                    {ops: []*Operation{a(), b(), other, of(read(2, 4, 5, 0, "u", 3, 3), 3)}, says: "no write of unknown outcome"},
		"unknown at a known revision":  {ops: []*Operation{a(), b(), other, lost(3, 4, 0, "u"), of(read(2, 4, 5, 0, "u", 4, 3), 4)}, says: "no write of unknown outcome"},
		"a write that skips a version": {ops: []*Operation{a(), of(put(1, 2, 3, 0, "b", 2, 3), 2)}, says: "makes version 3"},
		"a condition that held":        {ops: []*Operation{a(), conditional(b(), 0, "a")}},
		"a condition that did not":     {ops: []*Operation{a(), conditional(b(), 0, "x")}, says: "is done, but"},
		"failed with reason":           {ops: []*Operation{a(), failed("x", 1)}},
		"failed because of another":    {ops: []*Operation{a(), failed("x", 2)}, says: "because of revision 2, at revision 1, where the key is at revision 1"},
		"failed without reason":        {ops: []*Operation{a(), failed("a", 1)}, says: "where the condition holds"},
	} {
		err := CheckReplay(&History{Operations: c.ops})
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v, want something with %q", name, err, c.says)
		}
	}
}

// Between revisions that are known to have changed no key of a group, what a key is is known exactly.
func TestReplayKnowsWhatIsElsewhere(t *testing.T) {
	// The read shows what a write of unknown outcome could have made, if revision 2 was its.
	seen := read(2, 30, 40, 0, "v2", 2, 2)
	seen.Origin = 2
	h := &History{Operations: []*Operation{put(1, 10, 20, 0, "v1", 1, 1), lost(1, 21, 0, "v2"), seen}}
	expect(t, CheckReplay(h), "")
	of := func(keys ...string) []*Watch {
		w := &Watch{All: true, Shards: []*WatchedShard{{Shard: 1, From: 1, Complete: 2}}}
		for _, k := range keys {
			w.Shards[0].Seen = append(w.Shards[0].Seen, Watched{Revision: 2, Key: k, Version: 1})
		}
		return []*Watch{w}
	}
	h.Elsewhere = Elsewhere(of("mortal-1", key(0, 0)))
	expect(t, CheckReplay(h), "")
	h.Elsewhere = Elsewhere(of("mortal-1", "mortal-2"))
	expect(t, CheckReplay(h), "all that came after it is known")
}
