package main

import (
	"context"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// positionOf is a token of shard 2.
func positionOf(t *testing.T, revision uint64) string {
	t.Helper()
	b, err := proto.Marshal(&raftkvv1.Position{Version: 1, Shards: []*raftkvv1.Position_Shard{{Shard: 1, Revision: 99}, {Shard: 2, Revision: revision}}})
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestDrawStale(t *testing.T) {
	r, stale, withToken := rand.New(rand.NewPCG(5, 5)), 0, 0
	for range 400 {
		op := &nodetest.Operation{Group: 4}
		ask := drawRead(r, op)
		drawStale(r, op, ask, token{"t", 7})
		if op.Stale == nil {
			continue
		}
		stale++
		most, text, consistency := ask.get.GetMaxStalenessMs(), ask.get.GetToken(), ask.get.GetConsistency()
		if ask.list != nil {
			most, text, consistency = ask.list.GetMaxStalenessMs(), ask.list.GetToken(), ask.list.GetConsistency()
		} else if ask.scan != nil {
			most, text, consistency = ask.scan.GetMaxStalenessMs(), ask.scan.GetToken(), ask.scan.GetConsistency()
		}
		if consistency != raftkvv1.Consistency_CONSISTENCY_STALE || time.Duration(most)*time.Millisecond != op.Stale.Bound || (text == "t") != (op.Stale.Revision == 7) { //nolint:gosec // small
			t.Errorf("%+v is asked for as %d ms, %q, %s", op.Stale, most, text, consistency)
		}
		if text != "" {
			withToken++
		}
	}
	if stale < 50 || withToken < 20 {
		t.Errorf("%d stale reads, %d with a token", stale, withToken)
	}
}

// A wrong answer to a stale read does not pass, nor one of an age to a read that must show the newest state.
func TestWrongStaleReads(t *testing.T) {
	wrong := func(change func(*raftkvv1.ResponseHeader)) func(*raftkvv1.ListResponse) {
		return func(r *raftkvv1.ListResponse) {
			change(r.Header)
			change(r.Parts[1])
		}
	}
	for name, test := range map[string]struct {
		answer func(*raftkvv1.ListResponse)
		read   *nodetest.StaleRead
		clean  bool
	}{
		"old and within its bound": {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessMs = 2500 }), &nodetest.StaleRead{Bound: 3 * time.Second}, true},
		"of no known age":          {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessUnknown = true }), &nodetest.StaleRead{}, true},
		"said to be the newest":    {wrong(func(*raftkvv1.ResponseHeader) {}), &nodetest.StaleRead{}, false},
		"older than it says":       {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessMs = 500 }), &nodetest.StaleRead{Bound: 3 * time.Second}, false},
		"beyond its bound":         {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessMs = 2500 }), &nodetest.StaleRead{Bound: time.Second}, false},
		"of no known age, bounded": {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessUnknown = true }), &nodetest.StaleRead{Bound: time.Second}, false},
		"without what was written": {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessMs = 2500 }), &nodetest.StaleRead{Revision: 6}, false},
		"an age, and none allowed": {wrong(func(h *raftkvv1.ResponseHeader) { h.FreshnessMs = 1 }), nil, false},
		"without its part":         {func(r *raftkvv1.ListResponse) { r.Parts = r.Parts[:1] }, &nodetest.StaleRead{}, false},
		"a part of another state":  {func(r *raftkvv1.ListResponse) { r.Parts[1].Revision = 6 }, &nodetest.StaleRead{}, false},
		"a part older than it all": {func(r *raftkvv1.ListResponse) { r.Parts[1].FreshnessMs = 2500 }, &nodetest.StaleRead{}, false},
		"a part says it all":       {func(r *raftkvv1.ListResponse) { r.Header.FreshnessMs, r.Parts[1].FreshnessMs = 9000, 2500 }, &nodetest.StaleRead{Bound: 3 * time.Second}, true},
		"a broken token":           {wrong(func(h *raftkvv1.ResponseHeader) { h.Token = "?" }), &nodetest.StaleRead{}, false},
		"another value": {func(r *raftkvv1.ListResponse) {
			r.Header.FreshnessMs, r.Parts[1].FreshnessMs, r.Kvs[0].Value = 2500, 2500, encode("v7-0")
		}, &nodetest.StaleRead{}, false},
		"a refused value": {func(r *raftkvv1.ListResponse) {
			r.Header.FreshnessMs, r.Parts[1].FreshnessMs, r.Kvs[0].Value = 2500, 2500, encode("v8-0")
		}, &nodetest.StaleRead{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			rec := newRecorder()
			c := &client{load: &load{rec: rec}}
			rec.began = rec.began.Add(-10 * time.Second)
			rec.history.Refused["v8-0"] = &nodetest.Operation{}
			for revision, at := range map[uint64]time.Duration{5: time.Second, 6: 8 * time.Second} {
				value := map[uint64]string{5: "v1-0", 6: "v2-0"}[revision]
				rec.history.Operations = append(rec.history.Operations, &nodetest.Operation{
					Group: 4, Shard: 2, Kind: nodetest.Write, Changes: []nodetest.Change{{Value: value}}, Attempts: 1, Outcome: nodetest.Done,
					Call: at, Return: at + time.Millisecond, Revision: revision, Origin: revision, Cells: []nodetest.Cell{{Value: value, Version: revision - 4, Existed: revision > 5}},
				})
			}
			op := &nodetest.Operation{Group: 4, Shard: 2, Kind: nodetest.Read, Call: 10 * time.Second, Attempts: 1}
			ask := &call{list: &raftkvv1.ListRequest{}}
			if test.read != nil {
				allow(op, ask, test.read, "t")
			}
			answer := &result{list: &raftkvv1.ListResponse{
				Header: &raftkvv1.ResponseHeader{Token: positionOf(t, 5)}, Parts: []*raftkvv1.ResponseHeader{{Shard: 1}, {Shard: 2, Revision: 5}},
				Kvs: []*raftkvv1.KeyValue{{Key: keyName(4, 0), Value: encode("v1-0"), Version: 1, ModRevision: 5}},
			}}
			test.answer(answer.list)
			c.took(op, errors.Join(answer.take(op, ask), takeAge(op, answer.shown(op.Shard)), rec.keep(op, answer.header())))
			found := len(rec.broken()) > 0
			for _, err := range []error{nodetest.CheckStale(rec.history), nodetest.CheckReplay(rec.history), nodetest.CheckRefused(rec.history)} {
				found = found || err != nil
			}
			if found == test.clean {
				t.Errorf("found: %t: %v", found, rec.broken())
			}
		})
	}
}

