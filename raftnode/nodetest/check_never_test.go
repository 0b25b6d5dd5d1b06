package nodetest

import (
	"strings"
	"testing"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

func TestCheckNeverApplied(t *testing.T) {
	disks := disksOf(t, "seen", -1)
	if err := CheckNeverApplied(&History{Refused: map[string]*Operation{"other": {}}}, simulated(disks)); err != nil {
		t.Error(err)
	}
	if err := CheckNeverApplied(&History{Refused: map[string]*Operation{"seen": {}}}, simulated(disks)); err == nil || !strings.Contains(err.Error(), "record") {
		t.Errorf("a refused value in a record: %v", err)
	}
}

// What was overwritten is in the history, and a result under an idempotency key whose window is long is there.
func TestCheckNeverAppliedLooksBack(t *testing.T) {
	var disks map[placement.NodeID]*simfs.FS
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, "first")
		write(t, c, "second")
		disks = stopped(c)
	})
	if err := CheckNeverApplied(&History{Refused: map[string]*Operation{"first": {}}}, simulated(disks)); err == nil || !strings.Contains(err.Error(), "history") {
		t.Errorf("a refused value in the history: %v", err)
	}
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		p, answered := c.processes[0], false
		c.scheduler.add(0, &event{name: "request", process: p, run: func() {
			p.life.node.Submit(&raftnode.Request{
				AutoShard: true, Deadline: p.life.runtime.Now().Add(5 * time.Second), Done: func(res raftnode.Result) { answered = res.Err == nil },
				Command: &storev1.Command{
					Idempotency: &storev1.Idempotency{Key: "k", Fingerprint: make([]byte, 16), WindowMs: 1 << 20},
					Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{
						{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "k", Value: []byte("v")},
					}}},
				},
			})
		}})
		if !c.RunUntil(5*time.Second, func() bool { return answered }) {
			t.Error("the write is not answered")
		}
		disks = stopped(c)
	})
	if err := CheckNeverApplied(&History{}, simulated(disks)); err == nil || !strings.Contains(err.Error(), "windows have passed") {
		t.Errorf("a result that is kept: %v", err)
	}
}

// stopped stops all nodes and returns their disks.
func stopped(c *Cluster) map[placement.NodeID]*simfs.FS {
	c.Run(10 * c.options.election())
	disks := make(map[placement.NodeID]*simfs.FS)
	for i, p := range c.processes {
		c.Stop(i)
		disks[p.id] = p.disk
	}
	return disks
}
