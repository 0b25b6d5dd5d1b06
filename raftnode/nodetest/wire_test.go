package nodetest

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// says is a message of shard 1 that a process sends.
type says struct {
	from int
	m    *raftpb.Message
}

func app(replica, term, commit uint64, entries ...*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: &replica, Term: &term, Commit: &commit, Entries: entries}
}

func vote(to, term uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgVoteResp.Enum(), To: &to, Term: &term}
}

func entry(data string) *raftpb.Entry {
	return &raftpb.Entry{Index: proto.Uint64(7), Term: proto.Uint64(50), Data: []byte(data)}
}

// TestWire lets processes say what replicas must not.
func TestWire(t *testing.T) {
	const high = 50 // a term that the cluster has not reached
	for name, c := range map[string]struct {
		said []says
		want string
	}{
		"two leaders":          {[]says{{0, app(1, high, 900)}, {1, app(2, high, 900)}}, "replicas 1 and 2 both lead in term 50"},
		"an entry in two ways": {[]says{{0, app(1, high, 0, entry("a"))}, {0, app(1, high, 0, entry("b"))}}, "entry 7 of term 50 is not the same everywhere"},
		"a term that falls":    {[]says{{0, app(1, high, 0)}, {0, app(1, high-1, 0)}}, "says term 49 after term 50"},
		"a commit that falls":  {[]says{{0, app(1, high, 900)}, {0, app(1, high, 899)}}, "says commit 899 after commit 900"},
		"two votes":            {[]says{{0, vote(2, high)}, {0, vote(3, high)}}, "votes for 2 and 3 in term 50"},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, Options{Seed: 1}, func(cl *Cluster) {
				cl.Run(time.Second)
				for _, s := range c.said {
					data, err := proto.Marshal(s.m)
					if err != nil {
						t.Fatal(err)
					}
					cl.wire.sent(cl.network.link(cl.processes[s.from], cl.processes[2]), &peerv1.RaftMessage{Shard: 1, Message: data})
				}
				wantViolation(t, cl, c.want)
			})
		})
	}
}

// TestLeaderOfTwoLives leads in one term before and after a restart.
func TestLeaderOfTwoLives(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		lead := func() {
			data, err := proto.Marshal(app(1, 50, 0))
			if err != nil {
				t.Fatal(err)
			}
			c.wire.sent(c.network.link(c.processes[0], c.processes[1]), &peerv1.RaftMessage{Shard: 1, Message: data})
		}
		lead()
		c.Stop(0)
		c.Start(0)
		c.Run(time.Second)
		lead()
		wantViolation(t, c, "replica 1 leads in term 50 before and after a restart")
	})
}

// TestPromises crashes a replica of which more is remembered than its disk holds.
func TestPromises(t *testing.T) {
	for name, c := range map[string]struct {
		remember func(*promises, promiser)
		want     string
	}{
		"entries": {func(ps *promises, at promiser) { ps.known[at].acked += 1000 }, "was acknowledged in term"},
		"a term":  {func(ps *promises, at promiser) { ps.known[at].term += 10 }, "something was promised in term"},
		"a vote":  {func(ps *promises, at promiser) { ps.known[at].vote = 77 }, "promised to 77"},
		"applied": {func(ps *promises, at promiser) { ps.stood[at] = standing{applied: 1000} }, "before it {term:0 commit:0 applied:1000}"},
		"a state": {func(ps *promises, _ promiser) {
			for at := range ps.states {
				ps.states[at] = replicaState{node: "n9"}
			}
		}, "is not the same on n9 and"},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, Options{Seed: 1, SnapshotEntries: 1}, func(cl *Cluster) {
				write(t, cl, "x")
				cl.Run(5 * time.Second)
				follower := (cl.Leader(1) + 1) % 3
				// What the disk holds now is looked at, so that the next look finds the same state.
				cl.promises.check(cl.processes[follower])
				c.remember(cl.promises, promiser{follower, 1})
				cl.Crash(follower, simfs.KeepAll)
				wantViolation(t, cl, c.want)
			})
		})
	}
}
