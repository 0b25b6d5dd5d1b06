package raftnode

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// Close hands all leads over (see Leave), answers what still waits, and closes everything. Work that was proposed and not committed may
// yet be committed by the others. It returns the terminal failure of the node, if there was one.
func (n *Node) Close() error {
	if !n.closed.CompareAndSwap(false, true) {
		<-n.done
		return n.Err()
	}
	left := make(chan struct{})
	n.Leave(func() { close(left) })
	select {
	case <-left:
	case <-n.done: // It has failed.
	}
	disconnected := n.transport.Close()
	if !n.rest() {
		return errors.Join(n.Err(), disconnected, errors.New("work on the disk does not end; what is open is left to the end of the process"))
	}
	n.abandon()
	n.ending.Do(func() { close(n.done) })
	return errors.Join(n.Err(), disconnected, n.release())
}

// leaving is a node that takes no requests any more and hands its leads over.
type leaving struct {
	n *Node
	// leads counts the leads that are being handed over.
	leads atomic.Int64
	// quiet counts the ticks since there was anything to do; the tick's.
	quiet int
	once  sync.Once
	left  func()
}

// quietTicks is how long a node stays that has nothing left to do: its answers leave, and what the others have passed on to it before they knew of
// the next leader is refused instead of lost with the connection, which would make its outcome unknown.
const quietTicks = 2

// Leave takes no requests any more and lets other nodes lead. What was taken is still answered, where need be by the next leader. left is called once that
// is done, or when an election would have taken as long: from a stage, so it must not block, or at once if there is nothing to do.
func (n *Node) Leave(left func()) {
	if !n.closing.CompareAndSwap(false, true) || !n.serving.Load() || n.failed() {
		left()
		return
	}
	l := &leaving{n: n, left: left}
	members := n.locals()
	l.leads.Store(int64(len(members)))
	n.leaving.Store(l)
	n.runtime.After(n.options.ElectionTimeout, l.end)
	for _, m := range members {
		m.worker.post(inspectEvent{m: m, look: l.handOver})
	}
}

// handOver lets another node lead the shard of a member, on the member's worker.
func (l *leaving) handOver(m *member) {
	done := func(uint64, error) {
		if l.leads.Add(-1) == 0 && len(l.n.options.Members) < 2 && l.n.requests.bytes.Load() == 0 {
			l.end() // Nobody passes anything on.
		}
	}
	to, ok := m.replica.Successor(m.fit(l.n))
	if !ok {
		done(0, nil)
		return
	}
	t := &transfer{to: nodeID(m.peer(to)), done: done}
	l.n.log.Info("the lead is handed over because this node stops", "shard", m.shard, "to", t.to)
	transferEvent{m: m, t: t}.handle(m.worker)
}

// look ends it if nothing has been left to do for some ticks. It is called at every one, because requests are answered in many places.
func (l *leaving) look() {
	if l.leads.Load() > 0 || l.n.requests.bytes.Load() > 0 || l.n.answers.pending() {
		l.quiet = 0
		return
	}
	if l.quiet++; l.quiet > quietTicks {
		l.end()
	}
}

func (l *leaving) end() { l.once.Do(l.left) }

// rest stops the stages and waits for what they are doing; on a node that has failed no longer than a bound, because a disk that gave errors
// may keep a stage for ever, and the process must end (R6).
func (n *Node) rest() bool {
	if !n.failed() {
		n.runtime.Close()
		return true
	}
	closed := make(chan struct{})
	go func() { // Ends with the stages, or with the process.
		n.runtime.Close()
		close(closed)
	}()
	t := time.NewTimer(restTimeout)
	defer t.Stop()
	select {
	case <-closed:
		return true
	case <-t.C:
		return false
	}
}

const restTimeout = 5 * time.Second

// abandon answers the requests that nothing will answer any more. The stages are at rest.
func (n *Node) abandon() {
	for _, w := range n.workers {
		w.abandon()
	}
	for _, p := range []*readerPool{n.readers, n.pastReaders, n.pageReaders} {
		if p == nil {
			continue
		}
		for _, j := range p.queue.jobs {
			failAll(j.requests, ErrStopped)
		}
	}
	n.forwards.abandon()
}

// abandon answers what was passed on, and what waits for a node to be passed on to.
func (f *forwards) abandon() {
	sent, parked := f.close()
	failAll(parked, ErrStopped)
	for _, w := range sent {
		if w.request.Read != nil {
			w.request.fail(ErrStopped)
			continue
		}
		w.request.fail(f.lost(w))
	}
}

// abandon answers everything that waits on the member.
func (m *member) abandon() {
	rounds, _ := m.endRounds(^uint64(0))
	for _, rs := range [][]*Request{m.writes, m.reads, rounds} {
		failAll(rs, ErrStopped)
	}
	for _, c := range m.confirmed {
		failAll(c.requests, ErrStopped)
	}
	m.writes, m.reads, m.confirmed = nil, nil, nil
	m.writesBytes, m.confirmedCount = 0, 0
	for _, p := range m.proposed.take(^uint64(0)) {
		failAll(p.requests, &UnknownOutcomeError{Shard: m.shard, Cause: "the node stopped before the write was committed"})
	}
	for _, t := range m.transfers {
		t.done(0, unknownTransfer(m.shard, t, "the node stopped meanwhile"))
	}
	m.transfers = nil
}

// release closes what is open. It may be called on a node that is only half open.
func (n *Node) release() error {
	n.engineMu.Lock()
	defer n.engineMu.Unlock()
	n.released = true
	var errs []error
	if n.engine != nil {
		errs = append(errs, n.engine.close())
	}
	if n.logs != nil {
		errs = append(errs, n.logs.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

func cloneIdentity(id *storev1.Identity) *storev1.Identity {
	return proto.Clone(id).(*storev1.Identity)
}
