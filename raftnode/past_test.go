package raftnode_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// past reads keys at revisions.
func (c *cluster) past(id placement.NodeID, reads ...*peerv1.PastRead) ([]*peerv1.KeyRecord, error) {
	res := c.do(id, &raftnode.Request{Read: &peerv1.ReadRequest{Past: reads}})
	return res.Read.GetRecords(), res.Err
}

// Every node shows a key as a revision has left it, also one that has not heard of that revision yet.
func TestPastReads(t *testing.T) {
	c := newCluster(t, 3, nil)
	var revisions []uint64
	for i := range 20 {
		w, err := c.put(placement.NodeID(fmt.Sprintf("n%d", 1+i%3)), "a", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, w.GetRevision())
		for _, m := range c.members {
			got, err := c.past(m.ID, &peerv1.PastRead{Key: "a", Revision: w.GetRevision()}, &peerv1.PastRead{Key: "a", Revision: revisions[0] - 1})
			if err != nil || string(got[0].GetRecord().GetValue()) != fmt.Sprint(i) || got[1].GetRecord() != nil {
				t.Fatalf("node %s, revision %d: %v, %v", m.ID, w.GetRevision(), got, err)
			}
		}
	}
	got, err := c.past("n2", &peerv1.PastRead{Key: "a", Revision: revisions[3]}, &peerv1.PastRead{Key: "b", Revision: revisions[3]})
	if err != nil || string(got[0].GetRecord().GetValue()) != "3" || got[1].GetRecord() != nil {
		t.Errorf("an old revision: %v, %v", got, err)
	}
	var future *raftnode.FutureRevisionError
	if _, err := c.past("n3", &peerv1.PastRead{Key: "a", Revision: revisions[19] + 7}); !errors.As(err, &future) || future.Current != revisions[19] {
		t.Errorf("a revision of the future: %v", err)
	}
}

// pages reads a whole range through a node, and says how many pages it took.
func (c *cluster) pages(id placement.NodeID, r *peerv1.RangeRead) (found []string, n int, err error) {
	for {
		page, err := c.nodes[id].Page(c.t.Context(), r, nil)
		if err != nil {
			return found, n, err
		}
		if len(page.Records) > int(r.GetMaxItems()) || page.More != (page.Behind != "") ||
			page.Origin.GetRevision() != r.GetRevision() || page.Shard != raftnode.DataShard {
			c.t.Fatalf("%v: page of shard %d, revision %d: %v, more %t behind %q", r, page.Shard, page.Origin.GetRevision(), page.Records, page.More, page.Behind)
		}
		for _, k := range page.Records {
			found = append(found, k.GetKey()+"="+string(k.GetRecord().GetValue()))
		}
		if n++; !page.More {
			return found, n, nil
		}
		if r.GetReverse() {
			r.End = page.Behind
		} else {
			r.Start = raftnode.NextKey(page.Behind)
		}
	}
}

