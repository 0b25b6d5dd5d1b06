package raftnode

import (
	"log/slog"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// gate is a transport that takes messages only while it is open.
type gate struct {
	Transport
	open bool
	sent []uint64
}

func (g *gate) Send(_ placement.NodeID, m *peerv1.Message) bool {
	if g.open {
		g.sent = append(g.sent, m.GetForwardResponse().GetId())
	}
	return g.open
}

// A node may be asked by one to which it has no connection yet. Its answers wait for that, until their deadlines.
func TestAnswersWaitForAConnection(t *testing.T) {
	runtime, transport := &later{}, &gate{}
	n := &Node{runtime: runtime, transport: transport}
	n.answers = &pendingAnswers{n: n}
	soon := runtime.Now().Add(time.Minute)
	n.answers.send("n2", &peerv1.ForwardResponse{Id: 1}, soon)
	n.answers.send("n2", &peerv1.ForwardResponse{Id: 2}, runtime.Now())
	n.answers.send("n2", &peerv1.ForwardResponse{Id: 3}, soon)
	retry := func() {
		t.Helper()
		if len(runtime.timers) != 1 {
			t.Fatalf("%d timers", len(runtime.timers))
		}
		f := runtime.timers[0]
		runtime.timers = nil
		f()
	}
	retry()
	if !n.answers.pending() {
		t.Error("nothing keeps a node that is leaving")
	}
	if got := n.metrics.lostAnswers.Load(); got != 1 {
		t.Errorf("%d answers lost, want the one that nobody waits for", got)
	}
	transport.open = true
	retry()
	if len(transport.sent) != 2 || transport.sent[0] != 1 || transport.sent[1] != 3 {
		t.Errorf("sent %v", transport.sent)
	}
	if len(runtime.timers) != 0 || n.answers.bytes != 0 || n.answers.pending() {
		t.Error("something still waits")
	}
}

func TestWaitingAnswersAreBounded(t *testing.T) {
	n := &Node{runtime: &later{}, transport: &gate{}}
	n.answers = &pendingAnswers{n: n}
	large := &peerv1.ForwardResponse{Body: &peerv1.ForwardResponse_Opaque{Opaque: make([]byte, answersBytesMax/4)}}
	for range 4 {
		n.answers.send("n2", large, n.runtime.Now().Add(time.Minute))
	}
	if len(n.answers.waiting) != 3 || n.metrics.lostAnswers.Load() != 1 {
		t.Errorf("%d wait, %d lost", len(n.answers.waiting), n.metrics.lostAnswers.Load())
	}
}

// A peer that has said nothing since its connection came up is not asked: it may have none of its own yet to answer on.
func TestUnheardPeersAreNotAsked(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler), silence: newSilence([]Member{{ID: "n2"}}, time.Second, 100*time.Millisecond)}
	n.options.NodeID, n.transport, n.shards = "n1", &gate{open: true}, &shardMap{}
	n.serving.Store(true)
	h := peerHandler{n}
	h.PeerUp("n2")
	if n.canAsk("n2") {
		t.Error("asked before its first word")
	}
	n.heard("n2")
	if !n.canAsk("n2") {
		t.Error("not asked after it")
	}
}

// words keeps what is sent, and whether the peer could be asked then.
type words struct {
	Transport
	n     *Node
	sent  []*peerv1.Message
	asked bool
}

func (w *words) Send(to placement.NodeID, m *peerv1.Message) bool {
	w.sent, w.asked = append(w.sent, m), w.asked || w.n.canAsk(to)
	return true
}

// The first word on a connection is how the disk of the node is: whoever has been asked for something by it knows that, and takes no puts for a
// full one (R24).
func TestTheFirstWordTellsOfAFullDisk(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler), silence: newSilence([]Member{{ID: "n2"}}, time.Second, 100*time.Millisecond), shards: &shardMap{}}
	w := &words{n: n}
	n.options.NodeID, n.transport = "n1", w
	n.reserve.full.Store(true)
	n.heard("n2") // on its own connection
	peerHandler{n}.PeerUp("n2")
	if len(w.sent) != 1 || !w.sent[0].GetHeartbeat().GetDiskFull() || w.asked {
		t.Errorf("sent %v, and the peer could be asked before that: %t", w.sent, w.asked)
	}
	if !n.canAsk("n2") {
		t.Error("the peer cannot be asked after it")
	}
}
