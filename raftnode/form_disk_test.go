package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// probed answers the probes of a node that forms; who is not in it does not answer.
type probed struct {
	Transport
	answers map[placement.NodeID]*peerv1.ProbeResponse
}

func (p *probed) Call(_ context.Context, _ string, to placement.NodeID, _ *peerv1.CallRequest) (*peerv1.CallResponse, transport.Peer, error) {
	a, ok := p.answers[to]
	if !ok {
		return nil, transport.Peer{}, errors.New("no answer")
	}
	return &peerv1.CallResponse{Body: &peerv1.CallResponse_Probe{Probe: a}}, transport.Peer{}, nil
}

// A member whose disk is another one than the formation names ends the forming, but not as long as somebody has not been heard who may know that the cluster has formed:
// it lives on with a disk less, and what it has stored is not to be emptied (R13).
func TestAnotherDiskWhileForming(t *testing.T) {
	options := Options{NodeID: "n1", Members: []Member{{ID: "n1"}, {ID: "n2"}, {ID: "n3"}}}
	formation := &storev1.Formation{ClusterId: []byte("cluster"), Members: []*storev1.Formation_Member{
		{NodeId: "n1", Incarnation: 1}, {NodeId: "n2", Incarnation: 2}, {NodeId: "n3", Incarnation: 3},
	}}
	hash := planHash(options)
	old := &peerv1.ProbeResponse{PlanHash: hash, Incarnation: 2, ClusterId: formation.GetClusterId()}
	other := &peerv1.ProbeResponse{PlanHash: hash, Incarnation: 33}
	for name, c := range map[string]struct {
		answers map[placement.NodeID]*peerv1.ProbeResponse
		fails   bool
	}{
		"one is missing": {map[placement.NodeID]*peerv1.ProbeResponse{"n3": other}, false},
		"all are heard":  {map[placement.NodeID]*peerv1.ProbeResponse{"n2": old, "n3": other}, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := &Node{options: options, transport: &probed{answers: c.answers}, log: slog.New(slog.DiscardHandler), done: make(chan struct{}), disconnect: func() {}}
			n.identity.Store(&storev1.Identity{NodeId: "n1", Incarnation: 1, Formation: formation})
			(&former{n: n}).step()
			if failed := n.failed(); failed != c.fails {
				t.Errorf("failed: %t, want %t", failed, c.fails)
			}
		})
	}
}
