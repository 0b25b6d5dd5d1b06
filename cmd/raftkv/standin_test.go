package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// The stand-in for users' unit tests answers as real nodes do.
func TestStandInIsLikeNodes(t *testing.T) {
	configs := startCluster(t, 3, 1)
	nodes := openClient(t, configs)
	cluster := raftkvtest.New(3, 1)
	defer cluster.Close()
	if d := cmp.Diff(transcript(t, nodes), transcript(t, cluster.Client(t))); d != "" {
		t.Errorf("-nodes +stand-in:\n%s", d)
	}
}

// script notes what a cluster answers.
type script struct {
	t      *testing.T
	ctx    context.Context
	client *raftkv.Client
	lines  []string
}

func (s *script) note(format string, values ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, values...))
}

func (s *script) item(i *raftkv.Item) string {
	if i == nil {
		return "none"
	}
	return fmt.Sprintf("%s=%s created %d modified %d version %d ttl %t lease %t", i.Key, i.Value, i.CreateRevision, i.ModRevision, i.Version, i.TTL > 0, i.Lease != 0)
}

func (s *script) result(what string, r raftkv.Result, err error) {
	s.note("%s: revision %d created %d version %d deleted %t previous %s item %s: %s",
		what, r.Revision, r.CreateRevision, r.Version, r.Deleted, s.item(r.Previous), s.item(r.Item), kind(err))
}

// kind is what a program sees of an error, without what differs from cluster to cluster.
func kind(err error) string {
	var (
		failed    *raftkv.PreconditionFailedError
		missing   *raftkv.KeyNotFoundError
		compacted *raftkv.CompactedError
		future    *raftkv.FutureRevisionError
		lease     *raftkv.LeaseNotFoundError
		invalid   *raftkv.InvalidError
	)
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &failed):
		return fmt.Sprintf("condition failed at %d", failed.Current)
	case errors.As(err, &missing):
		return fmt.Sprintf("no key %s at %d", missing.Key, missing.Revision)
	case errors.As(err, &compacted):
		return "compacted"
	case errors.As(err, &future):
		return fmt.Sprintf("%d is future, now is %d", future.Revision, future.Current)
	case errors.As(err, &lease):
		return "no such lease"
	case errors.As(err, &invalid):
		return "invalid"
	default:
		return fmt.Sprintf("other: %T %v", err, err)
	}
}

// watch notes n events.
func (s *script) watch(name string, n int, what raftkv.Watchable, options ...raftkv.WatchOption) (tokens []string) {
	for e, err := range s.client.Watch(s.ctx, what, options...) {
		if err != nil {
			s.note("%s: %s", name, kind(err))
			return tokens
		}
		s.note("%s: %s %t %d %s, before %s", name, e.Type, e.Initial, e.Revision, s.item(&e.Item), s.item(e.Previous))
		if tokens = append(tokens, e.Token()); len(tokens) == n {
			break
		}
	}
	return tokens
}

func transcript(t *testing.T, client *raftkv.Client) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &script{t: t, ctx: ctx, client: client}
	s.writes()
	s.leases()
	s.watches()
	return s.lines
}

func (s *script) writes() {
	put := func(key, value string, options ...raftkv.PutOption) {
		r, err := s.client.Put(s.ctx, key, []byte(value), append(options, raftkv.Previous())...)
		s.result("put "+key, r, err)
	}
	put("a", "1")
	put("a", "2", raftkv.IfRevision(1))
	put("a", "3", raftkv.IfRevision(1))
	put("ttl", "1", raftkv.WithTTL(time.Hour))
	put("ttl", "2", raftkv.WithTTL(time.Minute), raftkv.IfExists())
	r, err := s.client.Delete(s.ctx, "nothing")
	s.result("delete nothing", r, err)
	r, err = s.client.Delete(s.ctx, "a", raftkv.Previous())
	s.result("delete a", r, err)
	b, err := s.client.Batch(s.ctx, raftkv.PutOp("b/1", []byte("1")), raftkv.PutOp("b/2", nil, raftkv.WithTTL(time.Hour)), raftkv.DeleteOp("b/3"))
	s.note("batch: revision %d: %s", b.Revision, kind(err))
	for i, r := range b.Results {
		s.result(fmt.Sprint("batch ", i), r, nil)
	}
	for range 2 {
		x, err := s.client.Txn(s.ctx, raftkv.Txn{
			If:   []raftkv.Compare{raftkv.Exists("b/1"), raftkv.ValueIs("b/1", []byte("1"))},
			Then: []raftkv.Op{raftkv.PutOp("b/1", []byte("2"), raftkv.WithTTL(time.Hour)).WithPrevious(), raftkv.DeleteOp("b/2").WithPrevious(), raftkv.GetOp("ttl")},
			Else: []raftkv.Op{raftkv.GetOp("b/1"), raftkv.GetOp("b/2")},
		})
		s.note("txn: %t revision %d failed %d current %d: %s", x.Succeeded, x.Revision, x.Failed, x.Current, kind(err))
		for i, r := range x.Results {
			s.result(fmt.Sprint("txn ", i), r, nil)
		}
	}
	s.twice()
	for _, key := range []string{"a", "ttl", "b/1"} {
		for _, revision := range []uint64{0, 1, 3, 99} {
			item, err := s.client.Get(s.ctx, key, raftkv.AtRevision(revision))
			s.note("get %s at %d: %s: %s", key, revision, s.item(&item), kind(err))
		}
	}
	for item, err := range s.client.Scan(s.ctx, raftkv.Range{}, raftkv.ScanOptions{}) {
		s.note("scan: %s: %s", s.item(&item), kind(err))
	}
}

