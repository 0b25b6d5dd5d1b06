package nodetest

import (
	"errors"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	peers "github.com/raftkv/raftkv/raftnode/transport"
)

// Noise is what a network does to messages without breaking. Only messages of Raft are lost, doubled and overtaken one by one: that is
// what Raft promises to bear. Everything else goes in order and at most once, as over one TCP connection.
type Noise struct {
	// Drop, Duplicate and Reorder are the probabilities with which a message of Raft meets that fate.
	Drop, Duplicate, Reorder float64
	// Delay is the mean time on the way.
	Delay time.Duration
}

// Calm is a network of one data centre.
var Calm = Noise{Delay: 200 * time.Microsecond}

var (
	errUnreachable = errors.New("nodetest: connection refused")
	errBroken      = errors.New("nodetest: connection broken")
	errNoAnswer    = errors.New("nodetest: no answer in time")
)

const (
	dialTimeout     = time.Second
	snapshotTimeout = 5 * time.Second
	callTimeout     = 2 * time.Second
	backoffMin      = 20 * time.Millisecond
	backoffMax      = time.Second
	outboxMessages  = 8192
)

// network is the wires between the processes.
type network struct {
	c     *Cluster
	noise Noise
	// cut is the probability with which a snapshot breaks off.
	cut float64
	// stale is the probability with which a snapshot is late, and that with which it comes twice.
	stale float64
	// rate is how many bytes a second a link carries; 0: any number at once.
	rate int
	// holds, if set, says which messages of Raft do not go on their way. Whoever holds one may deliver it later.
	holds func(*link, []byte, *peerv1.RaftMessage) bool
	links [][]*link
}

// link is the way from one process to another: whether packets pass, and the message connection of the sender.
type link struct {
	from, to *process
	// blocked: packets vanish.
	blocked bool
	// up: the sender has a connection, as far as it knows. Each has its own number.
	up     bool
	number uint64
	// dialling: an attempt to connect is under way or waiting.
	dialling bool
	backoff  time.Duration
	// told is what the sender's node was last told; 0: nothing yet.
	told int
	// arrives is when the last batch that keeps its order gets there.
	arrives time.Duration
	outbox  []*peerv1.Message
}

func newNetwork(c *Cluster) *network {
	n := &network{c: c, noise: Calm}
	for _, from := range c.processes {
		var row []*link
		for _, to := range c.processes {
			row = append(row, &link{from: from, to: to, backoff: backoffMin})
		}
		n.links = append(n.links, row)
	}
	return n
}

func (n *network) link(from, to *process) *link { return n.links[from.index][to.index] }

// open says whether packets pass both ways, as TCP needs.
func (n *network) open(a, b *process) bool {
	return !n.link(a, b).blocked && !n.link(b, a).blocked
}

// delay draws a time on the way.
func (n *network) delay() time.Duration {
	return n.noise.Delay/4 + n.c.scheduler.about(n.noise.Delay*3/4)
}

// late draws a time on the way for a message that is overtaken: mostly by a few others, now and then by whole lives of its receiver.
func (n *network) late() time.Duration {
	if n.c.scheduler.chance(0.2) {
		return n.c.scheduler.between(0, 4*n.c.options.election())
	}
	return n.delay() + n.c.scheduler.about(20*n.noise.Delay)
}

// exchangeTravel is when a question arrives, and when it arrives again; 0: it does not.
type exchangeTravel struct{ after, again time.Duration }

// snapshotTravel draws when a snapshot arrives: now and then so late that its receiver lives again, has what it brings or has given it up.
func (n *network) snapshotTravel() exchangeTravel {
	s := n.c.scheduler
	travel := exchangeTravel{after: 2 * n.delay()}
	if s.chance(n.stale) {
		travel.after = s.between(0, 4*n.c.options.election())
		n.c.seen(SnapshotLate)
	}
	if s.chance(n.stale) {
		travel.again = travel.after + s.between(0, 4*n.c.options.election())
		n.c.seen(SnapshotDoubled)
	}
	return travel
}

// block makes packets from one process to another vanish. What becomes of the connections between the two is not decided by that.
func (n *network) block(from, to *process) { n.link(from, to).blocked = true }

// heal lets all packets pass.
func (n *network) heal() {
	for _, row := range n.links {
		for _, l := range row {
			l.blocked = false
		}
	}
}

// breakLink ends the connection of a link; the sender finds out after d.
func (n *network) breakLink(l *link, d time.Duration, cause error) {
	life := l.from.life
	if !l.up || life == nil {
		return
	}
	number := l.number
	n.c.scheduler.add(d, &event{name: "connection lost", process: l.from, boot: life.number, run: func() {
		if l.up && l.number == number {
			n.down(l, cause)
			n.dial(l, n.pause(l))
		}
	}})
}

// down takes note of a connection that is lost, or could not be made.
func (n *network) down(l *link, cause error) {
	l.up, l.outbox = false, nil
	if l.told != -1 {
		l.told = -1
		l.from.life.transport.options.Handler.PeerDown(l.to.id, cause)
	}
}

// pause draws the time before the next attempt to connect.
func (n *network) pause(l *link) time.Duration {
	d := n.c.scheduler.between(l.backoff/2, l.backoff)
	l.backoff = min(2*l.backoff, backoffMax)
	return d
}