// That a key is missing is as old as any answer.
func TestStaleMissing(t *testing.T) {
	op := &nodetest.Operation{Stale: &nodetest.StaleRead{Bound: time.Second}}
	if err := takeAge(op, &raftkvv1.KeyNotFound{FreshnessMs: 7}); err != nil || op.Stale.Age != 7*time.Millisecond || op.Stale.AgeUnknown {
		t.Errorf("%+v, %v", op.Stale, err)
	}
	if err := takeAge(&nodetest.Operation{}, &raftkvv1.KeyNotFound{FreshnessUnknown: true}); err == nil {
		t.Error("a read of the newest may be of any age")
	}
}

func TestMisread(t *testing.T) {
	f := func(tooStale, future bool) *failure {
		return &failure{err: context.Canceled, tooStale: tooStale, future: future}
	}
	newest, stale := &nodetest.Operation{Kind: nodetest.Read}, &nodetest.Operation{Kind: nodetest.Read, Stale: &nodetest.StaleRead{}}
	for _, test := range []struct {
		op  *nodetest.Operation
		f   *failure
		bad bool
	}{{newest, f(false, false), false}, {newest, f(true, false), true}, {stale, f(true, false), false}, {stale, f(false, true), true}} {
		if err := misread(test.op, test.f); (err != nil) != test.bad {
			t.Errorf("%s, %+v: %v", test.op, test.f, err)
		}
	}
}

// The token of an answer stands for what its header says, and the newest is used, whoever was given it.
func TestTokens(t *testing.T) {
	r := newRecorder()
	op := &nodetest.Operation{Shard: 2}
	for _, revision := range []uint64{5, 9, 7} {
		if err := r.keep(op, &raftkvv1.ResponseHeader{Shard: 2, Revision: revision, Token: positionOf(t, revision)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.token(2); got.revision != 9 || got.text != positionOf(t, 9) {
		t.Errorf("the newest token is of revision %d", got.revision)
	}
	if err := r.keep(op, &raftkvv1.ResponseHeader{Shard: 2, Revision: 9, Token: positionOf(t, 8)}); err == nil {
		t.Error("a token of another revision than that of its answer passes")
	}
	if err := r.keep(op, &raftkvv1.ResponseHeader{Shard: 2, Revision: 10}); err != nil || r.token(2).revision != 9 {
		t.Errorf("a result of a stream, which has no token: %v", err)
	}
	if got := r.token(placement.ShardID(1)); got.text != "" {
		t.Errorf("another shard has token %+v", got)
	}
}
