package raftnode

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// Node is a node of a cluster.
type Node struct {
	options   Options
	log       *slog.Logger
	runtime   Runtime
	transport Transport
	// disconnect ends all connections with peers, soon: they need not miss a node that has failed.
	disconnect func()
	opened     time.Time

	lock io.Closer
	// identityMu orders changes of identity, which are made durable before they are stored. Nothing else is locked under it.
	identityMu sync.Mutex
	identity   atomic.Pointer[storev1.Identity]

	// The fields of this group are set before serving is, and do not change.
	logs        *logstore.Log
	engine      engine
	shards      *shardMap
	workers     []*worker
	logWriter   *logWriter
	applier     *applier
	readers     *readerPool
	pastReaders *readerPool
	pageReaders *readerPool
	housekeeper *housekeeper
	gauge       *gauge
	watches     *watches

	// members are the replicas here that take part, rebuilds those that do not yet.
	members  atomic.Pointer[memberTable]
	rebuilds rebuilds
	// membersMu orders changes of members. Nothing else is locked under it.
	membersMu sync.Mutex

	requests  budget
	forwards  *forwards
	answers   *pendingAnswers
	reachable sync.Map // placement.NodeID → bool: connected
	silence   *silence
	// conditions are those of the disks of the peers; reserve and stall watch this node's own.
	conditions map[placement.NodeID]*condition
	reserve    reserve
	stall      stall
	staging    chan struct{}
	sending    sending
	stagings   atomic.Uint64
	metrics    counters
	tracing    *tracing // nil: the node makes no spans
	// pressure is the bound of the engine that is passed, as the gauge saw it last.
	pressure atomic.Pointer[OverloadedError]

	// serving: the shards are open. closing: no requests are taken any more. closed: Close was called.
	serving, closing, closed atomic.Bool
	// leaving is set with closing, if there is anything to leave.
	leaving atomic.Pointer[leaving]
	formed  chan struct{}
	done    chan struct{}
	// engineMu orders asking engine and logs, from a goroutine that is not a stage, before their release. Nothing else is locked under it.
	engineMu sync.RWMutex
	released bool
	// failure is the first terminal error.
	failure atomic.Pointer[error]
	ending  sync.Once

	// randomMu guards rng. It is a leaf.
	randomMu sync.Mutex
	rng      *rand.Rand
}

// Open opens a node and returns soon: forming the cluster or recovering goes on in the background. A failure in that, as any later one,
// ends the node: see Done.
func Open(o Options) (*Node, error) {
	o.setDefaults()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	n := &Node{
		options: o,
		log:     o.Logger.With("node", o.NodeID),
		runtime: o.Runtime,
		formed:  make(chan struct{}),
		done:    make(chan struct{}),
		staging: make(chan struct{}, snapshotsWaiting),
	}
	n.members.Store(&memberTable{})
	n.tracing = newTracing(o.Tracers)
	if n.runtime == nil {
		n.runtime = NewRuntime()
	}
	n.opened = n.runtime.Now()
	n.silence = newSilence(o.Members, o.ElectionTimeout, o.HeartbeatInterval)
	n.conditions = newConditions(o.Members)
	n.stall.most = int(o.ElectionTimeout / o.HeartbeatInterval)
	n.seed(o.Seed)
	n.forwards = newForwards(n)
	n.answers = &pendingAnswers{n: n}
	if err := n.openDir(); err != nil {
		return nil, errors.Join(err, n.release())
	}
	if err := n.connect(); err != nil {
		n.runtime.Close()
		return nil, errors.Join(err, n.release())
	}
	if n.identity.Load().GetFormed() {
		n.runtime.Go("open", func(context.Context) {
			if err := n.start(); err != nil {
				n.fail(err)
			}
		})
		return n, nil
	}
	n.runtime.After(0, (&former{n: n}).run)
	return n, nil
}

