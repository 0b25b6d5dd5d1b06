package raftnode

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// openAlone opens a cluster of one node.
func openAlone(t *testing.T, machine func(placement.ShardID) StateMachine) *Node {
	t.Helper()
	n, err := Open(Options{NodeID: "n1", Dir: t.TempDir(), Machine: machine, HeartbeatInterval: 20 * time.Millisecond, ElectionTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Formed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// stuckMachine does not come back from Apply until it is released.
type stuckMachine struct{ entered, release chan struct{} }

func (m *stuckMachine) Apply(uint64, []byte) []byte {
	close(m.entered)
	<-m.release
	return nil
}
func (m *stuckMachine) WriteSnapshot(io.Writer) error { return nil }
func (m *stuckMachine) ReadSnapshot(io.Reader) error  { return nil }

// A node that fails while its applier hangs answers what waits, with an outcome that says what it knows.
func TestFailureAnswersWhatWaits(t *testing.T) {
	m := &stuckMachine{entered: make(chan struct{}), release: make(chan struct{})}
	n := openAlone(t, func(placement.ShardID) StateMachine { return m })
	var wrote, read Result
	var waiting sync.WaitGroup
	waiting.Go(func() {
		wrote = n.Do(context.Background(), &Request{Shard: DataShard, Command: &storev1.Command{Body: &storev1.Command_Opaque{Opaque: []byte("x")}}})
	})
	<-m.entered
	answered := make(chan Result, 1)
	n.Submit(&Request{
		Shard: DataShard, Command: &storev1.Command{Body: &storev1.Command_Opaque{Opaque: []byte("y")}},
		Done: func(r Result) { answered <- r },
	})
	waiting.Go(func() { read = n.Do(context.Background(), &Request{Shard: DataShard, Read: &peerv1.ReadRequest{}}) })
	n.fail(errors.New("the disk is gone"))
	waiting.Wait()
	var unknown *UnknownOutcomeError
	if !errors.As(wrote.Err, &unknown) {
		t.Errorf("a write that was proposed: %v", wrote.Err)
	}
	if !errors.Is(read.Err, ErrStopped) {
		t.Errorf("a read: %v", read.Err)
	}
	if r := <-answered; r.Err == nil {
		t.Error("a write was acknowledged by a node that has failed")
	}
	close(m.release)
	if err := n.Close(); err == nil {
		t.Error("close does not say that the node has failed")
	}
}

// A node says how it stands until it is closed, and beside that.
func TestStatusBesideClose(t *testing.T) {
	for range 5 {
		n := openAlone(t, nil)
		stop := make(chan struct{})
		var asking sync.WaitGroup
		for range 2 {
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						n.Status()
					}
				}
			})
		}
		err := n.Close()
		close(stop)
		asking.Wait()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A member with a leader is ready only after it has applied what the leader had when the node was opened.
func TestReadyMeansCaughtUp(t *testing.T) {
	n := openAlone(t, nil)
	defer n.Close()
	for len(n.Status().NotReady) > 0 {
		n.housekeeper.wake()
	}
	m := n.member(DataShard)
	m.askedLead.Store(true) // nobody finds out any more
	m.caughtUp.Store(false)
	if s := n.Status(); len(s.NotReady) != 1 || !strings.Contains(s.NotReady[0], "caught up") {
		t.Errorf("not ready: %q", s.NotReady)
	}
}

// Before the cluster has formed every question has an answer.
func TestQuestionsBeforeFormation(t *testing.T) {
	n, err := Open(Options{
		NodeID: "n1", Dir: t.TempDir(),
		Members: []Member{{ID: "n1", PeerAddress: "127.0.0.1:0"}, {ID: "n2", PeerAddress: "127.0.0.1:1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Read(t.Context(), DataShard, nil); !errors.Is(err, ErrForming) {
		t.Errorf("read: %v", err)
	}
	if res := n.Do(t.Context(), &Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"a"}}}); !errors.Is(res.Err, ErrForming) {
		t.Errorf("do: %v", res.Err)
	}
	if shard := n.Route("a"); shard != placement.MetaShard {
		t.Errorf("route: shard %d", shard)
	}
}

// A write that was proposed at an index which the state has then passed by a snapshot may be in that snapshot: nobody says that it is not.
func TestASnapshotLeavesOutcomesUnknown(t *testing.T) {
	n := &Node{shards: newShardMap(&storev1.Formation{})}
	n.identity.Store(&storev1.Identity{})
	m := &member{shard: DataShard}
	var got error
	m.proposed.add(5, 2, []*Request{{Shard: DataShard, Done: func(r Result) { got = r.Err }}}, time.Time{})
	(&applier{n: n}).answer(&applyJob{member: m, shard: DataShard, entries: []*raftpb.Entry{{Index: new(uint64(9)), Term: new(uint64(3))}}})
	var unknown *UnknownOutcomeError
	if !errors.As(got, &unknown) {
		t.Errorf("answered %v", got)
	}
}
