package main

import (
	"math/rand/v2"
	"strings"
	"testing"

	"connectrpc.com/connect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// written7 is a put that has made version 2 of its key, at revision 7.
func written7(c *client, n naming) *writing {
	op := &nodetest.Operation{Client: 1, Group: 4, Kind: nodetest.Write, Changes: []nodetest.Change{{Key: 0, Value: "v2-0"}}, Attempts: 1}
	w := c.name(&draft{op: op}, n)
	op.Outcome, op.Origin, op.Revision, op.Cells = nodetest.Done, 7, 7, []nodetest.Cell{{Value: "v2-0", Version: 2, Existed: true}}
	return w
}

func clientOf(t *testing.T, l *liar) *client {
	return &client{load: loadOn(t, l), random: rand.New(rand.NewPCG(1, 1))} //nolint:gosec // not secret
}

// All answers to a write are one answer.
func TestTwoAnswers(t *testing.T) {
	put := func(revision, version uint64) answer {
		return answer{r: &result{put: &raftkvv1.PutResponse{Header: &raftkvv1.ResponseHeader{Revision: revision}, Version: version}}}
	}
	fails := func(code connect.Code, f failure) answer {
		f.err, f.code = ending(t, code, &raftkvv1.NotLeader{}), code
		return answer{f: &f}
	}
	for name, test := range map[string]struct {
		a             answer
		wrong, fenced bool
		told          tally
	}{
		"the same":               {a: put(7, 2), told: tally{repeated: 1}},
		"another revision":       {a: put(8, 2), wrong: true},
		"another version":        {a: put(7, 3), wrong: true},
		"another shard":          {a: answer{r: &result{put: &raftkvv1.PutResponse{Header: &raftkvv1.ResponseHeader{Shard: 1, Revision: 7}, Version: 2}}}, wrong: true},
		"not executed":           {a: fails(connect.CodeUnavailable, failure{definite: true})},
		"unknown":                {a: fails(connect.CodeUnknown, failure{})},
		"its condition failed":   {a: fails(connect.CodeFailedPrecondition, failure{unmet: &raftkvv1.PreconditionFailed{Key: keyName(4, 0)}}), wrong: true},
		"fenced":                 {a: fails(connect.CodeFailedPrecondition, failure{fenced: true, definite: true}), wrong: true},
		"forgotten":              {a: fails(connect.CodeFailedPrecondition, failure{expired: true, definite: true}), wrong: true},
		"taken for another":      {a: fails(connect.CodeFailedPrecondition, failure{reused: true, definite: true}), wrong: true},
		"not applied":            {a: fails(connect.CodeFailedPrecondition, failure{fenced: true, definite: true}), fenced: true, told: tally{late: 1}},
		"not applied, forgotten": {a: fails(connect.CodeFailedPrecondition, failure{expired: true, definite: true}), fenced: true, told: tally{late: 1}},
		"applied all the same":   {a: put(7, 2), fenced: true, wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOf(t, &liar{})
			w := written7(c, byID)
			w.fenced = test.fenced
			c.compare(w, test.a, func(t *tally) { t.repeated++ })
			if got := len(c.load.rec.broken()) > 0; got != test.wrong || c.load.rec.tally != test.told {
				t.Errorf("wrong: %t, %+v", got, c.load.rec.tally)
			}
		})
	}
}

// What a client is told came of its write counts as the answer, if it is one to the write.
func TestOutcomes(t *testing.T) {
	right := func() *raftkvv1.GetOutcomeResponse {
		return &raftkvv1.GetOutcomeResponse{
			Header: &raftkvv1.ResponseHeader{Revision: 7}, Outcome: raftkvv1.Outcome_OUTCOME_APPLIED, Revision: 7,
			Results: []*raftkvv1.OutcomeResult{{Existed: true, Version: 2}},
		}
	}
	for name, test := range map[string]struct {
		is    func(*raftkvv1.GetOutcomeResponse)
		later func(*raftkvv1.GetOutcomeResponse)
		wrong bool
		told  tally
	}{
		"applied": {told: tally{found: 1}},
		"not applied": {is: func(o *raftkvv1.GetOutcomeResponse) {
			o.Outcome, o.Results = raftkvv1.Outcome_OUTCOME_NOT_APPLIED, nil
		}, told: tally{fenced: 1}},
		"a condition that it has not": {is: func(o *raftkvv1.GetOutcomeResponse) {
			o.Outcome, o.Failed = raftkvv1.Outcome_OUTCOME_CONDITION_FAILED, &raftkvv1.FailedCompare{}
		}, wrong: true, told: tally{found: 1}},
		"forgotten":          {is: func(o *raftkvv1.GetOutcomeResponse) { o.Outcome = raftkvv1.Outcome_OUTCOME_FORGOTTEN }, wrong: true},
		"no results":         {is: func(o *raftkvv1.GetOutcomeResponse) { o.Results = nil }, wrong: true, told: tally{found: 1}},
		"it has found none":  {is: func(o *raftkvv1.GetOutcomeResponse) { o.Results[0].Existed = false }, wrong: true, told: tally{found: 1}},
		"another shard":      {is: func(o *raftkvv1.GetOutcomeResponse) { o.Header.Shard = 1 }, wrong: true, told: tally{found: 1}},
		"two revisions":      {is: func(o *raftkvv1.GetOutcomeResponse) { o.Revision = 6 }, wrong: true, told: tally{found: 1}},
		"another one later":  {later: func(o *raftkvv1.GetOutcomeResponse) { o.Results[0].Version = 3 }, wrong: true, told: tally{found: 1}},
		"not applied, later": {later: func(o *raftkvv1.GetOutcomeResponse) { o.Outcome = raftkvv1.Outcome_OUTCOME_NOT_APPLIED }, wrong: true, told: tally{found: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			first, again := right(), right()
			if test.is != nil {
				test.is(first)
				test.is(again)
			}
			if test.later != nil {
				test.later(again)
			}
			broken := false
			for seed := range uint64(20) { // Half of the clients ask again.
				c := clientOf(t, &liar{outcomes: []*raftkvv1.GetOutcomeResponse{first, again}})
				c.random = rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // not secret
				w := written7(c, byID)
				w.op.Outcome, w.op.Cells, w.op.Origin, w.op.Revision = nodetest.Unknown, nil, 0, 0
				applied := c.ask(w)
				broken = broken || len(c.load.rec.broken()) > 0
				if c.load.rec.tally != test.told {
					t.Fatalf("%+v", c.load.rec.tally)
				}
				if name == "applied" && (!applied || w.op.Outcome != nodetest.Done || w.op.Revision != 7 || w.op.Cells[0].Version != 2) {
					t.Fatalf("applied %t: %s, %+v", applied, w.op, w.op.Cells)
				}
				if refused := c.load.rec.history.Refused["v2-0"] != nil; refused != (test.told.fenced > 0) || refused != w.fenced {
					t.Fatalf("refused %t, fenced %t", refused, w.fenced)
				}
			}
			if broken != test.wrong {
				t.Errorf("wrong: %t", broken)
			}
		})
	}
}

