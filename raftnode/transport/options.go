package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// Limits and times that nobody has had a reason to set.
const (
	backoffMin = 20 * time.Millisecond
	backoffMax = time.Second

	// helloBytesMax bounds the first frame of a connection, which a stranger may have sent.
	helloBytesMax = 4 << 10
	// replyBytesMax bounds frames that only say how something ended.
	replyBytesMax = 64 << 10
	// chunkBytes is the size of the pieces of a snapshot, and with it the memory that one takes on either side.
	chunkBytes = 256 << 10
	// readBytes is the buffer of a message connection: as much as one system call takes from the kernel.
	readBytes = 128 << 10
	// writeBytesMax is the most that is written under one deadline.
	writeBytesMax = 1 << 20
	// nodeIDBytesMax keeps a Hello within its frame.
	nodeIDBytesMax = 255
)

// Options says who this node is and what bounds it keeps. Zero means the default.
type Options struct {
	// NodeID is the name of this node.
	NodeID placement.NodeID
	// Incarnation identifies the disk of this node (R13).
	Incarnation uint64
	// ClusterID returns the 16 bytes of the cluster's id, and nothing while this node does not belong to one. Called for every
	// connection, from several goroutines.
	ClusterID func() []byte
	// Admit refuses a node by returning an error, whose text the other side gets to see. It is asked about whoever connects for
	// messages or snapshots and whoever answers such a connection of ours, but not about calls, which must reach strangers. Here
	// the owner compares incarnations with those it knows. nil admits all.
	Admit func(Peer) error

	// Listener is where peers connect to; the transport closes it. If nil, one is made on Listen.
	Listener net.Listener
	// Listen is an address, host:port.
	Listen string
	// TLS makes every connection mutual TLS 1.3. It needs a certificate that serves both sides, and RootCAs or ClientCAs: the
	// system's roots are never used. nil: plain TCP.
	TLS *tls.Config

	// QueueMessages and QueueBytes bound what waits for one peer, the write under way included; a message that is larger than
	// QueueBytes is taken when nothing else waits. Default 8192 and 64 MiB.
	QueueMessages int
	QueueBytes    int
	// BatchBytes is where a frame of messages ends, unless a single message is larger. Default 1 MiB, at most MaxFrameBytes.
	BatchBytes int
	// MaxFrameBytes bounds every frame in both directions, and so every message. Default 64 MiB. It must be the same on all nodes.
	MaxFrameBytes int
	// MaxInbound bounds the connections that others have made and that have said Hello, and separately those that have not yet.
	// Default 256.
	MaxInbound int

	// HandshakeTimeout bounds everything up to and with the Hellos, and each side of a call on the side that answers. Default 3 s.
	HandshakeTimeout time.Duration
	// IdleTimeout ends a message connection on which nothing arrives, or nothing can be written. Default 10 s. It must be well
	// above the interval of the heartbeats that the owner sends.
	IdleTimeout time.Duration
	// SnapshotTimeout ends a snapshot connection that makes no progress. Default 60 s.
	SnapshotTimeout time.Duration

	// Logger gets what nobody can be told otherwise. Default slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orInt(&o.QueueMessages, 8192)
	orInt(&o.QueueBytes, 64<<20)
	orInt(&o.MaxFrameBytes, 64<<20)
	orInt(&o.BatchBytes, min(1<<20, o.MaxFrameBytes))
	orInt(&o.MaxInbound, 256)
	orTime(&o.HandshakeTimeout, 3*time.Second)
	orTime(&o.IdleTimeout, 10*time.Second)
	orTime(&o.SnapshotTimeout, time.Minute)
	if o.ClusterID == nil {
		o.ClusterID = func() []byte { return nil }
	}
	if o.Admit == nil {
		o.Admit = func(Peer) error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// validate reports every fault at once.
func (o Options) validate() error {
	var errs []error
	if o.NodeID == "" || len(o.NodeID) > nodeIDBytesMax {
		errs = append(errs, fmt.Errorf("NodeID must have 1 to %d bytes, not %d", nodeIDBytesMax, len(o.NodeID)))
	}
	if o.Listener == nil && o.Listen == "" {
		errs = append(errs, errors.New("one of Listener and Listen must be set"))
	}
	for _, v := range []struct {
		name     string
		value    int
		min, max int
	}{
		{"QueueMessages", o.QueueMessages, 1, 1 << 30},
		{"QueueBytes", o.QueueBytes, 1, 1 << 40},
		{"BatchBytes", o.BatchBytes, 1, 1 << 30},
		{"MaxFrameBytes", o.MaxFrameBytes, chunkBytes, 1 << 30},
		{"MaxInbound", o.MaxInbound, 1, 1 << 20},
	} {
		if v.value < v.min || v.value > v.max {
			errs = append(errs, fmt.Errorf("%s must be from %d to %d, not %d", v.name, v.min, v.max, v.value))
		}
	}
	if o.BatchBytes > o.MaxFrameBytes {
		errs = append(errs, fmt.Errorf("BatchBytes (%d) must not exceed MaxFrameBytes (%d)", o.BatchBytes, o.MaxFrameBytes))
	}
	for _, v := range []struct {
		name  string
		value time.Duration
	}{
		{"HandshakeTimeout", o.HandshakeTimeout}, {"IdleTimeout", o.IdleTimeout}, {"SnapshotTimeout", o.SnapshotTimeout},
	} {
		if v.value < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative", v.name))
		}
	}
	if o.TLS != nil {
		errs = append(errs, validateTLS(o.TLS))
	}
	return errors.Join(errs...)
}
