package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	peers "github.com/raftkv/raftkv/raftnode/transport"
)

// transport is the raftnode.Transport of one life of a process.
type transport struct {
	c       *Cluster
	l       *life
	options raftnode.TransportOptions
	started bool

	// mu guards the outboxes of the links of this process, because a request may come in on a goroutine of its own. It is a leaf.
	mu sync.Mutex
}

var _ raftnode.Transport = (*transport)(nil)

func (t *transport) peer() peers.Peer {
	return peers.Peer{NodeID: t.options.NodeID, Incarnation: t.options.Incarnation}
}

// handshake judges as the Hellos of a real connection do.
func (t *transport) handshake(to *transport) error {
	own, other := t.options.ClusterID(), to.options.ClusterID()
	switch {
	case len(own) == 0:
		return peers.ErrNoCluster
	case !bytes.Equal(own, other):
		return fmt.Errorf("%w: it belongs to another cluster", peers.ErrWrongPeer)
	}
	if err := to.options.Admit(t.peer()); err != nil {
		return &peers.RefusedError{Node: to.options.NodeID, Address: to.l.process.address, Reason: err.Error()}
	}
	return t.options.Admit(to.peer())
}

func (t *transport) Start() error {
	t.started = true
	return nil
}

func (t *transport) Close() error { return nil }

func (t *transport) SetPeers(addresses map[placement.NodeID]string) {
	n := t.c.network
	for _, p := range t.c.processes {
		if _, ok := addresses[p.id]; ok && p != t.l.process {
			n.dial(n.link(t.l.process, p), n.c.scheduler.between(0, time.Millisecond))
		}
	}
}

func (t *transport) Send(to placement.NodeID, m *peerv1.Message) bool {
	p := t.c.process(to)
	if p == nil || t.l.dead.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.c.network.link(t.l.process, p)
	if !l.up || len(l.outbox) >= outboxMessages {
		return false
	}
	l.outbox = append(l.outbox, m)
	return true
}

// Call asks another process and waits for the answer. Question and answer may each get lost.
func (t *transport) Call(_ context.Context, address string, to placement.NodeID, r *peerv1.CallRequest) (*peerv1.CallResponse, peers.Peer, error) {
	i := slices.IndexFunc(t.c.processes, func(p *process) bool { return p.address == address })
	if i < 0 || t.c.processes[i].id != to {
		return nil, peers.Peer{}, peers.ErrUnknownPeer
	}
	p := t.c.processes[i]
	question, err := r.MarshalVT()
	if err != nil {
		return nil, peers.Peer{}, err
	}
	var (
		answer *peerv1.CallResponse
		who    peers.Peer
	)
	err = errNoAnswer
	ok := t.exchange(p, exchangeTravel{after: 2 * t.c.network.delay()}, callTimeout, func(from peers.Peer, at *transport) error {
		request, response := &peerv1.CallRequest{}, &peerv1.CallResponse{}
		who = at.peer()
		if err := request.UnmarshalVT(question); err != nil {
			return err
		}
		said, err := at.options.Handler.HandleCall(from, request)
		if err != nil {
			return err
		}
		data, err := said.MarshalVT()
		if err != nil {
			return err
		}
		answer = response
		return response.UnmarshalVT(data)
	}, func(e error) { err = e })
	if !ok || err != nil {
		return nil, peers.Peer{}, err
	}
	return answer, who, nil
}

// SendSnapshot reads the whole body, and delivers it, or a part of it, or loses it.
func (t *transport) SendSnapshot(_ context.Context, to placement.NodeID, start *peerv1.SnapshotStart, body io.Reader) error {
	p, s := t.c.process(to), t.c.scheduler
	image, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read the snapshot: %w", err)
	}
	t.c.wire.snapshot(t.c.network.link(t.l.process, p), start)
	s.trace.content(image)
	whole := len(image)
	if s.chance(t.c.network.cut) {
		whole = s.random.IntN(len(image))
		t.c.seen(SnapshotCut)
	}
	err = errNoAnswer
	arrives := func(from peers.Peer, at *transport) error {
		if err := t.handshake(at); err != nil {
			return err
		}
		if t.c.snapshotArrives != nil {
			t.c.snapshotArrives(p)
		}
		sent, err := start.MarshalVT()
		if err != nil {
			return err
		}
		fresh := &peerv1.SnapshotStart{}
		if err := fresh.UnmarshalVT(sent); err != nil {
			return err
		}
		body := io.Reader(bytes.NewReader(image))
		if whole < len(image) {
			body = io.MultiReader(bytes.NewReader(image[:whole]), failingReader{})
		}
		return at.options.Handler.HandleSnapshot(from, fresh, body)
	}
	t.exchange(p, t.c.network.snapshotTravel(), snapshotTimeout, arrives, func(e error) { err = e })
	return err
}

// failingReader is a connection that breaks.
type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errBroken }

// exchange lets another process do something on a connection of its own, and waits for what came of it.
func (t *transport) exchange(p *process, travel exchangeTravel, limit time.Duration, do func(peers.Peer, *transport) error, answered func(error)) bool {
	s, n := t.c.scheduler, t.c.network
	return s.await(limit, func(done func()) {
		reply := func(err error) {
			s.add(n.delay(), &event{name: "answer", process: t.l.process, boot: t.l.number, run: func() {
				if n.open(t.l.process, p) {
					answered(err)
					done()
				}
			}})
		}
		from := t.peer()
		arrive := func(after time.Duration, reply func(error)) {
			s.add(after, &event{
				name: "asked", process: p,
				run: func() {
					at := p.life.transport
					switch {
					case !n.open(t.l.process, p) || s.chance(n.noise.Drop):
					case at == nil || !at.started:
						reply(errUnreachable)
					default:
						err := do(from, at)
						if at.l.trap.sprung() {
							err = errBroken // The process dies before it can answer.
						}
						reply(err)
					}
				},
				lost: func() {
					if n.open(t.l.process, p) {
						reply(errUnreachable)
					}
				},
			})
		}
		arrive(travel.after, reply)
		if travel.again > 0 {
			arrive(travel.again, func(error) {}) // Nobody waits for the answer to the second one.
		}
	})
}