// twice notes what comes of requests that name a key more than once.
func (s *script) twice() {
	get, put, del := raftkv.GetOp("b/1"), raftkv.PutOp("b/1", nil), raftkv.DeleteOp("b/1")
	_, err := s.client.Batch(s.ctx, put, raftkv.PutOp("b/2", nil), del)
	s.note("batch of a key twice: %s", kind(err))
	exists, other := []raftkv.Compare{raftkv.Exists("b/1"), raftkv.RevisionIs("b/1", 99)}, raftkv.GetOp("b/2")
	for i, x := range []raftkv.Txn{
		{Then: []raftkv.Op{put, put}},
		{Then: []raftkv.Op{get, other, put}},
		{Then: []raftkv.Op{get, get}},
		{If: exists, Else: []raftkv.Op{del, other, get}},
		{If: exists, Then: []raftkv.Op{get}, Else: []raftkv.Op{get}},
	} {
		r, err := s.client.Txn(s.ctx, x)
		s.note("txn %d of a key twice: %t: %s", i, r.Succeeded, kind(err))
	}
}

func (s *script) leases() {
	l, err := s.client.Grant(s.ctx, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, key := range []string{"l/1", "l/2"} {
		r, err := s.client.Put(s.ctx, key, nil, raftkv.WithLease(l))
		s.result("put "+key, r, err)
	}
	r, err := s.client.Put(s.ctx, "l/2", nil) // for ever again
	s.result("put l/2", r, err)
	r, err = s.client.Put(s.ctx, "l/3", nil, raftkv.WithLease(raftkv.LeaseID(1<<62)))
	s.result("put l/3", r, err)
	_, err = s.client.Txn(s.ctx, raftkv.Txn{Then: []raftkv.Op{raftkv.PutOp("l/3", nil, raftkv.WithLease(raftkv.LeaseID(1<<62)))}})
	s.note("txn l/3: %s", kind(err))
	for key, err := range s.client.LeaseKeys(s.ctx, l.ID()) {
		s.note("key of the lease: %s: %s", key, kind(err))
	}
	info, err := s.client.GetLease(s.ctx, l.ID())
	s.note("lease: %s, left %t: %s", info.TTL, info.Remaining > 59*time.Minute && info.Remaining <= time.Hour, kind(err))
	for info, err := range s.client.ListLeases(s.ctx) {
		s.note("list: %t: %s", info.ID == l.ID(), kind(err))
	}
	s.note("keep alive: %s", kind(l.KeepAlive(s.ctx)))
	s.note("revoke: %s", kind(l.Revoke(s.ctx)))
	_, err = s.client.ResumeLease(s.ctx, l.ID())
	s.note("resume: %s", kind(err))
	item, err := s.client.Get(s.ctx, "l/1")
	s.note("get: %s: %s", s.item(&item), kind(err))
}

func (s *script) watches() {
	all := s.watch("all", 12, raftkv.Range{}, raftkv.FromRevision(1), raftkv.Previous())
	for i := range all[:len(all)-1] {
		s.watch(fmt.Sprint("behind ", i), 1, raftkv.Range{}, raftkv.FromToken(all[i]))
	}
	s.watch("key", 3, raftkv.Key("a"), raftkv.FromRevision(1))
	s.watch("deletes", 2, raftkv.Range{}, raftkv.FromRevision(2), raftkv.WithoutPuts(), raftkv.Previous())
	s.watch("puts", 3, raftkv.Prefix("b/"), raftkv.FromRevision(1), raftkv.WithoutDeletes())
	s.watch("range", 2, raftkv.Range{Start: "b", End: "c"}, raftkv.FromRevision(1))
	s.watch("initial", 4, raftkv.Range{}, raftkv.IncludeInitial())
	s.watch("from", 5, raftkv.Range{}, raftkv.IncludeInitial(), raftkv.FromRevision(6))
	s.watch("future", 1, raftkv.Range{}, raftkv.FromRevision(1000))
	s.watch("other token", 1, raftkv.Key("a"), raftkv.FromToken(all[0]))
	s.watch("no token", 1, raftkv.Key("a"), raftkv.FromToken("x"))
}
