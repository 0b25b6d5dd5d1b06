package nodetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// ask sends a request to a node and runs the cluster until it is answered.
func (c *Cluster) ask(t *testing.T, i int, r *raftnode.Request) raftnode.Result {
	t.Helper()
	var answer *raftnode.Result
	r.Done = func(res raftnode.Result) { answer = &res }
	l := c.processes[i].life
	c.scheduler.add(0, &event{name: "request", process: l.process, boot: l.number, run: func() { l.node.Submit(r) }})
	if !c.RunUntil(20*time.Second, func() bool { return answer != nil }) {
		t.Fatal("no answer")
	}
	return *answer
}

func putFor(key string, ttl time.Duration, lease uint64) *raftnode.Request {
	op := &storev1.Operation{
		Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte("v"), TtlMs: uint64(ttl.Milliseconds()), Lease: lease,
	}
	return &raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{
		Operations: []*storev1.Operation{op},
	}}}}
}

func getOf(key string) *raftnode.Request {
	return &raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{key}}}
}

func leaseOf(c *storev1.LeaseCommand) *raftnode.Request {
	return &raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Lease{Lease: c}}}
}

func grantOf(id uint64, ttl time.Duration) *raftnode.Request {
	return leaseOf(&storev1.LeaseCommand{Id: id, Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: uint64(ttl.Milliseconds())}}})
}

func keepAliveOf(id uint64) *raftnode.Request {
	return leaseOf(&storev1.LeaseCommand{Id: id, Action: &storev1.LeaseCommand_KeepAlive{KeepAlive: &storev1.LeaseKeepAlive{}}})
}

func revokeOf(id uint64) *raftnode.Request {
	return leaseOf(&storev1.LeaseCommand{Id: id, Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: 2}}})
}

func (c *Cluster) exists(t *testing.T, i int, key string) bool {
	t.Helper()
	res := c.ask(t, i, getOf(key))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	return res.Read.GetRecords()[0].GetRecord() != nil
}

// gone runs until a key is gone and returns when it was seen gone.
func (c *Cluster) gone(t *testing.T, key string, within time.Duration) time.Duration {
	t.Helper()
	for end := c.Now() + within; c.Now() < end; c.Run(10 * time.Millisecond) {
		for i := range c.processes {
			if !c.Up(i) || !c.processes[i].serving() {
				continue
			}
			if res := c.ask(t, i, getOf(key)); res.Err == nil && res.Read.GetRecords()[0].GetRecord() == nil {
				return c.Now()
			}
			break
		}
	}
	t.Fatalf("%s is there for %s", key, within)
	return 0
}

func must(t *testing.T, res raftnode.Result) raftnode.Result {
	t.Helper()
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	return res
}

func TestKeysExpireSoonAfterTheirTime(t *testing.T) {
	inLedCluster(t, 1, func(c *Cluster, leader int) {
		called := c.Now()
		must(t, c.ask(t, (leader+1)%3, putFor("k", 3*time.Second, 0)))
		answered := c.Now()
		seen := c.gone(t, "k", 10*time.Second)
		if seen < called+3*time.Second {
			t.Errorf("gone %s before its time", called+3*time.Second-seen)
		}
		if late := seen - answered - 3*time.Second; late > 4*c.options.Heartbeat {
			t.Errorf("gone %s after its time", late)
		}
	})
}

// A long time to live ends though no leader leads for so long, and nothing else is written.
func TestTimePassesWhoeverLeads(t *testing.T) {
	inLedCluster(t, 2, func(c *Cluster, leader int) {
		called := c.Now()
		must(t, c.ask(t, leader, putFor("k", 20*time.Second, 0)))
		elections := 0
		for c.Now() < called+19*time.Second {
			c.Run(time.Second)
			if l := c.Leader(1); l >= 0 {
				elections++
				c.Crash(l, simfs.KeepAll)
				c.Run(200 * time.Millisecond)
				c.Start(l)
			}
		}
		if elections < 5 {
			t.Fatalf("%d elections", elections)
		}
		c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 })
		seen := c.gone(t, "k", 60*time.Second)
		if seen < called+20*time.Second {
			t.Errorf("gone %s before its time", called+20*time.Second-seen)
		}
	})
}

// A clock that jumps makes expiry no earlier than two ticks.
func TestAJumpOfAClockIsNotBelieved(t *testing.T) {
	inLedCluster(t, 3, func(c *Cluster, leader int) {
		called := c.Now()
		must(t, c.ask(t, leader, putFor("k", 10*time.Second, 0)))
		c.jumpClock(leader, time.Hour)
		if seen := c.gone(t, "k", 30*time.Second); seen < called+10*time.Second-2*c.options.Heartbeat {
			t.Errorf("gone %s before its time", called+10*time.Second-seen)
		}
	})
}