// Another write under an idempotency key is not done, and a repeated one is said to be replayed.
func TestKeys(t *testing.T) {
	reused := ending(t, connect.CodeFailedPrecondition, &raftkvv1.IdempotencyKeyReused{})
	c := clientOf(t, &liar{puts: []error{reused, nil}})
	w := written7(c, byKey)
	c.reuse(w)
	if c.load.rec.tally.reused != 1 || len(c.load.rec.broken()) > 0 || len(c.load.rec.history.Refused) != 1 {
		t.Errorf("%+v, %v", c.load.rec.tally, c.load.rec.broken())
	}
	c.reuse(w)
	if broken := c.load.rec.broken(); len(broken) != 1 || !strings.Contains(broken[0], "another write is done") {
		t.Errorf("another write under the key: %v", broken)
	}
	c = clientOf(t, &liar{puts: []error{nil}})
	c.repeat(written7(c, byKey))
	if broken := c.load.rec.broken(); len(broken) == 0 || !strings.Contains(broken[0], "replayed") {
		t.Errorf("an answer that is not replayed: %v", broken)
	}
}

// A key goes in the header and in the field, and never in both.
func TestKeyPlaces(t *testing.T) {
	l := &liar{keyed: make(map[string]string)}
	c := clientOf(t, l)
	const attempts = 40
	l.puts = make([]error, attempts)
	w := written7(c, byKey)
	for range attempts {
		c.attempt(w, 0)
	}
	header, field := strings.Count(l.keyed["header"], w.key), strings.Count(l.keyed["field"], w.key)
	if left := len(l.puts); header == 0 || field == 0 || header+field > attempts || left != 0 {
		t.Errorf("%d in the header, %d in the field, %d attempts left", header, field, left)
	}
}

// An outcome tells of the branch that a transaction has done, with results for what it reads beside.
func TestOutcomeOfTransaction(t *testing.T) {
	for name, test := range map[string]struct {
		failed bool
		found  []*raftkvv1.OutcomeResult
		value  string
		wrong  bool
	}{
		"then":             {found: []*raftkvv1.OutcomeResult{{Existed: true, Version: 2}, {Existed: true, Version: 9}}, value: "v2-0"},
		"else":             {failed: true, found: []*raftkvv1.OutcomeResult{{Version: 1}, {}}, value: "v3-0"},
		"nothing was read": {found: []*raftkvv1.OutcomeResult{{Existed: true, Version: 2}}, wrong: true},
		"a wrong version":  {failed: true, found: []*raftkvv1.OutcomeResult{{Existed: true}, {}}, wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := conditional()
			o := &raftkvv1.GetOutcomeResponse{
				Header: &raftkvv1.ResponseHeader{Shard: 2, Revision: 7}, Outcome: raftkvv1.Outcome_OUTCOME_APPLIED, Revision: 7, Results: test.found,
			}
			if test.failed {
				o.Outcome, o.Failed = raftkvv1.Outcome_OUTCOME_CONDITION_FAILED, &raftkvv1.FailedCompare{Current: 5}
			}
			err := takeOutcome(d.op, d.call(nil), o)
			if (err != nil) != test.wrong {
				t.Fatal(err)
			}
			if err == nil && (len(d.op.Cells) != 1 || d.op.Cells[0].Value != test.value || d.op.Revision != 7 || (d.op.Current == 5) != test.failed) {
				t.Errorf("%+v", d.op)
			}
		})
	}
}