// seed makes the source of incarnations, ids and jitter.
func (n *Node) seed(seed uint64) {
	var b [16]byte
	if seed == 0 {
		if _, err := crand.Read(b[:]); err != nil {
			panic("the system gives no random numbers: " + err.Error())
		}
	} else {
		binary.BigEndian.PutUint64(b[:], seed)
	}
	n.rng = rand.New(rand.NewPCG(binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])))
}

func (n *Node) random() uint64 {
	n.randomMu.Lock()
	defer n.randomMu.Unlock()
	return n.rng.Uint64()
}

// jitter is a random part of d.
func (n *Node) jitter(d time.Duration) time.Duration {
	return time.Duration(n.random() % uint64(max(d, 1)))
}

func appendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// connect begins to listen for peers. Until the cluster has formed only probes are answered.
func (n *Node) connect() error {
	o := TransportOptions{
		NodeID: n.options.NodeID, Incarnation: n.identity.Load().GetIncarnation(),
		ClusterID: func() []byte { return n.identity.Load().GetFormation().GetClusterId() },
		Admit:     n.admitPeer,
		TLS:       n.options.PeerTLS, Logger: n.log, Handler: peerHandler{n},
		Listener: n.options.PeerListener,
	}
	for _, m := range n.options.Members {
		if m.ID == n.options.NodeID {
			o.Listen = m.PeerAddress
		}
	}
	newTransport := n.options.NewTransport
	if newTransport == nil {
		newTransport = newTCP
	}
	t, err := newTransport(o)
	if err != nil {
		return fmt.Errorf("listen for peers: %w", err)
	}
	n.transport = t
	n.disconnect = n.runtime.Stage("disconnect", func() {
		if err := t.Close(); err != nil {
			n.log.Warn("cannot close the listener for peers", "err", err)
		}
	})
	if err := t.Start(); err != nil {
		return errors.Join(fmt.Errorf("listen for peers: %w", err), t.Close())
	}
	return nil
}

// newTCP is the transport of a real node.
func newTCP(o TransportOptions) (Transport, error) {
	return transport.New(transport.Options{
		NodeID: o.NodeID, Incarnation: o.Incarnation, ClusterID: o.ClusterID, Admit: o.Admit,
		Listener: o.Listener, Listen: o.Listen, TLS: o.TLS, Logger: o.Logger,
	}, o.Handler)
}

// admitPeer refuses nodes that are not of the cluster, and new disks under old names (R13).
func (n *Node) admitPeer(p transport.Peer) error {
	for _, m := range n.identity.Load().GetFormation().GetMembers() {
		if m.GetNodeId() != string(p.NodeID) {
			continue
		}
		if m.GetIncarnation() != p.Incarnation && !planted.Is(planted.EmptiedDiskAdmitted) { // R13
			return fmt.Errorf("node %s has another disk than the cluster knows: %w", p.NodeID, ErrFormedWithout)
		}
		return nil
	}
	return fmt.Errorf("node %s is not a member of the cluster", p.NodeID)
}

// start opens log, state and shards, and begins to serve.
func (n *Node) start() error {
	if err := n.openLogs(); err != nil {
		return err
	}
	if err := n.openEngine(); err != nil {
		return err
	}
	n.shards = newShardMap(n.identity.Load().GetFormation())
	n.logWriter, n.applier = newLogWriter(n), newApplier(n)
	n.readers, n.pastReaders = newReaderPool(n, "reader", readers), newReaderPool(n, "past reader", pastReaders)
	n.pageReaders = newReaderPool(n, "past page reader", pageReaders)
	n.watches = newWatches(n)
	for i := range workers {
		w := &worker{n: n, index: i}
		w.wake = n.runtime.Stage(fmt.Sprintf("worker %d", i), w.step)
		n.workers = append(n.workers, w)
	}
	if err := n.openShards(); err != nil {
		return err
	}
	if err := n.markFormed(); err != nil {
		return err
	}
	n.housekeeper, n.gauge = newHousekeeper(n), newGauge(n)
	peers := make(map[placement.NodeID]string)
	for _, m := range n.options.Members {
		if m.ID != n.options.NodeID {
			peers[m.ID] = m.PeerAddress
		}
	}
	n.serving.Store(true)
	close(n.formed)
	n.transport.SetPeers(peers)
	n.runtime.Every("tick", n.options.HeartbeatInterval, n.tick)
	n.runtime.Every("housekeeping", housekeepInterval, n.housekeeper.wake)
	n.runtime.Every("watching", watchInterval, n.watches.tick)
	n.log.Info("serving", "shards", len(n.locals()), "peers", len(peers))
	if len(peers) == 0 {
		n.campaignAlone()
	}
	return n.startRebuilds()
}

