package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Handler is the owner of a transport. Its methods are called from goroutines of the transport, several at once, and none may
// call Close, which waits for them.
type Handler interface {
	// HandleMessages takes messages in the order of their sender, and keeps them. While it blocks, the connection it comes from
	// stands still.
	HandleMessages(from Peer, messages []*peerv1.Message)
	// Heard says that a peer is sending: another PieceBytes of its messages have come, which need not be a whole one. It must not block.
	Heard(from Peer)
	// HandleSnapshot takes a snapshot and returns when it is staged and durable; an error is told to the sender. The body ends
	// with io.EOF only if all of it arrived.
	HandleSnapshot(from Peer, start *peerv1.SnapshotStart, body io.Reader) error
	// HandleCall answers a question, possibly that of a stranger; an error is told to the caller.
	HandleCall(from Peer, request *peerv1.CallRequest) (*peerv1.CallResponse, error)
	// PeerUp says that Send to a peer has begun to work. It must not block.
	PeerUp(node placement.NodeID)
	// PeerDown says that it no longer does, or that the first attempt to connect failed; what Send took before and has not
	// arrived is lost. Up and down alternate, except that the first of all may be either. It must not block.
	PeerDown(node placement.NodeID, cause error)
}

// Transport is a node's end of its connections with other nodes.
type Transport struct {
	o        Options
	handler  Handler
	listener net.Listener
	in       inbound
	tls      *tls.Config // for connections that others make; nil without TLS
	n        counters

	// What may be logged, each at most once a second.
	refused, broken, oversized complaint

	ctx    context.Context // ends, with ErrClosed, when Close begins
	cancel context.CancelCauseFunc
	wait   sync.WaitGroup // all goroutines, and calls under way

	// peers is replaced as a whole by SetPeers, so that Send takes no lock to find one.
	peers atomic.Pointer[map[placement.NodeID]*peer]

	// mu guards what follows and the replacing of peers. It is never held across I/O or a call of the handler.
	mu      sync.Mutex
	started bool
	closed  bool
	// retired has the end of the goroutine of a removed peer, for a peer of the same name to wait for.
	retired map[placement.NodeID]<-chan struct{}
}

// New makes a transport that listens, so that its address is known, but does nothing else before Start.
func New(o Options, h Handler) (*Transport, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("transport options: %w", err)
	}
	listener := o.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", o.Listen); err != nil {
			return nil, fmt.Errorf("listen for peers on %s: %w", o.Listen, err)
		}
	}
	t := &Transport{o: o, handler: h, listener: listener, retired: make(map[placement.NodeID]<-chan struct{})}
	if o.TLS != nil {
		t.tls = serverTLS(o.TLS)
	}
	t.in = newInbound(o.MaxInbound)
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.peers.Store(&map[placement.NodeID]*peer{})
	return t, nil
}

// Addr is where peers connect to.
func (t *Transport) Addr() net.Addr { return t.listener.Addr() }

// Start begins to accept and to connect.
func (t *Transport) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	if t.started {
		return errors.New("the transport has been started already")
	}
	t.started = true
	t.wait.Go(t.accept)
	for _, p := range *t.peers.Load() {
		t.wait.Go(p.run)
	}
	return nil
}

// Close ends all connections and waits until nothing of the transport runs. Peers that were up get no PeerDown.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	t.mu.Unlock()
	var err error
	if first {
		t.cancel(ErrClosed)
		err = t.listener.Close()
		t.in.closeAll()
	}
	t.wait.Wait()
	return err
}

// SetPeers says which nodes to connect with, and where they are. It replaces what was said before; this node's own name in it
// means nothing.
func (t *Transport) SetPeers(addresses map[placement.NodeID]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	old := *t.peers.Load()
	next := make(map[placement.NodeID]*peer, len(addresses))
	for id, address := range addresses {
		if id == t.o.NodeID {
			continue
		}
		if p := old[id]; p != nil {
			p.move(address)
			next[id] = p
			continue
		}
		p := newPeer(t, id, address, t.retired[id])
		next[id] = p
		if t.started {
			t.wait.Go(p.run)
		}
	}
	for id, p := range old {
		if next[id] != nil {
			continue
		}
		p.cancel(ErrPeerRemoved)
		t.in.evict(id)
		if t.started {
			t.retired[id] = p.done
		}
	}
	maps.DeleteFunc(t.retired, func(_ placement.NodeID, done <-chan struct{}) bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	t.peers.Store(&next)
}

// Send gives a message to the sender of a peer and never blocks. False: the queue is full, the peer is unknown or not connected,
// or the message is larger than a frame; it is certainly not sent. The message must not be changed any more, but may be sent to
// several peers.
func (t *Transport) Send(to placement.NodeID, m *peerv1.Message) bool {
	bytes := batchBytes(m)
	if bytes > t.o.MaxFrameBytes {
		t.n.messagesRefused.Add(1)
		t.oversized.warn(t.o.Logger, "message to peer is larger than a frame may be", "peer", to, "bytes", bytes, "limit", t.o.MaxFrameBytes)
		return false
	}
	if p := (*t.peers.Load())[to]; p != nil && p.out.put(m, bytes) {
		return true
	}
	t.n.messagesRefused.Add(1)
	return false
}

// bind returns a context for one exchange that ends with ctx and with the transport, and how to end it.
func (t *Transport) bind(ctx context.Context) (context.Context, func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, ErrClosed
	}
	t.wait.Add(1)
	bound, cancel := context.WithCancelCause(ctx)
	unbind := context.AfterFunc(t.ctx, func() { cancel(ErrClosed) })
	return bound, func() {
		unbind()
		cancel(nil)
		t.wait.Done()
	}, nil
}
