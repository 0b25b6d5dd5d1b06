package transport

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

func TestMessagesArriveInOrderWithTheirSender(t *testing.T) {
	p := newPair(t)
	want := names("m", 1000)
	for _, text := range want {
		if !p.a.Send("b", raftMessage(3, text)) {
			t.Fatalf("%s refused", text)
		}
	}
	d := receive(t, p.ob.batches)
	if d.from != (Peer{NodeID: "a", Incarnation: 7}) {
		t.Fatalf("sender %+v", d.from)
	}
	got := d.messages
	if len(got) < len(want) {
		got = append(got, p.ob.collect(t, len(want)-len(got))...)
	}
	if !slices.Equal(payloads(got), want) {
		t.Fatal("messages differ")
	}
	if got[0].GetRaft().GetShard() != 3 {
		t.Fatal("fields are lost")
	}
	p.a.Close() // so that all that is counted has been
	m := p.b.Metrics()
	if m.MessagesReceived != 1000 || p.a.Metrics().MessagesSent != 1000 {
		t.Fatalf("metrics %+v", m)
	}
}

func TestManySenders(t *testing.T) {
	p := newPair(t)
	const senders, each = 8, 2000
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				m := raftMessage(uint32(s), fmt.Sprint(i))
				for !p.a.Send("b", m) {
					runtime.Gosched()
				}
			}
		})
	}
	next := make([]int, senders)
	for _, m := range p.ob.collect(t, senders*each) {
		s := m.GetRaft().GetShard()
		if got := string(m.GetRaft().GetMessage()); got != fmt.Sprint(next[s]) {
			t.Fatalf("sender %d: want %d, got %s", s, next[s], got)
		}
		next[s]++
	}
	wg.Wait()
	p.a.Close()
	if m := p.a.Metrics(); m.BatchesSent > m.MessagesSent || m.MessagesSent != senders*each || m.MessagesLost != 0 {
		t.Fatalf("metrics %+v", m)
	}
}

func TestOneMessageToSeveralPeers(t *testing.T) {
	p := newPair(t)
	oc := newOwner()
	c := start(t, options("c"), oc)
	p.a.SetPeers(map[NodeID]string{"a": "ignored", "b": p.b.Addr().String(), "c": c.Addr().String()})
	p.oa.waitUp(t, "c")
	m := raftMessage(1, "shared")
	if !p.a.Send("b", m) || !p.a.Send("c", m) {
		t.Fatal("refused")
	}
	p.ob.collect(t, 1)
	oc.collect(t, 1)
}

func TestSendRefusesWhatItCannotSend(t *testing.T) {
	p := newPair(t, func(o *Options) { o.MaxFrameBytes = 1 << 20 })
	if p.a.Send("nobody", raftMessage(1, "x")) {
		t.Error("an unknown peer was accepted")
	}
	if p.a.Send("b", raftMessage(1, strings.Repeat("x", 1<<20))) {
		t.Error("a message larger than a frame was accepted")
	}
	if !p.a.Send("b", raftMessage(1, strings.Repeat("x", 1<<20-100))) {
		t.Error("a message that fits a frame was refused")
	}
	p.ob.collect(t, 1)
	if got := p.a.Metrics().MessagesRefused; got != 2 {
		t.Errorf("%d refused", got)
	}
}

func TestSendToAPeerThatIsNotConnected(t *testing.T) {
	o := newOwner()
	tr := start(t, options("a"), o)
	tr.SetPeers(map[NodeID]string{"b": closedAddress(t)})
	o.waitDown(t, "b")
	if tr.Send("b", raftMessage(1, "x")) {
		t.Fatal("accepted without a connection")
	}
}

// stuck is an owner whose HandleMessages blocks until released.
type stuck struct {
	*owner
	release chan struct{}
}

func (s *stuck) HandleMessages(from Peer, ms []*peerv1.Message) {
	<-s.release
	s.owner.HandleMessages(from, ms)
}

func TestFullQueueRefusesAndLosesNothing(t *testing.T) {
	oa, ob := newOwner(), &stuck{newOwner(), make(chan struct{})}
	small := options("a")
	small.QueueMessages = 100
	a, b := start(t, small, oa), start(t, options("b"), ob)
	t.Cleanup(sync.OnceFunc(func() { a.Close() }))
	a.SetPeers(peersOf("b", b))
	oa.waitUp(t, "b")
	filler := strings.Repeat("f", 64<<10)
	sent := 0
	for refused := 0; refused < 1000; { // the kernel's buffers fill up first
		if a.Send("b", raftMessage(uint32(sent), filler)) {
			sent++
			refused = 0
			continue
		}
		refused++
		runtime.Gosched()
	}
	close(ob.release)
	for i, m := range ob.collect(t, sent) {
		if m.GetRaft().GetShard() != uint32(i) {
			t.Fatalf("message %d is out of order", i)
		}
	}
}

func TestMessagesForAnotherIncarnationAreDropped(t *testing.T) {
	p := newPair(t)
	to := func(incarnation uint64, text string) *peerv1.Message {
		m := raftMessage(1, text)
		m.GetRaft().ToIncarnation = incarnation
		return m
	}
	for _, m := range []*peerv1.Message{to(8, "stale"), {}, to(7, "mine"), to(0, "any")} {
		if !p.a.Send("b", m) {
			t.Fatal("refused")
		}
	}
	if got := payloads(p.ob.collect(t, 2)); !slices.Equal(got, []string{"mine", "any"}) {
		t.Fatal(got)
	}
	if got := p.b.Metrics().MessagesDropped; got != 2 {
		t.Fatalf("%d dropped", got)
	}
}

func TestLargeMessages(t *testing.T) {
	p := newPair(t)
	for _, size := range []int{readBytes - headerBytes, readBytes, readBytes + 1, growBytes, 5<<20 + 3} {
		text := strings.Repeat("z", size)
		if !p.a.Send("b", raftMessage(1, text)) || !p.a.Send("b", raftMessage(2, "small")) {
			t.Fatal("refused")
		}
		if got := payloads(p.ob.collect(t, 2)); got[0] != text || got[1] != "small" {
			t.Fatalf("%d bytes: contents differ", size)
		}
	}
}
