package transport

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

type NodeID = placement.NodeID

// closedAddress is one where nobody listens.
func closedAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestReconnects(t *testing.T) {
	p := newPair(t)
	address := p.b.Addr().String()
	for range 3 {
		p.b.Close()
		p.oa.waitDown(t, "b")
		if p.a.Send("b", raftMessage(1, "into the void")) {
			t.Fatal("accepted without a connection")
		}
		o := options("b")
		o.Listen = address
		p.ob = newOwner()
		p.b = start(t, o, p.ob)
		p.oa.waitUp(t, "b")
		if !p.a.Send("b", raftMessage(1, "again")) {
			t.Fatal("refused")
		}
		if got := payloads(p.ob.collect(t, 1)); got[0] != "again" {
			t.Fatalf("a message of an earlier connection: %q", got)
		}
	}
	p.oa.quiet(t)
}

func TestRefusedConnectionIsReportedOnce(t *testing.T) {
	o := newOwner()
	tr := start(t, options("a"), o)
	address := closedAddress(t)
	tr.SetPeers(map[NodeID]string{"b": address})
	if cause := o.waitDown(t, "b"); !errors.Is(cause, syscall.ECONNREFUSED) {
		t.Fatalf("cause %v", cause)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 4 { // more attempts, which all fail
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	o.quiet(t)
}

func TestAddressChange(t *testing.T) {
	p := newPair(t)
	oc := newOwner()
	moved := start(t, options("b"), oc)
	p.a.SetPeers(peersOf("b", moved))
	if cause := p.oa.waitDown(t, "b"); !errors.Is(cause, ErrAddressChanged) {
		t.Fatalf("cause %v", cause)
	}
	p.oa.waitUp(t, "b")
	if !p.a.Send("b", raftMessage(1, "there")) {
		t.Fatal("refused")
	}
	oc.collect(t, 1)
	p.a.SetPeers(peersOf("b", moved)) // the same again is no change
	p.oa.quiet(t)
}

func TestRemovedAndAddedAgain(t *testing.T) {
	p := newPair(t)
	for range 20 {
		p.a.SetPeers(nil)
		if p.a.Send("b", raftMessage(1, "x")) {
			t.Fatal("accepted for a removed peer")
		}
		p.a.SetPeers(peersOf("b", p.b))
		if cause := p.oa.waitDown(t, "b"); !errors.Is(cause, ErrPeerRemoved) {
			t.Fatalf("cause %v", cause)
		}
		p.oa.waitUp(t, "b")
	}
	p.oa.quiet(t)
}

func TestRemovedPeerIsCutOff(t *testing.T) {
	p := newPair(t)
	p.b.SetPeers(peersOf("a", p.a))
	p.ob.waitUp(t, "a")
	p.b.SetPeers(nil)
	p.oa.waitDown(t, "b") // b closed what a had connected; a is free to try again
	p.oa.waitUp(t, "b")
}

func TestCloseTellsNobody(t *testing.T) {
	p := newPair(t)
	p.a.Close()
	p.oa.quiet(t)
	if p.a.Send("b", raftMessage(1, "x")) {
		t.Fatal("accepted after Close")
	}
	p.a.SetPeers(peersOf("b", p.b))
	if err := p.a.Start(); err == nil {
		t.Fatal("started after Close")
	}
	if err := p.a.Close(); err != nil {
		t.Fatal(err)
	}
	p.oa.quiet(t)
}

func TestPeersAreKnownBeforeStart(t *testing.T) {
	ob := newOwner()
	b := start(t, options("b"), ob)
	oa := newOwner()
	a, err := New(options("a"), oa)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.SetPeers(peersOf("b", b))
	a.SetPeers(nil)
	a.SetPeers(peersOf("b", b))
	oa.quiet(t)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	oa.waitUp(t, "b")
}

func TestSilentConnectionIsReplaced(t *testing.T) {
	p := newPair(t, func(o *Options) { o.IdleTimeout = 100 * time.Millisecond })
	p.oa.waitDown(t, "b") // b heard nothing and closed
	p.oa.waitUp(t, "b")
}

func TestPeerThatTalksBackIsDropped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := newOwner()
	tr := start(t, options("a"), o)
	tr.SetPeers(map[NodeID]string{"b": l.Addr().String()})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := readHello(c); err != nil {
		t.Fatal(err)
	}
	if err := writeMessage(c, kindHello, helloOf("b", "a", peerv1.Purpose_PURPOSE_MESSAGES)); err != nil {
		t.Fatal(err)
	}
	o.waitUp(t, "b")
	if _, err := c.Write([]byte("hm")); err != nil {
		t.Fatal(err)
	}
	if cause := o.waitDown(t, "b"); !errors.Is(cause, ErrBadFrame) {
		t.Fatalf("cause %v", cause)
	}
}

// A peer that stops reading must not hold its sender for ever, nor Close.
func TestPeerThatDoesNotReadIsDropped(t *testing.T) {
	oa, ob := newOwner(), &stuck{newOwner(), make(chan struct{})}
	impatient := options("a")
	impatient.IdleTimeout = 200 * time.Millisecond
	b := start(t, options("b"), ob)
	defer b.Close()
	defer close(ob.release)
	a := start(t, impatient, oa)
	a.SetPeers(peersOf("b", b))
	oa.waitUp(t, "b")
	text := string(make([]byte, 256<<10))
	for a.Metrics().MessagesLost == 0 {
		a.Send("b", raftMessage(1, text))
		select {
		case c := <-oa.changes:
			if c.cause == nil {
				t.Fatal("up twice")
			}
			return
		default:
		}
	}
	oa.waitDown(t, "b")
}
