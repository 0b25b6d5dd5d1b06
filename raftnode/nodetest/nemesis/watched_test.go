package main

import (
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// The responses of a watch of group 4, in shard 2, which was at revision 5 when it began: key a is there, revision 6 replaces it, and 7, which comes in two
// parts, deletes it and makes key b. Revision 8 is of another group.
func responses() []*raftkvv1.WatchResponse {
	fresh := new(uint64(0))
	header := func(revision uint64) *raftkvv1.ResponseHeader {
		return &raftkvv1.ResponseHeader{Shard: 2, Revision: revision}
	}
	progress := func(revision uint64) []*raftkvv1.WatchProgress {
		return []*raftkvv1.WatchProgress{{Shard: 2, Revision: revision, FreshnessMs: fresh}}
	}
	kv := func(k int, value string, revision, version uint64) *raftkvv1.KeyValue {
		return &raftkvv1.KeyValue{Key: keyName(4, k), Value: encode(value), ModRevision: revision, Version: version}
	}
	put := func(kv, prev *raftkvv1.KeyValue, initial bool) *raftkvv1.Event {
		return &raftkvv1.Event{Type: raftkvv1.EventType_EVENT_TYPE_PUT, Kv: kv, PrevKv: prev, Shard: 2, Revision: kv.GetModRevision(), Initial: initial}
	}
	first, second := kv(0, "v1-0", 5, 1), kv(0, "v2-200", 6, 2)
	gone := &raftkvv1.Event{
		Type: raftkvv1.EventType_EVENT_TYPE_DELETE, Kv: &raftkvv1.KeyValue{Key: keyName(4, 0), ModRevision: 7}, PrevKv: second, Shard: 2, Revision: 7,
	}
	return []*raftkvv1.WatchResponse{
		{Created: true, Progress: progress(5), Token: "t0"},
		{Header: header(5), Events: []*raftkvv1.Event{put(first, nil, true)}, InitialDone: true, Token: "t1"},
		{Header: header(6), Events: []*raftkvv1.Event{put(second, first, false)}, Token: "t2"},
		{Header: header(6), Events: []*raftkvv1.Event{gone}, MoreOfRevision: true, Token: "t3"},
		{Header: header(7), Events: []*raftkvv1.Event{put(kv(1, "v3-0", 7, 1), nil, false)}, Token: "t4"},
		{Progress: progress(8), Token: "t5"},
	}
}

func watchOfGroup() *watched {
	return &watched{
		request: &raftkvv1.WatchRequest{Prefix: groupPrefix(4), IncludeInitial: true, PrevKv: true},
		Watch:   nodetest.Watch{Name: "w", Initial: true, Before: true, Covers: func(key string) bool { return key[:4] == groupPrefix(4) }},
	}
}

// historyOf are the acknowledged writes that the responses tell of, and reads of how it ends.
func historyOf() (h *nodetest.History, finals []*nodetest.Operation) {
	h = &nodetest.History{}
	for i, w := range []*nodetest.Operation{
		{Changes: []nodetest.Change{{Key: 0, Value: "v1-0"}}, Cells: []nodetest.Cell{{Version: 1}}},
		{Changes: []nodetest.Change{{Key: 0, Value: "v2-200"}}, Cells: []nodetest.Cell{{Version: 2, Existed: true}}},
		{Changes: []nodetest.Change{{Key: 0, Delete: true}, {Key: 1, Value: "v3-0"}}, Cells: []nodetest.Cell{{Existed: true}, {Version: 1}}},
		{Group: 5, Changes: []nodetest.Change{{Key: 2, Value: "v4-0"}}, Cells: []nodetest.Cell{{Version: 1}}},
	} {
		at := time.Duration(i) * time.Second
		w.Kind, w.Shard, w.Outcome, w.Revision, w.Call, w.Return = nodetest.Write, 2, nodetest.Done, uint64(5+i), at, at+time.Millisecond //nolint:gosec // small
		if w.Group == 0 {
			w.Group = 4
		}
		h.Operations = append(h.Operations, w)
	}
	return h, []*nodetest.Operation{{Group: 4, Shard: 2, Origin: 8, Kind: nodetest.Read, Cells: []nodetest.Cell{{}, {Value: "v3-0", Version: 1}, {}}}}
}

// verdict takes responses, and says whether anything is wrong with them or with what they come to.
func (w *watched) verdict(all []*raftkvv1.WatchResponse) (wrong []error) {
	for _, res := range all {
		if err := w.take(res); err != nil {
			return append(wrong, err)
		}
	}
	h, finals := historyOf()
	w.date(beginningsOf(h))
	watches := []*nodetest.Watch{&w.Watch}
	for _, err := range []error{nodetest.CheckWatches(h, watches, nil), nodetest.CheckWatchedKeys(watches, finals)} {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	return wrong
}

// A response that is wrong does not pass, nor one that is missing, comes twice or at another place.
func TestWrongWatches(t *testing.T) {
	for name, wrong := range map[string]func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse{
		"no beginning":                   func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return r[1:] },
		"two beginnings":                 func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:1:1], r...) },
		"a key of the start left out":    func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:1], r[2:]...) },
		"an event left out":              func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:2], r[3:]...) },
		"half of a revision left out":    func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:3], r[4:]...) },
		"the other half left out":        func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:4], r[5:]...) },
		"an event twice":                 func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:3:3], r[2:]...) },
		"another order":                  func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { r[2], r[4] = r[4], r[2]; return r },
		"an event of the start too late": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:3:3], r[1]) },
		"a split without a mark": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[3].MoreOfRevision, r[3].Header.Revision = false, 7
			return r
		},
		"complete too soon": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { return append(r[:2:2], r[5]) },
		"back again":        func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { r[5].Progress[0].Revision = 6; return r },
		"another value": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[2].Events[0].Kv.Value = encode("v9-0")
			return r
		},
		"half a value": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[2].Events[0].Kv.Value = encode("v2-200")[:50]
			return r
		},
		"another version": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { r[2].Events[0].Kv.Version = 3; return r },
		"another revision": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[2].Events[0].Kv.ModRevision = 5
			return r
		},
		"no put but a delete": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[2].Events[0].Type = raftkvv1.EventType_EVENT_TYPE_DELETE
			return r
		},
		"replaced another value": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[2].Events[0].PrevKv = &raftkvv1.KeyValue{Key: keyName(4, 0), Value: encode("v9-0"), ModRevision: 5, Version: 1}
			return r
		},
		"replaced nothing": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { r[2].Events[0].PrevKv = nil; return r },
		"a key of others": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse {
			r[2].Events[0].Kv.Key = keyName(5, 0)
			return r
		},
		"another shard": func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { r[2].Header.Shard = 3; return r },
		"no token":      func(r []*raftkvv1.WatchResponse) []*raftkvv1.WatchResponse { r[2].Token = ""; return r },
	} {
		t.Run(name, func(t *testing.T) {
			w := watchOfGroup()
			w.begin(0)
			if found := w.verdict(wrong(responses())); len(found) == 0 {
				t.Error("nobody notices")
			}
		})
	}
}