// dial tries to connect, d from now, and again until it succeeds.
func (n *network) dial(l *link, d time.Duration) {
	if l.dialling || l.up || l.from.life == nil {
		return
	}
	l.dialling = true
	life := l.from.life
	n.c.scheduler.add(d+2*n.delay(), &event{name: "dial", process: l.from, boot: life.number, run: func() {
		// A host that is frozen or cut off does not even refuse.
		if l.to.paused || !n.open(l.from, l.to) {
			n.c.scheduler.add(dialTimeout, &event{name: "dialled", process: l.from, boot: life.number, run: func() {
				n.dialled(l, errNoAnswer)
			}})
			return
		}
		n.dialled(l, n.handshake(l))
	}})
}

// handshake is what the two Hellos find out.
func (n *network) handshake(l *link) error {
	from, to := l.from.life, l.to.life
	if to == nil || to.transport == nil || !to.transport.started {
		return errUnreachable
	}
	return from.transport.handshake(to.transport)
}

func (n *network) dialled(l *link, err error) {
	l.dialling = false
	if err != nil {
		n.down(l, err)
		n.dial(l, n.pause(l))
		return
	}
	l.up, l.told, l.backoff = true, 1, backoffMin
	l.number++
	l.from.life.transport.options.Handler.PeerUp(l.to.id)
}

// processDied breaks the connections from and to a process. With a grace, peers find out only when they miss it.
func (n *network) processDied(p *process, grace time.Duration) {
	for _, q := range n.c.processes {
		if q == p {
			continue
		}
		n.breakLink(n.link(q, p), grace+n.delay(), errBroken)
		out := n.link(p, q)
		*out = link{from: p, to: q, blocked: out.blocked, number: out.number + 1, backoff: backoffMin, arrives: out.arrives}
	}
}

// processStarted lets the peers find out that their connections led to an earlier life.
func (n *network) processStarted(p *process) {
	for _, q := range n.c.processes {
		if q != p {
			n.breakLink(n.link(q, p), n.delay(), errBroken)
		}
	}
}

// flush sends what the transports took during an event.
func (n *network) flush() {
	for _, row := range n.links {
		for _, l := range row {
			if len(l.outbox) > 0 {
				batch := l.outbox
				l.outbox = nil
				n.send(l, batch)
			}
		}
	}
}

// send puts a batch on the wire. Messages of Raft may leave it on their own ways.
func (n *network) send(l *link, batch []*peerv1.Message) {
	s := n.c.scheduler
	var ordered [][]byte
	for _, m := range batch {
		data, err := m.MarshalVT()
		if err != nil {
			n.c.violate("message of %s cannot be encoded: %v", l.from.id, err)
			return
		}
		s.trace.content(data)
		raft := m.GetRaft()
		if raft == nil {
			ordered = append(ordered, data)
			continue
		}
		n.c.wire.sent(l, raft)
		if n.holds != nil && n.holds(l, data, raft) {
			continue
		}
		if s.chance(n.noise.Drop) {
			continue
		}
		if s.chance(n.noise.Duplicate) {
			n.deliver(l, [][]byte{data}, s.now+n.late(), 0)
		}
		if s.chance(n.noise.Reorder) {
			n.deliver(l, [][]byte{data}, s.now+n.late(), 0)
			continue
		}
		ordered = append(ordered, data)
	}
	if len(ordered) > 0 {
		l.arrives = max(l.arrives, s.now+n.delay())
		n.carry(l, ordered)
		n.deliver(l, ordered, l.arrives, l.number)
	}
}

// carry lets a batch take the time that its length needs, and its receiver hear each piece of it.
func (n *network) carry(l *link, batch [][]byte) {
	if n.rate == 0 {
		return
	}
	s, begins := n.c.scheduler, l.arrives
	takes := func(bytes int) time.Duration { return time.Duration(bytes) * time.Second / time.Duration(n.rate) }
	bytes := 0
	for _, data := range batch {
		bytes += len(data)
	}
	l.arrives += takes(bytes)
	from := l.from.life.transport.peer()
	for sent := peers.PieceBytes; sent < bytes; sent += peers.PieceBytes {
		s.add(begins+takes(sent)-s.now, &event{name: "piece", process: l.to, run: func() {
			if to := l.to.life.transport; !l.blocked && to != nil && to.started {
				to.options.Handler.Heard(from)
			}
		}})
	}
}

// deliver hands messages to the receiver at a time. Those of a numbered connection are lost with it, unless they are Raft's.
func (n *network) deliver(l *link, batch [][]byte, at time.Duration, number uint64) {
	s := n.c.scheduler
	from := l.from.life.transport.peer()
	s.add(at-s.now, &event{name: "deliver", process: l.to, run: func() {
		to := l.to.life.transport
		if l.blocked || to == nil || !to.started || !sameCluster(l.from, to) {
			return
		}
		var messages []*peerv1.Message
		for _, data := range batch {
			m := &peerv1.Message{}
			if err := m.UnmarshalVT(data); err != nil {
				n.c.violate("message of %s cannot be decoded: %v", l.from.id, err)
				return
			}
			if m.GetRaft() != nil || l.up && l.number == number {
				messages = append(messages, m)
			}
		}
		if len(messages) > 0 {
			to.options.Handler.HandleMessages(from, messages)
		}
	}})
}

// sameCluster says whether the receiver would still take messages of the sender.
func sameCluster(from *process, to *transport) bool {
	return from.life == nil || from.life.transport == nil || string(from.life.transport.options.ClusterID()) == string(to.options.ClusterID())
}
