package main

import (
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// conditional is a put of key a that writes key a if it has a value, and key b otherwise, asks for what was there, and reads key c.
func conditional() *draft {
	return &draft{txn: true, previous: true, glimpse: []int{2}, op: &nodetest.Operation{
		Client: 1, Group: 4, Shard: 2, Kind: nodetest.Write, Call: 3 * time.Second, Attempts: 1,
		Condition: &nodetest.Condition{Key: 0, Value: "v1-200"},
		Changes:   []nodetest.Change{{Key: 0, Value: "v2-0"}}, Otherwise: []nodetest.Change{{Key: 1, Value: "v3-0"}},
	}}
}

// A wrong answer to a transaction does not pass: it does not have the form, or does not fit what else was seen.
func TestWrongTransactions(t *testing.T) {
	for name, test := range map[string]struct {
		wrong  func(*raftkvv1.TxnResponse)
		failed bool
		clean  bool
	}{
		"right": {wrong: func(*raftkvv1.TxnResponse) {}, clean: true},
		"values forgotten": {wrong: func(r *raftkvv1.TxnResponse) {
			r.ValuesOmitted, r.Results[0].GetPut().PrevKv = true, &raftkvv1.KeyValue{}
		}, clean: true},
		"the other branch":           {wrong: func(*raftkvv1.TxnResponse) {}, failed: true},
		"no branch":                  {wrong: func(r *raftkvv1.TxnResponse) { r.Succeeded = false }},
		"both branches":              {wrong: func(r *raftkvv1.TxnResponse) { r.Failed = &raftkvv1.FailedCompare{} }},
		"a result too few":           {wrong: func(r *raftkvv1.TxnResponse) { r.Results = r.Results[:1] }},
		"results in another order":   {wrong: func(r *raftkvv1.TxnResponse) { r.Results[0], r.Results[1] = r.Results[1], r.Results[0] }},
		"another version":            {wrong: func(r *raftkvv1.TxnResponse) { r.Results[0].GetPut().Version = 2 }},
		"it has found another value": {wrong: func(r *raftkvv1.TxnResponse) { r.Results[0].GetPut().PrevKv.Value = encode("v9-0") }},
		"it has found a later one":   {wrong: func(r *raftkvv1.TxnResponse) { r.Results[0].GetPut().PrevKv.ModRevision = 8 }},
		"what it has found is away":  {wrong: func(r *raftkvv1.TxnResponse) { r.Results[0].GetPut().PrevKv = nil }},
		"a broken value":             {wrong: func(r *raftkvv1.TxnResponse) { r.Results[0].GetPut().PrevKv.Value = encode("v1-200")[:9] }},
		"it has read another value":  {wrong: func(r *raftkvv1.TxnResponse) { r.Results[1].GetGet().Kv.Value = encode("v9-0") }},
		"it has read nothing":        {wrong: func(r *raftkvv1.TxnResponse) { r.Results[1].GetGet().Kv = nil }},
		"another revision":           {wrong: func(r *raftkvv1.TxnResponse) { r.Header.Revision = 5 }},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{load: &load{rec: newRecorder()}}
			rec := c.load.rec
			seed := func(op *nodetest.Operation) {
				op.Group, op.Shard, op.Attempts, op.Outcome, op.Return = 4, 2, 1, nodetest.Done, op.Call+time.Second
				rec.history.Operations = append(rec.history.Operations, op)
			}
			// All three keys were written twice; revision 5 wrote their versions 2, and the next is 6.
			for revision := range uint64(2) {
				w := &nodetest.Operation{Kind: nodetest.Write, Call: time.Duration(revision) * time.Second, Revision: 4 + revision, Origin: 4 + revision}
				for k := range nodetest.GroupKeys {
					value := []string{"v0-0", "v1-200"}[revision]
					w.Changes = append(w.Changes, nodetest.Change{Key: k, Value: value})
					w.Cells = append(w.Cells, nodetest.Cell{Value: value, Version: 1 + revision, Existed: revision > 0})
				}
				seed(w)
			}
			d := conditional()
			ask := d.call(nil)
			var failed *raftkvv1.FailedCompare
			if test.failed {
				failed = &raftkvv1.FailedCompare{Current: 5}
			}
			answer := answerTo(ask, &raftkvv1.ResponseHeader{Shard: 2, Revision: 6}, failed)
			test.wrong(answer.txn)
			rec.began = rec.began.Add(-4 * time.Second)
			c.took(d.op, answer.take(d.op, ask))
			c.glimpsed(d.op, answer, ask)
			h := rec.history
			found := len(rec.broken()) > 0
			for _, err := range []error{nodetest.CheckReplay(h), nodetest.CheckRevisions(h), nodetest.CheckLinearizable(h, time.Minute), nodetest.CheckRefused(h)} {
				found = found || err != nil
			}
			if found == test.clean {
				t.Errorf("found: %t: %v", found, rec.broken())
			}
		})
	}
}

// What a transaction has not done is never to be seen, whichever branch it has taken.
func TestBranchNotTaken(t *testing.T) {
	for _, outcome := range []nodetest.Outcome{nodetest.Done, nodetest.CompareFailed} {
		r, op := newRecorder(), conditional().op
		op.Cells = make([]nodetest.Cell, 1)
		r.finish(op, outcome)
		_, left := op.Branches()
		r.finish(&nodetest.Operation{Kind: nodetest.Read, Group: 4, From: left[0].Key, Cells: []nodetest.Cell{{Value: left[0].Value, Version: 1}}}, nodetest.Done)
		if err := nodetest.CheckRefused(r.history); err == nil {
			t.Errorf("outcome %d: what was not done is seen, and nobody says so", outcome)
		}
	}
}
