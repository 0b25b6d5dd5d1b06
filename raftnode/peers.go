package raftnode

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// peerHandler is what the transport sees of a node.
type peerHandler struct{ n *Node }

var _ transport.Handler = peerHandler{}

// HandleMessages takes messages from a peer to the workers, those of one worker together.
func (h peerHandler) HandleMessages(from transport.Peer, ms []*peerv1.Message) {
	n := h.n
	if !n.serving.Load() {
		for _, msg := range ms { // Raft sends the rest again.
			if f := msg.GetForwardRequest(); f != nil {
				n.refuseForward(from, f, ErrForming)
			}
		}
		return
	}
	n.heard(from.NodeID)
	byWorker := make([][]messageEvent, len(n.workers))
	for _, msg := range ms {
		switch body := msg.GetBody().(type) {
		case *peerv1.Message_Raft:
			message := &raftpb.Message{}
			if err := proto.Unmarshal(body.Raft.GetMessage(), message); err != nil {
				n.rejected(from, err)
				continue
			}
			m, sender, err := n.receiver(from, placement.ShardID(body.Raft.GetShard()), body.Raft.GetToIncarnation(), message)
			if err == nil && message.GetType() == raftpb.MsgSnap {
				err = fmt.Errorf("%w: a snapshot outside of a snapshot stream", replica.ErrRejected)
			}
			if err != nil {
				n.rejected(from, err)
				continue
			}
			byWorker[m.worker.index] = append(byWorker[m.worker.index], messageEvent{m: m, sender: sender, message: message, bytes: len(body.Raft.GetMessage())})
		case *peerv1.Message_ForwardRequest:
			n.serveForward(from, body.ForwardRequest)
		case *peerv1.Message_ForwardResponse:
			n.forwards.answer(from.NodeID, body.ForwardResponse)
		case *peerv1.Message_Checkpoint:
			n.hearCheckpoint(from, body.Checkpoint)
		case *peerv1.Message_Heartbeat:
			n.heardBeat(from.NodeID, body.Heartbeat)
		}
	}
	for i, es := range byWorker {
		if len(es) > 0 {
			n.workers[i].postMessages(es)
		}
	}
}

// Heard takes note of a peer whose message is long and still coming.
func (h peerHandler) Heard(from transport.Peer) {
	if h.n.serving.Load() {
		h.n.heard(from.NodeID)
	}
}

// receiver finds the member for which a message is meant, and checks that it comes from whom it says: the sender's connection has proved
// node and incarnation, and only members are heard (R13, R26). One that is newer than the applied configuration is heard, too, if its node has a
// place in the shard: it may lead, and the entry that has taken it in be among those that it brings.
func (n *Node) receiver(from transport.Peer, shard placement.ShardID, toIncarnation uint64, message *raftpb.Message) (*member, *storev1.Replica, error) {
	m := n.member(shard)
	if m == nil {
		return nil, nil, fmt.Errorf("%w: no replica of shard %d here", replica.ErrRejected, shard)
	}
	if toIncarnation != 0 && toIncarnation != n.identity.Load().GetIncarnation() {
		return nil, nil, fmt.Errorf("%w: meant for incarnation %x of this node", replica.ErrRejected, toIncarnation)
	}
	c := m.membership.Load()
	r := described(c, message.GetFrom())
	if r == nil && message.GetFrom() >= nextReplica(c) && n.places(shard, from) {
		r = &storev1.Replica{Id: message.GetFrom(), NodeId: string(from.NodeID), Incarnation: from.Incarnation}
	}
	if r == nil && planted.Is(planted.SenderUnchecked) {
		r = &storev1.Replica{Id: message.GetFrom(), NodeId: string(from.NodeID), Incarnation: from.Incarnation} // R26
	}
	if r == nil || placement.NodeID(r.GetNodeId()) != from.NodeID || r.GetIncarnation() != from.Incarnation {
		return nil, nil, fmt.Errorf("%w: replica %d of shard %d is not on node %s, incarnation %x", replica.ErrRejected, message.GetFrom(), shard, from.NodeID, from.Incarnation)
	}
	return m, r, nil
}

// rejected counts a message that is not heard.
func (n *Node) rejected(from transport.Peer, err error) {
	n.metrics.rejectedMessages.Add(1)
	n.log.Debug("peer message rejected", "from", from.NodeID, "err", err)
}

// PeerUp tells the peer first of all how the disk of this node is, before anything is passed on to it: once it has answered this node, it takes no
// put for a shard of a disk that is full (R24).
func (h peerHandler) PeerUp(node placement.NodeID) {
	h.n.transport.Send(node, h.n.heartbeat())
	h.n.reachable.Store(node, true)
	h.n.log.Info("peer connected", "peer", node)
}

func (h peerHandler) PeerDown(node placement.NodeID, cause error) {
	h.n.reachable.Store(node, false)
	h.n.silence.lost(node)
	h.n.log.Warn("peer lost", "peer", node, "err", cause)
	h.n.forwards.peerDown(node)
	h.n.sending.peerDown(node)
	for _, w := range h.n.workers {
		w.post(peerDownEvent{node: node})
	}
}

func (e messageEvent) handle(w *worker) {
	m := e.m
	m.meet(e.sender)
	if e.staged != "" {
		index := e.message.GetSnapshot().GetMetadata().GetIndex()
		if m.awaitsSnapshot(index) {
			w.unstage(e.staged) // The same snapshot came twice.
			return
		}
		w.dropStaged(m, index)
		m.staged[index] = e.staged
	}
	switch err := m.replica.Step(e.message); {
	case err == nil:
	case isRejected(err):
		w.n.metrics.rejectedMessages.Add(1)
		w.n.log.Debug("peer message rejected", "shard", m.shard, "err", err)
	default:
		w.check(m, err)
		return
	}
	if e.staged != "" {
		// If raft takes the snapshot, the next Ready carries it and install finds it; whatever is left behind then is stale.
		if !w.carryAll(m) {
			return
		}
		if index := e.message.GetSnapshot().GetMetadata().GetIndex(); !m.awaitsSnapshot(index) {
			w.dropStaged(m, index)
		}
	}
	w.touch(m)
}

// send hands messages to the transport. Those of one turn leave together, because the transport gathers what waits for a peer.
func (w *worker) send(m *member, messages []*raftpb.Message) {
	if m.mute(w.n) {
		return
	}
	for _, message := range messages {
		to := m.peer(message.GetTo())
		if to == nil {
			continue
		}
		if message.GetType() == raftpb.MsgSnap {
			w.sendSnapshot(m, message)
			continue
		}
		data, err := proto.Marshal(message)
		if !w.check(m, err) {
			return
		}
		w.n.transport.Send(placement.NodeID(to.GetNodeId()), &peerv1.Message{Body: &peerv1.Message_Raft{Raft: &peerv1.RaftMessage{
			Shard: uint32(m.shard), ToIncarnation: to.GetIncarnation(), Message: data,
		}}})
	}
}
