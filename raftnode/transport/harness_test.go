package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// patience is how long a test waits for what must happen. No test waits for it to pass.
const patience = 20 * time.Second

var cluster = []byte("0123456789abcdef")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// change is a PeerUp or, with a cause, a PeerDown.
type change struct {
	node  placement.NodeID
	cause error
}

// owner is a Handler that records.
type owner struct {
	changes  chan change
	batches  chan delivery
	pieces   atomic.Int64 // how often Heard was called
	snapshot func(from Peer, start *peerv1.SnapshotStart, body io.Reader) error
	call     func(from Peer, r *peerv1.CallRequest) (*peerv1.CallResponse, error)
}

type delivery struct {
	from     Peer
	messages []*peerv1.Message
}

func newOwner() *owner {
	return &owner{changes: make(chan change, 1<<12), batches: make(chan delivery, 1<<16)}
}

func (o *owner) HandleMessages(from Peer, ms []*peerv1.Message) { o.batches <- delivery{from, ms} }

func (o *owner) Heard(Peer) { o.pieces.Add(1) }

func (o *owner) HandleSnapshot(from Peer, start *peerv1.SnapshotStart, body io.Reader) error {
	return o.snapshot(from, start, body)
}

func (o *owner) HandleCall(from Peer, r *peerv1.CallRequest) (*peerv1.CallResponse, error) {
	return o.call(from, r)
}

func (o *owner) PeerUp(node placement.NodeID)                { o.changes <- change{node: node} }
func (o *owner) PeerDown(node placement.NodeID, cause error) { o.changes <- change{node, cause} }

func (o *owner) waitUp(t testing.TB, node placement.NodeID) {
	t.Helper()
	if c := receive(t, o.changes); c.node != node || c.cause != nil {
		t.Fatalf("want %s up, got %+v", node, c)
	}
}

func (o *owner) waitDown(t testing.TB, node placement.NodeID) error {
	t.Helper()
	c := receive(t, o.changes)
	if c.node != node || c.cause == nil {
		t.Fatalf("want %s down, got %+v", node, c)
	}
	return c.cause
}

// quiet checks that the handler was told nothing more.
func (o *owner) quiet(t testing.TB) {
	t.Helper()
	select {
	case c := <-o.changes:
		t.Fatalf("unexpected change %+v", c)
	default:
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}

func contextFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// options are those of a node of the test cluster.
func options(id placement.NodeID) Options {
	return Options{
		NodeID: id, Incarnation: 7, ClusterID: func() []byte { return cluster },
		Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	}
}

func start(t testing.TB, o Options, h Handler) *Transport {
	t.Helper()
	tr, err := New(o, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func peersOf(id placement.NodeID, tr *Transport) map[placement.NodeID]string {
	return map[placement.NodeID]string{id: tr.Addr().String()}
}

// pair is two nodes of which a sends to b.
type pair struct {
	a, b   *Transport
	oa, ob *owner
}

func newPair(t testing.TB, change ...func(*Options)) *pair {
	t.Helper()
	p := &pair{oa: newOwner(), ob: newOwner()}
	a, b := options("a"), options("b")
	for _, c := range change {
		c(&a)
		c(&b)
	}
	p.a, p.b = start(t, a, p.oa), start(t, b, p.ob)
	p.a.SetPeers(peersOf("b", p.b))
	p.oa.waitUp(t, "b")
	return p
}

func raftMessage(shard uint32, payload string) *peerv1.Message {
	return &peerv1.Message{Body: &peerv1.Message_Raft{Raft: &peerv1.RaftMessage{Shard: shard, Message: []byte(payload)}}}
}

func payloads(ms []*peerv1.Message) []string {
	var out []string
	for _, m := range ms {
		out = append(out, string(m.GetRaft().GetMessage()))
	}
	return out
}

// collect waits for n messages.
func (o *owner) collect(t testing.TB, n int) []*peerv1.Message {
	t.Helper()
	var ms []*peerv1.Message
	for len(ms) < n {
		ms = append(ms, receive(t, o.batches).messages...)
	}
	if len(ms) != n {
		t.Fatalf("want %d messages, got %d", n, len(ms))
	}
	return ms
}

// stranger is a bare connection to a transport.
func stranger(t testing.TB, tr *Transport) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", tr.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func helloOf(from, to placement.NodeID, purpose peerv1.Purpose) *peerv1.Hello {
	return &peerv1.Hello{
		ProtocolVersion: protocolVersion, Purpose: purpose, ClusterId: cluster,
		FromNodeId: string(from), FromIncarnation: 9, ToNodeId: string(to),
	}
}

// introduced is a bare connection that has said Hello.
func introduced(t testing.TB, tr *Transport, h *peerv1.Hello) net.Conn {
	t.Helper()
	c := stranger(t, tr)
	if err := writeMessage(c, kindHello, h); err != nil {
		t.Fatal(err)
	}
	answer, err := readHello(c)
	if err != nil {
		t.Fatal(err)
	}
	if r := answer.GetRefusal(); r != "" {
		t.Fatalf("refused: %s", r)
	}
	return c
}

// waitClosed reads until the other side closes.
func waitClosed(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection stayed open")
	}
}

func frameOf(k kind, payload []byte) []byte {
	frame := append(make([]byte, headerBytes), payload...)
	seal(frame, k)
	return frame
}

func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

// retry repeats f until it is true.
func retry(ctx context.Context, f func() bool) error {
	for !f() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