// Every node shows a range as a revision has left it, on all pages, whatever is written in between.
func TestPagesOfThePast(t *testing.T) {
	c := newCluster(t, 3, nil)
	var want []string
	var at uint64
	for i := range 20 {
		w, err := c.put("n1", fmt.Sprintf("k%02d", i), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		want, at = append(want, fmt.Sprintf("k%02d=%d", i, i)), w.GetRevision()
	}
	var last uint64
	for i := range 30 {
		w, err := c.put("n2", fmt.Sprintf("k%02d", i), "later")
		if err != nil {
			t.Fatal(err)
		}
		last = w.GetRevision()
	}
	for i, m := range c.members {
		r := &peerv1.RangeRead{Revision: at, MaxItems: uint32(3 + i), Reverse: i == 1}
		got, n, err := c.pages(m.ID, r)
		if r.GetReverse() {
			slices.Reverse(got)
		}
		if err != nil || n < 20/(3+i) || !slices.Equal(got, want) {
			t.Errorf("through %s: %d pages of %v, %v", m.ID, n, got, err)
		}
	}
	var future *raftnode.FutureRevisionError
	if _, _, err := c.pages("n3", &peerv1.RangeRead{Revision: last + 1, MaxItems: 1}); !errors.As(err, &future) || future.Current != last {
		t.Errorf("a revision of the future: %v", err)
	}
}

// Revisions are of one shard each, so a range at one has keys of one shard.
func TestPagesOfThePastAreOfOneShard(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) { o.Shards = 4 })
	n := c.nodes["n1"]
	for _, k := range []string{"a", "{t}a", "{t}b", "{u}a"} {
		if _, err := c.put("n1", k, "v"); err != nil {
			t.Fatal(err)
		}
	}
	at := n.Do(t.Context(), &raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"{t}a"}}}).Origin.GetRevision()
	for _, r := range []*peerv1.RangeRead{{}, {Start: "{t", End: "{u"}, {Start: "{t}", End: "{u"}, {Start: "{t}a"}} {
		r.Revision = at
		var cross *raftnode.CrossShardError
		if _, err := n.Page(t.Context(), r, nil); !errors.As(err, &cross) || len(cross.Groups) != 4 || cross.Groups[3].Shard != 4 || cross.Revision != at {
			t.Errorf("%v: %v", r, err)
		}
	}
	for _, r := range []*peerv1.RangeRead{{Start: "{t}", End: raftnode.PrefixEnd("{t}")}, {Start: "{t}a", End: "{t}c"}} {
		r.Revision = at
		page, err := n.Page(t.Context(), r, nil)
		if err != nil || len(page.Records) != 2 || page.Shard != n.Locate("{t}").Shard || page.Origin.GetRevision() != at {
			t.Errorf("%v: %v, %v", r, page, err)
		}
	}
}

func TestPastIsForgotten(t *testing.T) {
	c := newCluster(t, 3, func(o *raftnode.Options) { o.HistoryBytes = 1 << 10; small(o) })
	var last uint64
	waitFor(t, "the history to be trimmed", func() bool {
		w, err := c.put("n1", "a", strings.Repeat("v", 500))
		if err != nil {
			t.Fatal(err)
		}
		last = w.GetRevision()
		var compacted *raftnode.CompactedError
		_, err = c.past("n2", &peerv1.PastRead{Key: "a", Revision: 1})
		if err != nil && (!errors.As(err, &compacted) || compacted.Oldest < 2 || compacted.Revision != 1) {
			t.Fatalf("revision 1: %v", err)
		}
		_, pageErr := c.nodes["n2"].Page(t.Context(), &peerv1.RangeRead{Revision: 1}, nil)
		if err != nil && (!errors.As(pageErr, &compacted) || compacted.Oldest < 2 || compacted.Revision != 1) {
			t.Fatalf("a page at revision 1: %v", pageErr)
		}
		return err != nil
	})
	if _, err := c.past("n3", &peerv1.PastRead{Key: "a", Revision: last}); err != nil {
		t.Errorf("the last revision: %v", err)
	}
}

