package raftnode

import (
	"log/slog"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode/transport"
)

// A peer whose message is long is heard by its pieces, and falls silent when they stop.
func TestPiecesBreakSilence(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler), silence: newSilence([]Member{{ID: "n2"}}, time.Second, 100*time.Millisecond)}
	n.serving.Store(true)
	h := peerHandler{n}
	for range 20 {
		for range n.silence.most - 1 {
			n.listen("n2")
		}
		h.Heard(transport.Peer{NodeID: "n2"})
	}
	if n.silence.silent("n2") {
		t.Error("silent between pieces")
	}
	for range n.silence.most {
		n.listen("n2")
	}
	if !n.silence.silent("n2") {
		t.Error("not silent without pieces")
	}
	h.Heard(transport.Peer{NodeID: "n2"})
	h.Heard(transport.Peer{NodeID: "nobody"})
	if n.silence.silent("n2") {
		t.Error("silent after a piece")
	}
}
