package transport

import (
	"errors"
	"fmt"

	"github.com/raftkv/raftkv/raftnode/placement"
)

var (
	// ErrClosed says that this transport is closed.
	ErrClosed = errors.New("the transport is closed")
	// ErrUnknownPeer says that SetPeers gave no address for a node.
	ErrUnknownPeer = errors.New("no address is known for the node")
	// ErrPeerRemoved is the cause of PeerDown when SetPeers leaves out a node that was up.
	ErrPeerRemoved = errors.New("the node is no longer a peer")
	// ErrAddressChanged is the cause of PeerDown when SetPeers gives a node that was up another address.
	ErrAddressChanged = errors.New("the address of the node has changed")
	// ErrNoCluster says that this node has no cluster yet and may only make calls (R13).
	ErrNoCluster = errors.New("this node does not belong to a cluster yet; it may only make calls")
	// ErrWrongPeer says that whoever answers at an address is not the node that was meant.
	ErrWrongPeer = errors.New("wrong peer")
	// ErrBadFrame says that what arrived is not what a peer sends.
	ErrBadFrame = errors.New("bad frame")

	errClosedByPeer = errors.New("the peer closed the connection")
)

// RefusedError is the refusal of another node, in its own words.
type RefusedError struct {
	// Node is the name of the node that refused, as it gave it.
	Node placement.NodeID
	// Address is where it was reached.
	Address string
	// Reason is what it said.
	Reason string
}

// Error names the node and its reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("node %q at %s refused: %s", e.Node, e.Address, e.Reason)
}

// reasonBytesMax bounds the texts that one node sends to another, so that a Hello with a refusal fits its frame.
const reasonBytesMax = 1 << 10

// reason is the text of an error, cut to what fits.
func reason(text string) string {
	if len(text) > reasonBytesMax {
		return text[:reasonBytesMax-3] + "..."
	}
	return text
}
