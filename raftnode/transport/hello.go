package transport

import (
	"bytes"
	"fmt"
	"io"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// protocolVersion counts incompatible changes of what peers say to each other.
const protocolVersion = 1

// Peer is another node, as it introduced itself.
type Peer struct {
	// NodeID is its name.
	NodeID placement.NodeID
	// Incarnation identifies its disk.
	Incarnation uint64
}

func peerOf(h *peerv1.Hello) Peer {
	return Peer{NodeID: placement.NodeID(h.GetFromNodeId()), Incarnation: h.GetFromIncarnation()}
}

// hello introduces this node.
func (t *Transport) hello(to placement.NodeID, purpose peerv1.Purpose) *peerv1.Hello {
	return &peerv1.Hello{
		ProtocolVersion: protocolVersion,
		Purpose:         purpose,
		ClusterId:       t.o.ClusterID(),
		FromNodeId:      string(t.o.NodeID),
		FromIncarnation: t.o.Incarnation,
		ToNodeId:        string(to),
	}
}

// refusal is the answer to a Hello that does not fit. It has only what every release can read.
func (t *Transport) refusal(cause error) *peerv1.Hello {
	return &peerv1.Hello{ProtocolVersion: protocolVersion, FromNodeId: string(t.o.NodeID), Refusal: reason(cause.Error())}
}

// readHello reads the first frame of a connection, and not one byte more.
func readHello(r io.Reader) (*peerv1.Hello, error) {
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	f, err := parseHeader(head[:], helloBytesMax)
	if err != nil {
		return nil, err
	}
	if f.kind != kindHello {
		return nil, unexpectedKind(f.kind, kindHello)
	}
	payload := make([]byte, f.length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, err
	}
	if err := f.verify(head[:], payload); err != nil {
		return nil, err
	}
	h := new(peerv1.Hello)
	if err := h.UnmarshalVT(payload); err != nil {
		return nil, fmt.Errorf("%w: Hello: %w", ErrBadFrame, err)
	}
	return h, nil
}

// checkCaller judges the Hello of a node that connects to this one. What it returns is sent to that node.
func (t *Transport) checkCaller(h *peerv1.Hello) error {
	if v := h.GetProtocolVersion(); v != protocolVersion {
		return fmt.Errorf("peer protocol version %d, but node %q speaks version %d; run the same release on both", v, t.o.NodeID, protocolVersion)
	}
	if to := h.GetToNodeId(); to != "" && to != string(t.o.NodeID) {
		return fmt.Errorf("this is node %q, not %q; check the addresses of the peers", t.o.NodeID, to)
	}
	from := peerOf(h)
	if from.NodeID == "" || len(from.NodeID) > nodeIDBytesMax {
		return fmt.Errorf("the name of the calling node has %d bytes; it must have 1 to %d", len(from.NodeID), nodeIDBytesMax)
	}
	switch p := h.GetPurpose(); p {
	case peerv1.Purpose_PURPOSE_CALL:
		return t.checkCluster(h.GetClusterId(), false)
	case peerv1.Purpose_PURPOSE_MESSAGES, peerv1.Purpose_PURPOSE_SNAPSHOT:
	default:
		return fmt.Errorf("the purpose %d of the connection is unknown to node %q; run the same release on both", p, t.o.NodeID)
	}
	if from.NodeID == t.o.NodeID {
		return fmt.Errorf("two nodes are named %q; every node needs its own name", from.NodeID)
	}
	if err := t.checkCluster(h.GetClusterId(), true); err != nil {
		return err
	}
	return t.o.Admit(from)
}

// checkCluster compares the other side's cluster with ours. Calls work without one: a cluster is formed by them (R13).
func (t *Transport) checkCluster(theirs []byte, needed bool) error {
	ours := t.o.ClusterID()
	switch {
	case needed && len(ours) == 0:
		return fmt.Errorf("node %q does not belong to a cluster yet", t.o.NodeID)
	case needed && len(theirs) == 0:
		return fmt.Errorf("a node without a cluster may only make calls to node %q", t.o.NodeID)
	case planted.Is(planted.ClusterUnchecked): // R13
	case len(ours) > 0 && len(theirs) > 0 && !bytes.Equal(ours, theirs):
		return fmt.Errorf("node %q belongs to cluster %x, not %x; check the addresses of the peers", t.o.NodeID, ours, theirs)
	}
	return nil
}

// checkAnswer judges the Hello that answers ours.
func (t *Transport) checkAnswer(h *peerv1.Hello, address string, to placement.NodeID, purpose peerv1.Purpose) error {
	if r := h.GetRefusal(); r != "" {
		return &RefusedError{Node: peerOf(h).NodeID, Address: address, Reason: r}
	}
	if v := h.GetProtocolVersion(); v != protocolVersion {
		return fmt.Errorf("%w: %s speaks peer protocol version %d, this node version %d", ErrWrongPeer, address, v, protocolVersion)
	}
	if got := h.GetFromNodeId(); got == "" || to != "" && got != string(to) {
		return fmt.Errorf("%w: %s is node %q, not %q; check the addresses of the peers", ErrWrongPeer, address, got, to)
	}
	needed := purpose != peerv1.Purpose_PURPOSE_CALL
	if err := t.checkCluster(h.GetClusterId(), needed); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrWrongPeer, address, err)
	}
	if !needed {
		return nil
	}
	if err := t.o.Admit(peerOf(h)); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrWrongPeer, address, err)
	}
	return nil
}
