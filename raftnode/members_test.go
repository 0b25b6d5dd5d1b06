package raftnode

import (
	"fmt"
	"sync"
	"testing"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// A worker looks at its own members only: a node that is lost is told to all of them while one of them changes who is in a shard. That the
// others keep their hands off is for the race detector to say.
func TestWorkersLookAtTheirOwnMembers(t *testing.T) {
	n := openAlone(t, func(placement.ShardID) StateMachine { return &stuckMachine{} })
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if len(n.workers) < 2 {
		t.Fatalf("%d workers: nothing to tell apart", len(n.workers))
	}
	seen := make(map[placement.ShardID]int)
	for i, w := range n.workers {
		for m := range w.members() {
			seen[m.shard]++
			if m.worker != w {
				t.Errorf("worker %d looks at shard %d, which is another's", i, m.shard)
			}
		}
	}
	for _, m := range n.locals() {
		if seen[m.shard] != 1 {
			t.Errorf("shard %d has %d workers", m.shard, seen[m.shard])
		}
	}
	var done sync.WaitGroup
	for _, m := range n.locals() {
		done.Add(1)
		m.worker.post(inspectEvent{m: m, look: func(m *member) { m.setConfiguration(m.configuration); done.Done() }})
		for _, w := range n.workers {
			w.post(peerDownEvent{node: placement.NodeID(fmt.Sprint("gone", m.shard))})
		}
	}
	done.Wait()
}
