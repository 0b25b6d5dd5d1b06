package transport

import (
	"context"
	"errors"
	"strings"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

func TestStrangersAreToldWhyTheyAreRefused(t *testing.T) {
	o := options("b")
	o.Admit = func(p Peer) error {
		if p.Incarnation == 666 {
			return errors.New("node \"a\" is incarnation 9, not 666; use node replace")
		}
		return nil
	}
	tr := start(t, o, newOwner())
	unformed := options("u")
	unformed.ClusterID = nil
	bare := start(t, unformed, newOwner())
	messages := peerv1.Purpose_PURPOSE_MESSAGES
	for _, c := range []struct {
		name   string
		to     *Transport
		change func(*peerv1.Hello)
		want   string
	}{
		{"version", tr, func(h *peerv1.Hello) { h.ProtocolVersion = 2 }, "protocol version 2"},
		{"to", tr, func(h *peerv1.Hello) { h.ToNodeId = "c" }, `this is node "b", not "c"`},
		{"nameless", tr, func(h *peerv1.Hello) { h.FromNodeId = "" }, "0 bytes"},
		{"long name", tr, func(h *peerv1.Hello) { h.FromNodeId = strings.Repeat("a", 256) }, "256 bytes"},
		{"purpose", tr, func(h *peerv1.Hello) { h.Purpose = 0 }, "purpose 0"},
		{"later purpose", tr, func(h *peerv1.Hello) { h.Purpose = 99 }, "purpose 99"},
		{"namesake", tr, func(h *peerv1.Hello) { h.FromNodeId = "b" }, `two nodes are named "b"`},
		{"cluster", tr, func(h *peerv1.Hello) { h.ClusterId = []byte("another cluster!") }, "belongs to cluster"},
		{"caller's cluster", tr, func(h *peerv1.Hello) {
			h.ClusterId, h.Purpose = []byte("another cluster!"), peerv1.Purpose_PURPOSE_CALL
		}, "belongs to cluster"},
		{"no cluster", tr, func(h *peerv1.Hello) { h.ClusterId = nil }, "may only make calls"},
		{"unformed", bare, func(h *peerv1.Hello) { h.ToNodeId = "u" }, "does not belong to a cluster yet"},
		{"incarnation", tr, func(h *peerv1.Hello) { h.FromIncarnation = 666 }, "node replace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.to.Metrics().ConnectionsRefused
			h := helloOf("a", "b", messages)
			c.change(h)
			s := stranger(t, c.to)
			if err := writeMessage(s, kindHello, h); err != nil {
				t.Fatal(err)
			}
			answer, err := readHello(s)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(answer.GetRefusal(), c.want) {
				t.Fatalf("refusal %q", answer.GetRefusal())
			}
			waitClosed(t, s)
			if got := c.to.Metrics().ConnectionsRefused; got != before+1 {
				t.Fatalf("%d refused, want %d", got, before+1)
			}
		})
	}
}

// The text of a refusal reaches whoever wanted the connection, by each of the three ways.
func TestRefusalReachesItsCause(t *testing.T) {
	stranger := options("a")
	stranger.ClusterID = func() []byte { return []byte("another cluster!") }
	o := newOwner()
	a, b := start(t, stranger, o), start(t, options("b"), newOwner())
	a.SetPeers(peersOf("b", b))
	check := func(err error) {
		t.Helper()
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Fatalf("error %v", err)
		}
		if refused.Node != "b" || refused.Address != b.Addr().String() || !strings.Contains(err.Error(), "belongs to cluster") {
			t.Fatalf("refusal %v", err)
		}
	}
	check(o.waitDown(t, "b"))
	check(a.SendSnapshot(contextFor(t), "b", &peerv1.SnapshotStart{}, strings.NewReader("")))
	_, _, err := a.Call(contextFor(t), b.Addr().String(), "", &peerv1.CallRequest{})
	check(err)
}

func TestAnswersAreJudgedToo(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*peerv1.Hello)
		want   error
		text   string
	}{
		{"good", func(*peerv1.Hello) {}, nil, ""},
		{"version", func(h *peerv1.Hello) { h.ProtocolVersion = 3 }, ErrWrongPeer, "version 3"},
		{"name", func(h *peerv1.Hello) { h.FromNodeId = "c" }, ErrWrongPeer, `is node "c", not "b"`},
		{"no name", func(h *peerv1.Hello) { h.FromNodeId = "" }, ErrWrongPeer, `is node ""`},
		{"cluster", func(h *peerv1.Hello) { h.ClusterId = []byte("x") }, ErrWrongPeer, "belongs to cluster"},
		{"incarnation", func(h *peerv1.Hello) { h.FromIncarnation = 666 }, ErrWrongPeer, "unknown incarnation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options("a")
			o.Admit = func(p Peer) error {
				if p.Incarnation == 666 {
					return errors.New("unknown incarnation")
				}
				return nil
			}
			tr := start(t, o, newOwner())
			h := helloOf("b", "a", peerv1.Purpose_PURPOSE_MESSAGES)
			c.change(h)
			err := tr.checkAnswer(h, "there", "b", peerv1.Purpose_PURPOSE_MESSAGES)
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Fatalf("error %v", err)
			}
		})
	}
}

func TestWithoutAClusterOnlyCallsAreMade(t *testing.T) {
	o := options("a")
	o.ClusterID = nil
	oa := newOwner()
	a, b := start(t, o, oa), start(t, options("b"), newOwner())
	a.SetPeers(peersOf("b", b))
	if cause := oa.waitDown(t, "b"); !errors.Is(cause, ErrNoCluster) {
		t.Fatalf("cause %v", cause)
	}
	if err := a.SendSnapshot(context.Background(), "b", &peerv1.SnapshotStart{}, nil); !errors.Is(err, ErrNoCluster) {
		t.Fatalf("error %v", err)
	}
}

func TestLongRefusalFitsItsFrame(t *testing.T) {
	o := options("b")
	o.Admit = func(Peer) error { return errors.New(strings.Repeat("no ", 10_000)) }
	tr := start(t, o, newOwner())
	s := stranger(t, tr)
	if err := writeMessage(s, kindHello, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES)); err != nil {
		t.Fatal(err)
	}
	answer, err := readHello(s)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(answer.GetRefusal(), "...") {
		t.Fatalf("refusal %q", answer.GetRefusal())
	}
}
