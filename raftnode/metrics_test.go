package raftnode_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode"
)

// A write shows in everything that is observed and counted on its way.
func TestMetrics(t *testing.T) {
	var rounds, proposed, committed, applied atomic.Int64
	c := newCluster(t, 1, func(o *raftnode.Options) {
		o.Observer = raftnode.Observer{
			LogWritten: func(bytes int, write, sync time.Duration) {
				if bytes > 0 && write >= 0 && sync > 0 {
					rounds.Add(1)
				}
			},
			Proposed: func(commands, bytes int) {
				if commands > 0 && bytes > 0 {
					proposed.Add(1)
				}
			},
			Committed: func(took time.Duration) {
				if took > 0 {
					committed.Add(1)
				}
			},
			Applied: func(entries int, took time.Duration) {
				if entries > 0 && took > 0 {
					applied.Add(1)
				}
			},
		}
	})
	if _, err := c.put("n1", "a", "1"); err != nil {
		t.Fatal(err)
	}
	if rounds.Load() == 0 || proposed.Load() == 0 || committed.Load() == 0 || applied.Load() == 0 {
		t.Errorf("%d rounds of the log, %d proposals, %d commits, %d runs applied", rounds.Load(), proposed.Load(), committed.Load(), applied.Load())
	}
	n := c.nodes["n1"]
	if m := n.Metrics(); m.Proposals == 0 || m.DiskFree == 0 || m.DiskStalled {
		t.Errorf("%+v", m)
	}
	if q := n.Queues(); q.Worker < 0 || q.Log < 0 || q.Apply < 0 || q.Forwarded != 0 {
		t.Errorf("%+v", q)
	}
	if s := n.Storage(); s.Log.Syncs == 0 || s.Log.BytesWritten == 0 || s.State.Bytes == 0 {
		t.Errorf("%+v", s)
	}
	found := false
	for _, s := range n.Status().Shards {
		if s.ID == raftnode.DataShard {
			found = true
			if s.Keys != 1 || s.Revision != 1 || s.WaitingWrites != 0 {
				t.Errorf("%+v", s)
			}
		}
	}
	if !found {
		t.Error("the data shard is not shown")
	}
	c.stopAll()
	if s := n.Storage(); s.Log.Syncs != 0 {
		t.Errorf("of a node that is closed: %+v", s)
	}
}
