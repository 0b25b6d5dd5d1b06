package raftnode

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// frozen is a node that takes a snapshot in and then stands still.
type frozen struct {
	staged chan struct{}
	thaw   chan struct{}
}

func (f *frozen) HandleSnapshot(_ transport.Peer, _ *peerv1.SnapshotStart, body io.Reader) error {
	_, err := io.Copy(io.Discard, body)
	f.staged <- struct{}{}
	<-f.thaw
	return err
}
func (f *frozen) HandleMessages(transport.Peer, []*peerv1.Message) {}
func (f *frozen) HandleCall(transport.Peer, *peerv1.CallRequest) (*peerv1.CallResponse, error) {
	return nil, errors.New("it is frozen")
}
func (f *frozen) Heard(transport.Peer)             {}
func (f *frozen) PeerUp(placement.NodeID)          {}
func (f *frozen) PeerDown(placement.NodeID, error) {}

// connected makes a transport on loopback.
func connected(t *testing.T, id placement.NodeID, h transport.Handler) *transport.Transport {
	t.Helper()
	tr, err := transport.New(transport.Options{
		NodeID: id, Incarnation: 7, ClusterID: func() []byte { return []byte("0123456789abcdef") }, Listen: "127.0.0.1:0",
		Logger: quietLog(),
	}, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// A receiver that stands still once it has the snapshot holds neither the place of other snapshots nor the log for ever: the transfer ends
// with the connection, or after a while in which nothing comes of it, and raft is told.
func TestSnapshotToAFrozenReceiver(t *testing.T) {
	far := &frozen{staged: make(chan struct{}), thaw: make(chan struct{})}
	receiver := connected(t, "n2", far)
	sender := connected(t, "n1", &frozen{})
	sender.SetPeers(map[placement.NodeID]string{"n2": receiver.Addr().String()})
	engine, err := openOwn("own", Options{FS: vfs.NewMem(), Machine: func(placement.ShardID) StateMachine { return &slowMachine{} }}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine.open(DataShard); err != nil {
		t.Fatal(err)
	}
	runtime := &stoppedClock{Runtime: NewRuntime(), now: time.Unix(1000, 0)}
	n := &Node{log: quietLog(), runtime: runtime, transport: sender, engine: engine}
	reported := make(chan struct{}, 1)
	w := &worker{n: n, wake: func() { reported <- struct{}{} }}
	m := &member{shard: DataShard, worker: w, configuration: &storev1.Configuration{
		Voters: []uint64{2}, Replicas: []*storev1.Replica{{Id: 2, NodeId: "n2", Incarnation: 7}},
	}}

	nobody, everybody := func(placement.NodeID) bool { return false }, func(placement.NodeID) bool { return true }
	for name, end := range map[string]func(){
		"connection lost": func() { n.sending.peerDown("n2") },
		"stuck":           func() { runtime.advance(stagingMax + time.Second); n.sending.expire(runtime.Now(), nobody) },
		"silent":          func() { n.sending.expire(runtime.Now(), everybody) },
	} {
		w.sendSnapshot(m, &raftpb.Message{Type: raftpb.MsgSnap.Enum(), To: new(uint64(2))})
		<-far.staged
		n.sending.peerDown("n3")
		n.sending.expire(runtime.Now(), everybody) // It has only just begun to say nothing.
		runtime.advance(stagingMax / 2)
		n.sending.expire(runtime.Now(), nobody)
		select {
		case <-reported:
			t.Errorf("%s: given up too early", name)
		default:
		}
		end()
		<-reported
		if e := w.inbox.events[0].(snapshotSent); e.to != 2 || e.ok {
			t.Errorf("%s: reported %+v", name, e)
		}
		w.inbox.events = nil
		far.thaw <- struct{}{}
	}
	runtime.Close()
	if len(n.sending.transfers) != 0 {
		t.Error("a transfer that has ended takes a place")
	}
	if err := errors.Join(sender.Close(), receiver.Close(), engine.close()); err != nil {
		t.Error(err)
	}
}

// Two snapshots are sent at once, and no more.
func TestSnapshotsSentAtOnce(t *testing.T) {
	var s sending
	var last *outgoing
	for range snapshotsMax {
		o, ok := s.begin("n2", time.Time{})
		if !ok {
			t.Fatal("no room")
		}
		last = o
	}
	if _, ok := s.begin("n3", time.Time{}); ok {
		t.Error("one too many")
	}
	last.end()
	if !errors.Is(context.Cause(last.ctx), context.Canceled) {
		t.Errorf("ended: %v", context.Cause(last.ctx))
	}
	if _, ok := s.begin("n3", time.Time{}); !ok {
		t.Error("no room after one has ended")
	}
}

// stoppedClock is a Runtime whose time passes when a test says so.
type stoppedClock struct {
	Runtime
	mu  sync.Mutex // guards now
	now time.Time
}

func (c *stoppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stoppedClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
