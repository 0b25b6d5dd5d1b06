package raftnode

import (
	"sync"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// pendingAnswers keeps what other nodes are to be told of their requests while there is no connection to them, or no room in its queue. Connections
// have one direction: a node may be asked by one that it does not reach yet, and an answer that is dropped makes an outcome unknown that is known.
type pendingAnswers struct {
	n *Node
	// mu guards the fields below. It is a leaf.
	mu      sync.Mutex
	waiting []answer
	bytes   int
}

type answer struct {
	to       placement.NodeID
	message  *peerv1.Message
	bytes    int
	deadline time.Time // of the request: nobody waits any longer
}

// send sends an answer, now or as soon as that is possible before the deadline. One beyond the bounds of those that wait is lost.
func (a *pendingAnswers) send(to placement.NodeID, resp *peerv1.ForwardResponse, deadline time.Time) {
	m := &peerv1.Message{Body: &peerv1.Message_ForwardResponse{ForwardResponse: resp}}
	if a.n.transport.Send(to, m) {
		return
	}
	if a.keep(answer{to: to, message: m, bytes: m.SizeVT(), deadline: deadline}) { // One try is for all.
		a.n.runtime.After(forwardPause, a.retry)
	}
}

// keep takes an answer that could not be sent, and says whether it is the first to wait.
func (a *pendingAnswers) keep(one answer) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) >= forwardsMax || a.bytes+one.bytes > answersBytesMax {
		a.n.metrics.lostAnswers.Add(1)
		return false
	}
	a.waiting = append(a.waiting, one)
	a.bytes += one.bytes
	return len(a.waiting) == 1
}

// pending says whether answers wait: a node that is leaving stays for them.
func (a *pendingAnswers) pending() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting) > 0
}

// retry tries again to send all that waits. After the end of the node it is not called, and what waits is lost, as those who asked will be told
// by the end of their connections.
func (a *pendingAnswers) retry() {
	a.mu.Lock()
	waiting := a.waiting
	a.waiting, a.bytes = nil, 0
	a.mu.Unlock()
	now := a.n.runtime.Now()
	again := false
	for _, one := range waiting {
		if !now.Before(one.deadline) {
			a.n.metrics.lostAnswers.Add(1)
			continue
		}
		if !a.n.transport.Send(one.to, one.message) && a.keep(one) {
			again = true
		}
	}
	if again {
		a.n.runtime.After(forwardPause, a.retry)
	}
}
