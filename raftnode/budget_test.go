package raftnode

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// alone opens a node that is a cluster by itself, and waits until it leads.
func alone(t *testing.T, adjust func(*Options)) *Node {
	t.Helper()
	o := Options{
		NodeID: "n1", Dir: "n1", FS: vfs.NewMem(), Logger: quietLog(),
		CacheBytes: 8 << 20, MemTableBytes: 4 << 20, SegmentBytes: 4 << 20,
	}
	if adjust != nil {
		adjust(&o)
	}
	n, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); !errors.Is(err, n.Err()) {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.Formed(ctx); err != nil {
		t.Fatal(err)
	}
	if res := n.Do(ctx, putOf("first", 1)); res.Err != nil {
		t.Fatal(res.Err)
	}
	for { // What a new cluster writes by itself.
		res := n.Do(ctx, &Request{Shard: placement.MetaShard, Read: &peerv1.ReadRequest{Keys: []string{metaMapKey}}})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		if res.Read.GetRecords()[0].GetRecord() != nil {
			return n
		}
	}
}

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func putOf(key string, size int) *Request {
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: bytes.Repeat([]byte("v"), size)}
	return &Request{AutoShard: true, Command: &storev1.Command{
		Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}},
	}}
}

// All requests that a node holds count, wherever they wait; one too many is refused before anything is proposed.
func TestRequestsShareABudget(t *testing.T) {
	n := alone(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	proposals := n.Metrics().Proposals
	n.requests.bytes.Add(requestBytesMax)
	var over *OverloadedError
	for name, r := range map[string]*Request{
		"write": putOf("k", 1<<10), "read": {AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"k"}}},
	} {
		if res := n.Do(ctx, r); !errors.As(res.Err, &over) || over.Limit != requestBytesMax || over.Actual < requestBytesMax {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
	if got := n.Metrics().Proposals; got != proposals {
		t.Error("something was proposed")
	}
	n.requests.bytes.Add(-requestBytesMax)
	for range 10 {
		if res := n.Do(ctx, putOf("k", 1<<10)); res.Err != nil {
			t.Fatal(res.Err)
		}
		if res := n.Do(ctx, &Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"k"}}}); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	if res := n.Do(ctx, putOf("", 1)); res.Err == nil {
		t.Fatal("a write without a key is taken")
	}
	for n.requests.bytes.Load() != 0 { // Those of the first write of the node are answered at about the same time.
		if ctx.Err() != nil {
			t.Fatalf("%d bytes are held with no request under way", n.requests.bytes.Load())
		}
	}
}

// A request that is alone is never too large for the budget.
func TestBudgetTakesOneRequest(t *testing.T) {
	var b budget
	r := &Request{bytes: requestBytesMax, Done: func(Result) {}}
	if err := b.take(r); err != nil {
		t.Fatal(err)
	}
	if err := b.take(&Request{}); err == nil {
		t.Error("another was taken")
	}
	r.done(Result{})
	if held := b.bytes.Load(); held != 0 {
		t.Errorf("%d bytes held", held)
	}
}

// Messages of peers that wait for a worker are bounded in bytes, and a small one still gets in behind a large one that does not.
func TestPeerMessagesAreBoundedInBytes(t *testing.T) {
	w := &worker{n: &Node{}, wake: func() {}}
	event := func(size int) messageEvent {
		return messageEvent{m: &member{}, message: &raftpb.Message{}, bytes: size}
	}
	w.postMessages([]messageEvent{event(2 * messagesBytesMax)})
	if len(w.inbox.events) != 1 {
		t.Fatal("a message that is alone is dropped")
	}
	w.inbox.events, w.inbox.messages, w.inbox.messageBytes = nil, 0, 0
	for range 4 {
		w.postMessages([]messageEvent{event(messagesBytesMax/2 - 10), event(5)})
	}
	if got := len(w.inbox.events); got != 6 || w.inbox.messageBytes > messagesBytesMax {
		t.Errorf("%d messages, %d bytes wait", got, w.inbox.messageBytes)
	}
	if got := w.n.Metrics().DroppedMessages; got != 2 {
		t.Errorf("%d dropped", got)
	}
}

// full is a transport whose queues are full.
type full struct{ Transport }

func (full) Send(placement.NodeID, *peerv1.Message) bool { return false }

// later is a Runtime whose timers are fired by the test.
type later struct {
	Runtime
	timers []func()
}

func (l *later) Now() time.Time                  { return time.Unix(1000, 0) }
func (l *later) After(_ time.Duration, f func()) { l.timers = append(l.timers, f) }

// A request for a node for which too much waits is tried a few times, and then refused for what it is: overload, not a missing leader.
func TestAFullOutboxIsOverload(t *testing.T) {
	runtime := &later{}
	n := &Node{runtime: runtime, transport: full{}, silence: newSilence(nil, time.Second, time.Second)}
	n.seed(1)
	n.forwards = newForwards(n)
	n.reachable.Store(placement.NodeID("n2"), true)
	n.shards = newShardMap(&storev1.Formation{Shards: []*storev1.Formation_Shard{{Id: 1, Replicas: []*storev1.Replica{{Id: 2, NodeId: "n2"}}}}})
	var got error
	r := &Request{Shard: 1, Command: &storev1.Command{}, Deadline: runtime.Now().Add(time.Minute), Done: func(res Result) { got = res.Err }}
	n.forward(r, "n2")
	tries := 1
	for ; got == nil && len(runtime.timers) > 0; tries++ {
		retry := runtime.timers[0]
		runtime.timers = runtime.timers[1:]
		retry()
	}
	var over *OverloadedError
	if !errors.As(got, &over) || tries != crowdedMax {
		t.Errorf("after %d tries: %v", tries, got)
	}
}