// campaignAlone lets the only member of a cluster lead at once.
func (n *Node) campaignAlone() {
	for _, m := range n.locals() {
		m.worker.post(inspectEvent{m: m, look: func(m *member) {
			if m.worker.check(m, m.replica.Campaign()) {
				m.worker.touch(m)
			}
		}})
	}
}

// markFormed notes that the formation is durable everywhere and the first states here (R13).
func (n *Node) markFormed() error {
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	if n.identity.Load().GetFormed() {
		return nil
	}
	id := cloneIdentity(n.identity.Load())
	id.Formed = true
	return n.replaceIdentity(id)
}

// leaderChanged tells the rest of the node who leads a shard.
func (n *Node) leaderChanged(shard placement.ShardID, l *leadership) {
	n.shards.setLeader(shard, l.node)
	if l.node != "" && n.serving.Load() {
		n.housekeeper.wake() // the member may find out now whether it has caught up
	}
}

// isReachable says whether a node can be asked for something.
func (n *Node) isReachable(id placement.NodeID) bool {
	return id == n.options.NodeID || n.connected(id) && !n.silence.silent(id)
}

// canAsk says whether another node can be asked for something that this one does not have.
func (n *Node) canAsk(id placement.NodeID) bool { return id != n.options.NodeID && n.isReachable(id) }

// connected says whether messages to a peer find a connection.
func (n *Node) connected(id placement.NodeID) bool {
	up, ok := n.reachable.Load(id)
	return ok && up.(bool)
}

func (n *Node) clientAddress(id placement.NodeID) string {
	for _, m := range n.identity.Load().GetFormation().GetMembers() {
		if m.GetNodeId() == string(id) {
			return m.GetClientAddress()
		}
	}
	return ""
}

// fail ends the node: nothing is acknowledged any more (R6). The process must exit.
func (n *Node) fail(err error) {
	d, damaged := damageOf(err)
	if damaged && n.rebuildable(n.identity.Load(), d, err) == nil {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if n.failure.CompareAndSwap(nil, &err) {
		n.log.Error("the node has failed and stops; nothing that it acknowledged is lost", "err", err)
		end := func() { n.ending.Do(func() { close(n.done) }) }
		if damaged {
			n.noteDamage(d, err, end)
		} else {
			end()
		}
		if n.serving.Load() {
			for _, w := range n.workers {
				w.wake() // to answer what waits
			}
		}
		n.disconnect()
	}
}

func (n *Node) failed() bool { return n.failure.Load() != nil }

// Done is closed when the node has failed or is closed.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns why the node has failed; nil if it has not.
func (n *Node) Err() error {
	if e := n.failure.Load(); e != nil {
		return *e
	}
	return nil
}

// Formed waits until the cluster has formed and this node serves.
func (n *Node) Formed(ctx context.Context) error {
	select {
	case <-n.formed:
		return nil
	case <-n.done:
		return errors.Join(ErrStopped, n.Err())
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrForming, context.Cause(ctx))
	}
}

// PeerAddr is where the node listens for peers.
func (n *Node) PeerAddr() net.Addr {
	if t, ok := n.transport.(interface{ Addr() net.Addr }); ok {
		return t.Addr()
	}
	return nil
}
