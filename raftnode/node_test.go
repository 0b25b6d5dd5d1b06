package raftnode_test

import (
	"fmt"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
)

func TestOneNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	if w, err := c.put("n1", "a", "1"); err != nil || w.GetRevision() != 1 {
		t.Fatalf("put: %v, %v", w, err)
	}
	if v, err := c.get("n1", "a"); err != nil || v != "1" {
		t.Fatalf("get: %q, %v", v, err)
	}
}

// Every node takes writes and reads; what one took is what all show, at once.
func TestThreeNodes(t *testing.T) {
	for _, shards := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			c := newCluster(t, 3, func(o *raftnode.Options) { o.Shards = shards })
			for i := range 60 {
				key, value := fmt.Sprintf("key-%d", i), fmt.Sprintf("value-%d", i)
				via := c.members[i%3].ID
				if _, err := c.put(via, key, value); err != nil {
					t.Fatalf("put %s via %s: %v", key, via, err)
				}
				for _, m := range c.members {
					if got, err := c.get(m.ID, key); err != nil || got != value {
						t.Fatalf("get %s via %s: %q, %v", key, m.ID, got, err)
					}
				}
			}
		})
	}
}

// What was acknowledged is there after all nodes have stopped and started.
func TestRestart(t *testing.T) {
	c := newCluster(t, 3, nil)
	for i := range 100 {
		if _, err := c.put(c.members[i%3].ID, fmt.Sprintf("key-%d", i), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.stopAll()
	for _, m := range c.members {
		c.start(m.ID, nil)
	}
	for _, m := range c.members {
		c.formed(m.ID)
	}
	for i := range 100 {
		if got, err := c.get(c.members[(i+1)%3].ID, fmt.Sprintf("key-%d", i)); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("key-%d: %q, %v", i, got, err)
		}
	}
}

// The meta shard holds the shard map, written once.
func TestMetaShardHoldsTheMap(t *testing.T) {
	c := newCluster(t, 3, func(o *raftnode.Options) { o.Shards = 4 })
	waitFor(t, "the map", func() bool {
		res := c.nodes["n2"].Do(t.Context(), &raftnode.Request{Shard: 0, Read: &peerv1.ReadRequest{Keys: []string{"raftkv/map"}}})
		if res.Err != nil || res.Read.GetRecords()[0].GetRecord() == nil {
			return false
		}
		r := res.Read.GetRecords()[0].GetRecord()
		m := &storev1.ShardMap{}
		if err := m.UnmarshalVT(r.GetValue()); err != nil {
			t.Fatal(err)
		}
		if m.GetVersion() != 1 || r.GetVersion() != 1 || len(m.GetShards()) != 5 || len(m.GetMembers()) != 3 {
			t.Fatalf("version %d, written %d times, %d shards, %d members", m.GetVersion(), r.GetVersion(), len(m.GetShards()), len(m.GetMembers()))
		}
		return true
	})
}
