package raftnode_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/raftkv/raftkv/raftnode"
)

// BenchmarkPut measures writes of 256 B by 100 callers at the leader's node of three, in one process and without any RPC.
func BenchmarkPut(b *testing.B) {
	c := newCluster(b, 3, nil)
	leader := c.members[0].ID
	if _, err := c.put(leader, "key", "value"); err != nil {
		b.Fatal(err)
	}
	for _, s := range must(c.nodes[leader].Shards()) {
		if s.ID == 1 {
			leader = s.Leader
		}
	}
	value := strings.Repeat("x", 256)
	var n atomic.Uint64
	b.SetParallelism(100)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.put(leader, fmt.Sprintf("key-%d", n.Add(1)%10000), value); err != nil {
				b.Error(err)
			}
		}
	})
	m := c.nodes[leader].Metrics()
	b.ReportMetric(float64(m.ProposedCommands)/float64(max(1, m.Proposals)), "commands/entry")
}

func BenchmarkGet(b *testing.B) {
	c := newCluster(b, 3, nil)
	leader := c.members[0].ID
	if _, err := c.put(leader, "key", "value"); err != nil {
		b.Fatal(err)
	}
	for _, s := range must(c.nodes[leader].Shards()) {
		if s.ID == 1 {
			leader = s.Leader
		}
	}
	if _, err := c.put(leader, "key", strings.Repeat("x", 256)); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(100)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.get(leader, "key"); err != nil {
				b.Error(err)
			}
		}
	})
}

func must(s []raftnode.ShardStatus, _ uint64) []raftnode.ShardStatus { return s }
