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

// write gives the first node that lives a write and waits for its answer.
func write(t *testing.T, c *Cluster, value string) {
	t.Helper()
	for _, p := range c.processes {
		if p.life == nil {
			continue
		}
		answered := false
		command := &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{{
			Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "k", Value: []byte(value),
		}}}}}
		c.scheduler.add(0, &event{name: "request", process: p, run: func() {
			p.life.node.Submit(&raftnode.Request{
				AutoShard: true, Command: command, Deadline: p.life.runtime.Now().Add(5 * time.Second),
				Done: func(res raftnode.Result) { answered = res.Err == nil },
			})
		}})
		if !c.RunUntil(5*time.Second, func() bool { return answered }) {
			t.Fatalf("the write of %q is not answered", value)
		}
		return
	}
}

// disksOf runs a cluster that writes a value, and then another without one of its nodes, and closes it.
func disksOf(t *testing.T, value string, without int) (disks map[placement.NodeID]*simfs.FS) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, value)
		c.Run(10 * c.options.election())
		if without >= 0 {
			c.Stop(without)
			write(t, c, value)
			c.Run(10 * c.options.election())
		}
		disks = make(map[placement.NodeID]*simfs.FS)
		for i, p := range c.processes {
			c.Stop(i)
			disks[p.id] = p.disk
		}
	})
	return disks
}

func TestCheckReplicas(t *testing.T) {
	a, b := disksOf(t, "a", -1), disksOf(t, "b", -1)
	mixed := map[placement.NodeID]*simfs.FS{"n1": a["n1"], "n2": b["n2"]}
	for name, c := range map[string]struct {
		disks map[placement.NodeID]*simfs.FS
		says  string
	}{
		"equal":           {disks: a},
		"not the same":    {disks: mixed, says: "is not the same on n1 and n2"},
		"one left behind": {disks: disksOf(t, "a", 2), says: "shard 1 stands at index"},
	} {
		compared, err := CheckReplicas(c.disks)
		switch {
		case c.says == "" && (err != nil || compared != 4):
			t.Errorf("%s: %d pairs, %v", name, compared, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v, want something with %q", name, err, c.says)
		}
	}
}

func TestCompareLogs(t *testing.T) {
	disk := disksOf(t, "a", -1)["n1"]
	terms := make(map[shardIndex]uint64)
	if err := compareLogs(terms, "n1", Disk{disk, dataDir}); err != nil {
		t.Fatal(err)
	}
	for at := range terms {
		terms[at] += 7
	}
	if err := compareLogs(terms, "n1", Disk{disk, dataDir}); err == nil || !strings.Contains(err.Error(), "is committed with terms") {
		t.Errorf("other terms give %v", err)
	}
}
