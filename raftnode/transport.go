package raftnode

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// Transport connects a node with its peers. transport.Transport is the real one; a simulation brings its own.
type Transport interface {
	// SetPeers says where the peers are.
	SetPeers(peers map[placement.NodeID]string)
	// Send queues a message and never blocks; false means that it is certainly not sent.
	Send(to placement.NodeID, m *peerv1.Message) bool
	// SendSnapshot sends a snapshot and returns once the receiver has staged it.
	SendSnapshot(ctx context.Context, to placement.NodeID, start *peerv1.SnapshotStart, body io.Reader) error
	// Call asks a node that may not belong to a cluster yet; to may be empty.
	Call(ctx context.Context, address string, to placement.NodeID, r *peerv1.CallRequest) (*peerv1.CallResponse, transport.Peer, error)
	// Start begins to accept and to connect.
	Start() error
	// Close stops and waits.
	Close() error
}

// TransportOptions are what a node tells its transport.
type TransportOptions struct {
	NodeID      placement.NodeID
	Incarnation uint64
	// ClusterID is nil while the node has no cluster.
	ClusterID func() []byte
	// Admit refuses peers that do not belong to the cluster.
	Admit func(transport.Peer) error
	// Listener, if set, is used instead of Listen.
	Listener net.Listener
	Listen   string
	TLS      *tls.Config
	Logger   *slog.Logger
	Handler  transport.Handler
}