// TestLeasesOfSeveralShards has keys of three shards on one lease.
func TestLeasesOfSeveralShards(t *testing.T) {
	inCluster(t, Options{Seed: 4, Shards: 3}, func(c *Cluster) {
		if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 && c.Leader(2) >= 0 && c.Leader(3) >= 0 }) {
			t.Fatal("no leaders")
		}
		c.Run(2 * time.Second)
		node := c.processes[0].life.node
		const lease = 12345
		keys := map[placement.ShardID][]string{}
		for shard := placement.ShardID(1); shard <= 3; shard++ {
			for i := 0; len(keys[shard]) < 3; i++ {
				if k := fmt.Sprintf("key-%d", i); node.Route(k) == shard {
					keys[shard] = append(keys[shard], k)
				}
			}
		}
		named := putFor(keys[1][0], 0, lease)
		id := &storev1.RequestId{ClientId: make([]byte, 16), Sequence: 1}
		named.Command.RequestId = id
		var missing *raftnode.LeaseNotFoundError
		for shard, ks := range keys {
			if res := c.ask(t, 1, putFor(ks[0], 0, lease)); !errors.As(res.Err, &missing) || missing.ID != lease {
				t.Errorf("a put in shard %d on a lease that was not granted: %v", shard, res.Err)
			}
		}
		must(t, c.ask(t, 0, grantOf(lease, 4*time.Second)))
		var exists *raftnode.LeaseExistsError
		if res := c.ask(t, 0, grantOf(lease, 4*time.Second)); !errors.As(res.Err, &exists) {
			t.Errorf("a second grant: %v", res.Err)
		}
		first := must(t, c.ask(t, 0, named))
		for _, ks := range keys {
			for _, k := range ks {
				must(t, c.ask(t, 2, putFor(k, 0, lease)))
			}
		}
		for range 10 {
			c.Run(2 * time.Second)
			if got := must(t, c.ask(t, 1, keepAliveOf(lease))).Write.GetLeaseTtlMs(); got != 4000 {
				t.Fatalf("kept for %d ms", got)
			}
		}
		kept := c.Now()
		for _, ks := range keys {
			for _, k := range ks {
				if !c.exists(t, 1, k) {
					t.Errorf("%s is gone, and its lease is alive", k)
				}
			}
		}
		for shard, ks := range keys {
			for _, k := range ks {
				seen := c.gone(t, k, 15*time.Second)
				if seen < kept+3900*time.Millisecond || seen > kept+9*time.Second {
					t.Errorf("shard %d: %s is gone %s after the last keep-alive", shard, k, seen-kept)
				}
			}
		}
		// A retry of what was applied is told so, though the lease has ended; another put is refused.
		again := putFor(keys[1][0], 0, lease)
		again.Command.RequestId = id
		if res := must(t, c.ask(t, 1, again)); res.Write.GetRevision() != first.Write.GetRevision() {
			t.Errorf("a retry: %v, first %v", res.Write, first.Write)
		}
		for shard, ks := range keys {
			if res := c.ask(t, 1, putFor(ks[0], 0, lease)); !errors.As(res.Err, &missing) {
				t.Errorf("a put in shard %d on a lease that has ended: %v", shard, res.Err)
			}
		}
		if res := c.ask(t, 1, keepAliveOf(lease)); !errors.As(res.Err, &missing) {
			t.Errorf("keep-alive of a lease that has ended: %v", res.Err)
		}
	})
}

// A revoke ends the lease at once in its home, and its keys soon after everywhere.
func TestRevokedLeasesTakeTheirKeysAlong(t *testing.T) {
	inCluster(t, Options{Seed: 5, Shards: 2}, func(c *Cluster) {
		if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 && c.Leader(2) >= 0 }) {
			t.Fatal("no leaders")
		}
		c.Run(2 * time.Second)
		const lease = 99
		must(t, c.ask(t, 0, grantOf(lease, time.Hour)))
		for i := range 12 {
			must(t, c.ask(t, 0, putFor(fmt.Sprintf("key-%d", i), 0, lease)))
		}
		must(t, c.ask(t, 1, revokeOf(lease)))
		var missing *raftnode.LeaseNotFoundError
		if res := c.ask(t, 2, keepAliveOf(lease)); !errors.As(res.Err, &missing) {
			t.Errorf("keep-alive of a revoked lease: %v", res.Err)
		}
		for i := range 12 {
			c.gone(t, fmt.Sprintf("key-%d", i), 4*time.Second)
		}
	})
}
