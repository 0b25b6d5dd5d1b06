package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// sending are the snapshots that this node sends. A receiver may stand still for ever, frozen or with a disk that hangs, and raft waits for
// the report: so each ends with the connection to its receiver, or when nothing has come of it for too long.
type sending struct {
	// mu guards transfers and what has moved in them. It is a leaf.
	mu        sync.Mutex
	transfers []*outgoing
}

// outgoing is a snapshot on its way.
type outgoing struct {
	s      *sending
	to     placement.NodeID
	ctx    context.Context
	cancel context.CancelCauseFunc
	// moved is when the transport last asked for more of the body.
	moved time.Time
}

const (
	// stagingMax is how long a receiver may take for what is in the buffers and for making all of it durable.
	stagingMax = 5 * time.Minute
	// silentStagingMax is the same for one that says nothing meanwhile. The kernel of a frozen node keeps its connections alive.
	silentStagingMax = 10 * time.Second
)

var (
	errReceiverLost  = errors.New("the connection to the receiver was lost")
	errReceiverStuck = errors.New("the receiver makes no progress")
)

// begin takes note of a snapshot, or says that enough are on their way.
func (s *sending) begin(to placement.NodeID, now time.Time) (*outgoing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.transfers) >= snapshotsMax {
		return nil, false
	}
	o := &outgoing{s: s, to: to, moved: now}
	o.ctx, o.cancel = context.WithCancelCause(context.Background())
	s.transfers = append(s.transfers, o)
	return o, true
}

// end makes room for another snapshot.
func (o *outgoing) end() {
	o.cancel(nil)
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	for i, other := range o.s.transfers {
		if other == o {
			o.s.transfers = append(o.s.transfers[:i], o.s.transfers[i+1:]...)
			return
		}
	}
}

// progress takes note that the receiver takes more.
func (o *outgoing) progress(now time.Time) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.moved = now
}

// peerDown gives up what is on its way to a node.
func (s *sending) peerDown(node placement.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.transfers {
		if o.to == node {
			o.cancel(errReceiverLost)
		}
	}
}

// expire gives up what has not moved for too long; silent says whether a receiver is.
func (s *sending) expire(now time.Time, silent func(placement.NodeID) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.transfers {
		if still := now.Sub(o.moved); still > stagingMax || still > silentStagingMax && silent(o.to) {
			o.cancel(errReceiverStuck)
		}
	}
}

// sendSnapshot streams an image of the shard to a member. The image is made now and may be newer than raft asked for, so the message is
// made to fit it.
func (w *worker) sendSnapshot(m *member, message *raftpb.Message) {
	n, id := w.n, message.GetTo()
	to := m.peer(id)
	o, ok := n.sending.begin(placement.NodeID(to.GetNodeId()), n.runtime.Now())
	if !ok {
		m.worker.post(snapshotSent{m: m, to: id})
		return
	}
	n.runtime.Go("send snapshot", func(ctx context.Context) {
		defer o.end()
		defer context.AfterFunc(ctx, func() { o.cancel(context.Cause(ctx)) })()
		err := n.streamSnapshot(o, m.shard, to.GetIncarnation(), message)
		if err != nil {
			n.log.Warn("snapshot not sent", "shard", m.shard, "to", to.GetNodeId(), "err", err)
		}
		m.worker.post(snapshotSent{m: m, to: id, ok: err == nil})
	})
}

func (n *Node) streamSnapshot(o *outgoing, shard placement.ShardID, incarnation uint64, message *raftpb.Message) (err error) {
	image, err := n.engine.image(shard)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.close()) }()
	h := image.header()
	fitted := proto.Clone(message).(*raftpb.Message)
	fitted.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: new(h.GetIndex()), Term: new(h.GetTerm()), ConfState: confState(h.GetConfiguration()),
	}}
	data, err := proto.Marshal(fitted)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	start := &peerv1.SnapshotStart{Shard: uint32(shard), Message: data, ToIncarnation: incarnation}
	r, pipe := io.Pipe()
	done := make(chan struct{})
	go func() { // Ends with the pipe, which both sides close.
		defer close(done)
		pipe.CloseWithError(image.write(pipe))
	}()
	failpoint.Hit(failpoint.SnapshotSending)
	err = n.transport.SendSnapshot(o.ctx, o.to, start, bodyReader{r, func() { o.progress(n.runtime.Now()) }})
	r.CloseWithError(io.ErrClosedPipe)
	<-done
	n.metrics.snapshotsSent.Add(1)
	return err
}

// bodyReader tells when the transport asks for more, which it does as fast as the receiver takes it.
type bodyReader struct {
	io.Reader
	asked func()
}

func (r bodyReader) Read(p []byte) (int, error) {
	r.asked()
	return r.Reader.Read(p)
}