// A write shows what it has found and what it has read, through any node, and a retry shows the same.
func TestReadAfterWrite(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, kv := range [][2]string{{"a", "1"}, {"big", strings.Repeat("x", 1<<20)}, {"big2", strings.Repeat("y", 1<<20)}} {
		if _, err := c.put("n1", kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	write := func(sequence uint64) *raftnode.Request {
		return &raftnode.Request{
			Command: &storev1.Command{
				RequestId: &storev1.RequestId{ClientId: []byte("0123456789abcdef"), Sequence: sequence, Seen: 3},
				Body: &storev1.Command_Write{Write: &storev1.Write{
					Compares:   []*storev1.Compare{{Key: "a", Condition: &storev1.Compare_Value{Value: []byte("1")}}},
					Operations: []*storev1.Operation{{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "a", Value: []byte("2")}},
					Otherwise:  []*storev1.Operation{{Kind: storev1.OperationKind_OPERATION_KIND_GET, Key: "a"}},
				}},
			},
			After: func(w *storev1.WriteResult) []*peerv1.PastRead {
				if w.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED {
					return []*peerv1.PastRead{{Key: "a", Revision: w.GetRevision()}}
				}
				return []*peerv1.PastRead{{Key: "a", Revision: w.GetRevision() - 1}, {Key: "a", Revision: w.GetRevision()}}
			},
		}
	}
	for _, m := range c.members {
		for i, want := range [][]string{{"1", "2"}, {"2"}} {
			sequence := uint64(i + 1)
			res := c.do(m.ID, write(sequence))
			if res.Err != nil || len(res.Read.GetRecords()) != len(want) {
				t.Fatalf("through %s: %+v", m.ID, res)
			}
			for i, k := range res.Read.GetRecords() {
				if string(k.GetRecord().GetValue()) != want[i] {
					t.Errorf("through %s, sequence %d: %v, want %q", m.ID, sequence, res.Read, want)
				}
			}
			if sequence == 1 {
				continue
			}
			if _, err := c.put(m.ID, "a", "later"); err != nil { // A retry does not see it.
				t.Fatal(err)
			}
		}
	}
	many := &peerv1.ReadRequest{}
	for range 5 {
		many.Past = append(many.Past, &peerv1.PastRead{Key: "big", Revision: 3})
	}
	res := c.do("n2", &raftnode.Request{Read: many})
	if r := res.Read.GetRecords(); res.Err != nil || len(r) != 5 || r[3].GetOmitted() || len(r[3].GetRecord().GetValue()) != 1<<20 ||
		!r[4].GetOmitted() || r[4].GetRecord().GetValue() != nil || r[4].GetRecord().GetModRevision() != 2 {
		t.Errorf("more values than an answer takes: %v", res.Err)
	}
}

// A write whose retry comes when history is forgotten is told to be applied, without what it was to show.
func TestReadAfterIsForgotten(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) { o.HistoryBytes = 1 << 10; small(o) })
	write := func() raftnode.Result {
		return c.do("n1", &raftnode.Request{
			Command: &storev1.Command{
				RequestId: &storev1.RequestId{ClientId: []byte("0123456789abcdef"), Sequence: 1},
				Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{
					{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "a", Value: []byte("1")},
				}}},
			},
			After: func(w *storev1.WriteResult) []*peerv1.PastRead {
				return []*peerv1.PastRead{{Key: "a", Revision: w.GetRevision()}}
			},
		})
	}
	if res := write(); res.Err != nil || string(res.Read.GetRecords()[0].GetRecord().GetValue()) != "1" {
		t.Fatalf("%+v", res)
	}
	waitFor(t, "the history to be trimmed", func() bool {
		if _, err := c.put("n1", "a", strings.Repeat("v", 500)); err != nil {
			t.Fatal(err)
		}
		res := write()
		if res.Err != nil || res.Write.GetRevision() != 1 {
			t.Fatalf("a retry: %+v", res)
		}
		return res.Read.GetRecords()[0].GetOmitted()
	})
}

// What is applied is never told as if it were not: if what a write was to show is forgotten, its outcome is unknown to the requester.
func TestReadAfterFails(t *testing.T) {
	c := newCluster(t, 1, nil)
	for kind, definite := range map[storev1.OperationKind]bool{
		storev1.OperationKind_OPERATION_KIND_PUT: false, storev1.OperationKind_OPERATION_KIND_GET: true,
	} {
		res := c.do("n1", &raftnode.Request{
			Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{{Kind: kind, Key: "a"}}}}},
			After: func(w *storev1.WriteResult) []*peerv1.PastRead {
				return []*peerv1.PastRead{{Key: "a", Revision: w.GetRevision() + 9}}
			},
		})
		var unknown *raftnode.UnknownOutcomeError
		if errors.As(res.Err, &unknown) == definite || res.Err == nil {
			t.Errorf("%s: %v", kind, res.Err)
		}
	}
}

// A value that fills the answer alone, and a key that does not exist behind it.
func TestPastReadsOfLargeValues(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) { o.Limits.ValueBytes, o.Limits.CommandBytes = 5<<20, 6<<20 })
	if _, err := c.put("n1", "large", strings.Repeat("v", 5<<20)); err != nil {
		t.Fatal(err)
	}
	got, err := c.past("n1", &peerv1.PastRead{Key: "large", Revision: 1}, &peerv1.PastRead{Key: "none", Revision: 1}, &peerv1.PastRead{Key: "large", Revision: 1})
	if err != nil || len(got[0].GetRecord().GetValue()) != 5<<20 || got[1].GetRecord() != nil || got[1].GetOmitted() || !got[2].GetOmitted() {
		t.Errorf("%d records, %v", len(got), err)
	}
}
