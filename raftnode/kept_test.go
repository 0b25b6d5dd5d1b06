package raftnode_test

import (
	"testing"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// What a shard keeps for a time is counted while it is there, and keys that expire are counted when they go.
func TestShardMetrics(t *testing.T) {
	c := newCluster(t, 1, func(*raftnode.Options) {})
	kept := func() (sum raftnode.ShardMetrics) {
		for _, m := range c.nodes["n1"].Metrics().Shards {
			sum.ExpiredKeys, sum.LeasedKeys, sum.Leases = sum.ExpiredKeys+m.ExpiredKeys, sum.LeasedKeys+m.LeasedKeys, sum.Leases+m.Leases
			sum.KeyedResults, sum.KeyedBytes = sum.KeyedResults+m.KeyedResults, sum.KeyedBytes+m.KeyedBytes
		}
		return sum
	}
	const lease = 7
	grant := &storev1.LeaseCommand{Id: lease, Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: 3_600_000}}}
	keyed := mortalPut("keyed", 0, 0)
	keyed.Command.Idempotency = &storev1.Idempotency{Key: "once", Fingerprint: make([]byte, 16), WindowMs: 3_600_000}
	for _, r := range []*raftnode.Request{leaseCommand(grant), mortalPut("a", 0, lease), mortalPut("b", 0, lease), keyed, mortalPut("short", 10, 0)} {
		if res := c.do("n1", r); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	c.awaitGone("n1", "short")
	got := kept()
	if got.KeyedBytes == 0 {
		t.Error("what is kept under a key takes nothing")
	}
	got.KeyedBytes = 0
	if want := (raftnode.ShardMetrics{ExpiredKeys: 1, LeasedKeys: 2, Leases: 1, KeyedResults: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	revoke := &storev1.LeaseCommand{Id: lease, Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: 1}}}
	if res := c.do("n1", leaseCommand(revoke)); res.Err != nil {
		t.Fatal(res.Err)
	}
	c.awaitGone("n1", "a", "b")
	for end := time.Now().Add(longTimeout); kept().Leases > 0; { // its record goes behind its last key
		if c.awaitGone("n1", "a"); time.Now().After(end) {
			t.Fatalf("%+v", kept())
		}
	}
	got = kept()
	got.KeyedBytes = 0
	if want := (raftnode.ShardMetrics{ExpiredKeys: 3, KeyedResults: 1}); got != want {
		t.Errorf("after the lease: %+v, want %+v", got, want)
	}
}