// Wherever a stream breaks, and whatever of its last responses was lost, the watch goes on by a token and comes to the same.
func TestWatchGoesOn(t *testing.T) {
	for broken := range responses() {
		for _, lost := range []bool{false, true} {
			all, w := responses(), watchOfGroup()
			w.begin(0)
			for _, res := range all[:broken+1] {
				if err := w.take(res); err != nil {
					t.Fatal(err)
				}
			}
			w.retreat(lost)
			request := w.begin(time.Second)
			at := broken
			if lost {
				at = max(at-1, 0)
			}
			if want := all[at].GetToken(); request.GetToken() != want {
				t.Fatalf("broken behind %d, lost %t: it goes on by %q, want %q", broken, lost, request.GetToken(), want)
			}
			// What follows behind t3 is the whole of revision 7 again.
			rest := all[at+1:]
			if at == 3 {
				rest = all[3:]
			}
			where := map[int]uint64{0: 5, 1: 5, 2: 6, 3: 6, 4: 7, 5: 8}[at]
			again := []*raftkvv1.WatchResponse{{Created: true, Progress: []*raftkvv1.WatchProgress{{Shard: 2, Revision: where}}, Token: all[at].GetToken()}}
			if wrong := w.verdict(append(again, rest...)); len(wrong) > 0 {
				t.Errorf("broken behind %d, lost %t: %v", broken, lost, wrong)
			}
			if !w.complete(map[placement.ShardID]uint64{2: 8}) || w.complete(map[placement.ShardID]uint64{2: 9}) {
				t.Errorf("it is complete to %d", w.Shards[0].Complete)
			}
		}
	}
}

// A watch whose history is gone begins anew.
func TestWatchBeginsAnew(t *testing.T) {
	w := watchOfGroup()
	w.begin(0)
	for _, res := range responses() {
		if err := w.take(res); err != nil {
			t.Fatal(err)
		}
	}
	w.anew()
	if r := w.begin(0); r.GetToken() != "" || w.complete(nil) {
		t.Errorf("it goes on by %q", r.GetToken())
	}
	if wrong := w.verdict(responses()); len(wrong) > 0 {
		t.Error(wrong)
	}
}

// A watch that says to be fresh at revision 7 of shard 2, in a response that was made after revision 8 was acknowledged, is not: it speaks of a later write of
// another shard.
func TestFresherThanItIs(t *testing.T) {
	for shown, fine := range map[uint64]bool{2: true, 3: false} {
		h, _ := historyOf()
		h.Operations = append(h.Operations, &nodetest.Operation{
			Group: 6, Kind: nodetest.Write, Shard: 1, Outcome: nodetest.Done, Revision: 3, Call: time.Minute, Return: time.Minute,
			Changes: []nodetest.Change{{Value: "v8-0"}}, Cells: make([]nodetest.Cell, 1),
		})
		w := watchOfGroup()
		w.marks = []freshness{{opened: time.Second, at: []*raftkvv1.WatchProgress{
			{Shard: 1, Revision: shown, FreshnessMs: new(uint64(100))}, {Shard: 2, Revision: 7, FreshnessMs: new(uint64(100))},
		}}}
		w.date(beginningsOf(h))
		if err := nodetest.CheckWatches(h, []*nodetest.Watch{&w.Watch}, nil); (err == nil) != fine {
			t.Errorf("shard 1 at revision %d: %v", shown, err)
		}
	}
}

func TestBeginnings(t *testing.T) {
	h, _ := historyOf()
	h.Operations[3].Call = 0 // Its request was long on its way.
	b := beginningsOf(h)[2]
	for revision, want := range map[uint64]time.Duration{4: 0, 5: 0, 6: time.Second, 7: 2 * time.Second, 8: 2 * time.Second, 100: 2 * time.Second} {
		if got := b.until(revision); got != want {
			t.Errorf("up to revision %d: %s, want %s", revision, got, want)
		}
	}
}
