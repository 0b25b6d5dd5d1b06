package nodetest

import (
	"context"
	"errors"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestLostDisk gives a node an empty disk: it refuses and stays down, the others go on.
func TestLostDisk(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, "before")
		c.loseDisk(2)
		c.Run(5 * time.Second)
		c.Start(2)
		write(t, c, "after")
		if p := c.processes[2]; !p.out || p.life != nil || c.events[Refused] != 1 {
			t.Errorf("out %t, life %v, refused %d times", p.out, p.life, c.events[Refused])
		}
		if v := c.Violations(); len(v) > 0 {
			t.Error(v)
		}
		c.loseDisk(1)
		if !c.Up(1) || c.processes[1].ruin != sound {
			t.Error("a majority is ruined")
		}
	})
}

// TestFlippedBits turns bits in the log of a node that takes no part afterwards but by what it has: it has the damaged replicas rebuilt, or does
// not need the bit.
func TestFlippedBits(t *testing.T) {
	rebuilt := uint64(0)
	for seed := uint64(1); seed <= 6; seed++ {
		inCluster(t, Options{Seed: seed, SegmentBytes: 16 << 10}, func(c *Cluster) {
			for range 20 {
				write(t, c, strings.Repeat("x", 3000))
			}
			c.flipBit(2)
			c.Start(2)
			c.RunUntil(20*time.Second, c.processes[2].rebuilt)
			write(t, c, "after")
			if !c.processes[2].rebuilt() {
				t.Errorf("seed %d: not rebuilt", seed)
			}
			c.Stop(2)
			rebuilt += c.events[Rebuilt]
			if v := c.Violations(); len(v) > 0 {
				t.Errorf("seed %d: %v", seed, v)
			}
		})
	}
	if rebuilt == 0 {
		t.Error("no node has noticed a flipped bit")
	}
}

// TestLostDirs takes log and state of a node away: its replicas are rebuilt, under other ids, and are what those of the others are.
func TestLostDirs(t *testing.T) {
	for _, dir := range []string{"log", "state"} {
		inCluster(t, Options{Seed: 1, Shards: 2}, func(c *Cluster) {
			for range 5 {
				write(t, c, strings.Repeat("x", 3000))
			}
			c.loseDir(2, dir)
			c.Start(2)
			if !c.RunUntil(20*time.Second, c.processes[2].rebuilt) {
				t.Errorf("%s: not rebuilt", dir)
			}
			write(t, c, "after")
			c.Run(2 * time.Second)
			disks := make(map[placement.NodeID]*simfs.FS)
			for i, p := range c.processes {
				c.Stop(i)
				disks[p.id] = p.disk
			}
			if n := c.events[Rebuilt]; n != 3 {
				t.Errorf("%s: %d replicas are rebuilt, want those of the meta shard and of two others", dir, n)
			}
			if n, err := CheckReplicas(disks); err != nil || n < 6 {
				t.Errorf("%s: %d pairs of states compared, %v", dir, n, err)
			}
			if v := c.Violations(); len(v) > 0 {
				t.Errorf("%s: %v", dir, v)
			}
		})
	}
}

// TestMemberOnAnEmptiedDiskIsFound lets a node go on as if its disk were still there.
func TestMemberOnAnEmptiedDiskIsFound(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		c.processes[0].ruin = emptied
		c.Run(5 * time.Second)
		if v := c.Violations(); len(v) == 0 || !strings.Contains(v[0], "n1, shard") || !strings.Contains(v[0], "has lost its disk and says") {
			t.Errorf("violations %q", v)
		}
	})
}

// TestDivergedReplica lets the digest of a replica differ from what the others have: it finds that out, and is rebuilt (R25).
func TestDivergedReplica(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, "before")
		c.Run(time.Second) // All have applied it.
		p := c.processes[2]
		p.halt()
		p.ruin = damaged
		if err := p.falsify(); err != nil {
			t.Fatal(err)
		}
		failed := false
		c.ended = func(q *process) {
			failed = failed || q == p
			c.scheduler.after(0, "start again", q.start)
		}
		p.start()
		for i := 0; i < 200 && !failed; i++ {
			write(t, c, "more")
		}
		if !failed {
			t.Fatal("nobody has noticed")
		}
		if !c.RunUntil(20*time.Second, p.rebuilt) {
			t.Error("not rebuilt")
		}
		if v := c.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// quiet drops what Pebble says.
type quiet struct{ pebble.Logger }

func (quiet) Infof(string, ...any) {}

// falsify changes the digests that the state on the disk of a stopped node keeps.
func (p *process) falsify() error {
	db, err := pebble.Open(path.Join(dataDir, "state"), &pebble.Options{
		FS: p.disk, FormatMajorVersion: pebble.FormatNewest, DisableWAL: true, Logger: quiet{pebble.DefaultLogger},
	})
	if err != nil {
		return err
	}
	lower, upper := []byte{1, 0, 0, 0, 1, 't'}, []byte{1, 0, 0, 0, 1, 'u'} // the slot summaries of shard 1
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var s storev1.SlotSummary
		if err = s.UnmarshalVT(it.Value()[1:]); err == nil {
			s.DigestLow++
			var value []byte
			value, err = s.MarshalVT()
			err = errors.Join(err, db.Set(it.Key(), append([]byte{it.Value()[0]}, value...), pebble.NoSync))
		}
	}
	return errors.Join(err, it.Close(), db.Flush(), db.Close())
}

// TestRebuiltReplicaLeads lets a replica that is newer than what a node knows of the membership take the lead: the node hears it nevertheless.
func TestRebuiltReplicaLeads(t *testing.T) {
	inCluster(t, Options{Seed: 1, Nodes: 5, Replicas: 5}, func(c *Cluster) {
		write(t, c, "before")
		c.Run(time.Second)
		c.Crash(4, simfs.KeepAll)
		c.loseDir(1, "state")
		c.Start(1)
		if !c.RunUntil(20*time.Second, c.processes[1].rebuilt) {
			t.Fatal("not rebuilt")
		}
		transferred := false
		for i := 0; i < 20 && !transferred; i++ {
			c.scheduler.add(0, &event{name: "transfer", process: c.processes[0], run: func() {
				l := c.processes[0].life
				c.asides = append(c.asides, newAside(l, func() func() {
					_, err := l.node.TransferLeader(context.Background(), raftnode.DataShard, c.processes[1].id)
					return func() { transferred = err == nil }
				}))
			}})
			c.Run(time.Second)
		}
		if !transferred || c.Leader(raftnode.DataShard) != 1 {
			t.Fatalf("n2 does not lead: %d does", c.Leader(raftnode.DataShard)+1)
		}
		c.Start(4)
		if !c.RunUntil(10*time.Second, c.processes[4].rebuilt) {
			t.Fatal("n5 does not serve")
		}
		read := false
		c.scheduler.add(0, &event{name: "request", process: c.processes[4], run: func() {
			c.processes[4].life.node.Submit(&raftnode.Request{
				AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"k"}}, Deadline: c.processes[4].life.runtime.Now().Add(10 * time.Second),
				Done: func(res raftnode.Result) { read = res.Err == nil },
			})
		}})
		if !c.RunUntil(12*time.Second, func() bool { return read }) || c.Leader(raftnode.DataShard) != 1 {
			t.Errorf("n5 does not follow the rebuilt replica; n%d leads", c.Leader(raftnode.DataShard)+1)
		}
		if v := c.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}
