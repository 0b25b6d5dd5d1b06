package raftnode

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

// worker steps the replicas of some shards. Everything that concerns them reaches it as an event; nothing else touches them.
type worker struct {
	n     *Node
	index int
	wake  func()
	// inbox has a lock of its own; its order is: a leaf.
	inbox struct {
		sync.Mutex
		events       []event
		messages     int  // of events: those that may be dropped
		messageBytes int  // of these
		requests     int  // of events: those that may be refused
		ticking      bool // a tick waits; a second one would tell nothing
		closed       bool // requests are refused
	}
	spare []event   // the list of the round before, used again
	dirty []*member // members with something to do, in the order in which they got it
}

// event is something that happened to a member.
type event interface{ handle(w *worker) }

type (
	// tickEvent is a tick for all members of the worker.
	tickEvent struct{}
	// messageEvent is a message of another replica, checked for identity.
	messageEvent struct {
		m *member
		// sender is who has sent it, as its connection has proved.
		sender  *storev1.Replica
		message *raftpb.Message
		// staged is where the snapshot of a MsgSnap waits.
		staged string
		// bytes is the size of the message, for the bound of the inbox.
		bytes int
	}
	requestEvent struct {
		m *member
		r *Request
	}
	appendDoneEvent struct {
		m *member
		a *replica.Append
		// began and ended are those of the round of the log that has made it durable.
		began, ended time.Time
	}
	installedEvent struct {
		m *member
		a *replica.Append
	}
	applyDoneEvent struct {
		m *member
		a *replica.Apply
		// configuration is the membership behind the entries, if they have changed it.
		configuration *storev1.Configuration
		// checkpoint is the newest behind them.
		checkpoint state.Checkpoint
	}
	rereadEvent struct {
		m        *member
		requests []*Request
	}
	peerDownEvent struct{ node placement.NodeID }
	snapshotSent  struct {
		m  *member
		to uint64
		ok bool
	}
	transferEvent struct {
		m *member
		t *transfer
	}
	truncateEvent struct {
		m         *member
		index     uint64
		tight     bool
		truncated func(index uint64)
	}
	inspectEvent struct {
		m    *member
		look func(*member)
	}
)

// post gives the worker an event.
func (w *worker) post(e event) {
	w.inbox.Lock()
	w.inbox.events = append(w.inbox.events, e)
	w.inbox.Unlock()
	w.wake()
}

// request gives the worker a request, or answers it if the worker has stopped.
func (w *worker) request(m *member, r *Request) {
	w.inbox.Lock()
	closed, full := w.inbox.closed, w.inbox.requests >= queueRequestsMax
	if !closed && !full {
		w.inbox.events = append(w.inbox.events, requestEvent{m: m, r: r})
		w.inbox.requests++
	}
	w.inbox.Unlock()
	switch {
	case closed:
		r.fail(ErrStopped)
	case full:
		r.fail(overloaded("requests waiting for a worker", queueRequestsMax, queueRequestsMax))
	default:
		w.wake()
	}
}

// abandon refuses further requests and answers those that nothing will answer any more: the node has failed or is closed. The worker calls
// it, or Close once the worker is at rest.
func (w *worker) abandon() {
	w.inbox.Lock()
	w.inbox.closed = true
	events := w.inbox.events
	w.inbox.events, w.inbox.messages, w.inbox.messageBytes, w.inbox.requests, w.inbox.ticking = nil, 0, 0, 0, false
	w.inbox.Unlock()
	for _, e := range events {
		switch e := e.(type) {
		case requestEvent:
			e.r.fail(ErrStopped)
		case transferEvent:
			e.t.done(0, ErrStopped)
		case replaceEvent:
			e.done(nil, ErrStopped)
		case rereadEvent:
			failAll(e.requests, ErrStopped)
		case joinEvent:
			failAll(e.requests, ErrStopped)
		}
	}
	for m := range w.members() {
		m.abandon()
	}
	w.n.forwards.abandon()
}

// postTick gives the worker a tick, unless it has not come to the last one: a worker that was held up must not run its clock ahead of
// the messages that wait behind the ticks.
func (w *worker) postTick() {
	w.inbox.Lock()
	if !w.inbox.ticking {
		w.inbox.ticking = true
		w.inbox.events = append(w.inbox.events, tickEvent{})
	}
	w.inbox.Unlock()
	w.wake()
}

// postMessages gives the worker messages of peers, and drops what is over the bounds: Raft sends again what gets lost.
func (w *worker) postMessages(es []messageEvent) {
	dropped := uint64(0)
	w.inbox.Lock()
	for _, e := range es {
		if w.inbox.messages >= messagesMax || w.inbox.messages > 0 && w.inbox.messageBytes+e.bytes > messagesBytesMax {
			dropped++
			continue
		}
		w.inbox.events = append(w.inbox.events, e)
		w.inbox.messages++
		w.inbox.messageBytes += e.bytes
	}
	w.inbox.Unlock()
	w.n.metrics.droppedMessages.Add(dropped)
	w.wake()
}

// step is one turn: take in all that has happened, then let every member that it concerns do what is to be done.
func (w *worker) step() {
	if w.n.failed() {
		w.abandon()
		return
	}
	w.inbox.Lock()
	events := w.inbox.events
	w.inbox.events, w.inbox.messages, w.inbox.messageBytes, w.inbox.requests, w.inbox.ticking = w.spare[:0], 0, 0, 0, false
	w.inbox.Unlock()
	for i, e := range events {
		e.handle(w)
		events[i] = nil
	}
	w.spare = events
	for i := 0; i < len(w.dirty); i++ {
		m := w.dirty[i]
		m.dirty = false
		w.dirty[i] = nil
		w.drain(m)
	}
	w.dirty = w.dirty[:0]
}

// touch puts a member on the list of this turn.
func (w *worker) touch(m *member) {
	if !m.dirty {
		m.dirty = true
		w.dirty = append(w.dirty, m)
	}
}

// drain carries out what the replica asks for, and feeds it what waits.
func (w *worker) drain(m *member) {
	for {
		if !w.carryAll(m) {
			return
		}
		w.startReads(m)
		if !w.propose(m) && !m.replica.HasReady() {
			return
		}
	}
}

// carryAll carries out all that the replica asks for, and says whether the node goes on.
func (w *worker) carryAll(m *member) bool {
	for m.replica.HasReady() {
		out, err := m.replica.Ready()
		if !w.check(m, err) {
			return false
		}
		w.carry(m, out)
		if w.n.failed() {
			return false
		}
	}
	return true
}

// carry carries out one Ready. Messages leave at once, beside the fsync of the same entries; those that must not are in Append (R4).
func (w *worker) carry(m *member, out replica.Output) {
	if out.RoleChanged {
		m.refused = false
		w.roleChanged(m)
	}
	if len(m.courses) > 0 {
		w.noteCommits(m)
	}
	w.send(m, out.Messages)
	if out.Append != nil {
		if w.n.tracing != nil {
			w.followAppend(m, out.Append)
		}
		m.appends = append(m.appends, out.Append)
		w.feedLog(m)
	}
	if out.Apply != nil {
		w.observeCommits(m, out.Apply.Entries)
		w.n.applier.add(m, out.Apply)
	}
	for _, r := range out.Reads {
		w.readConfirmed(m, r)
	}
}

// feedLog hands appends to the log writer, up to and not beyond one that carries a snapshot, which the installer takes.
func (w *worker) feedLog(m *member) {
	for !m.installing && m.inFlight < len(m.appends) {
		a := m.appends[m.inFlight]
		if a.Snapshot == nil {
			m.inFlight++
			w.n.logWriter.add(m, a)
			continue
		}
		if m.inFlight > 0 {
			return // The log must be at rest before it is replaced.
		}
		m.inFlight++
		m.installing = true
		w.install(m, a)
	}
}

// check stops the node on an error that a replica cannot go on from.
func (w *worker) check(m *member, err error) bool {
	if err != nil {
		if errors.Is(err, replica.ErrAmnesia) {
			w.n.fail(&damageError{m.shard, err})
			return false
		}
		w.n.fail(fmt.Errorf("shard %d: %w", m.shard, err))
		return false
	}
	return true
}

func (tickEvent) handle(w *worker) {
	now := w.n.runtime.Now()
	for m := range w.members() {
		m.replica.Tick()
		m.clock.tick(now, w.n.options.HeartbeatInterval)
		m.refused = false
		w.expire(m, now)
		m.replica.AbandonRead()
		w.campaign(m, now)
		w.promote(m)
		w.yield(m)
		w.expireDue(m, now)
		w.touch(m)
	}
}

func (e appendDoneEvent) handle(w *worker) {
	if len(e.m.courses)+len(e.m.tracedAppends) > 0 {
		w.noteAppend(e)
	}
	w.appended(e.m, e.a)
}

// appended reports the oldest append done. Appends of a member are done in order.
func (w *worker) appended(m *member, a *replica.Append) {
	if m.appends[0] != a {
		w.check(m, fmt.Errorf("appends are done out of order"))
		return
	}
	m.appends[0] = nil
	m.appends = m.appends[1:]
	m.inFlight--
	messages, err := m.replica.AppendDone(a)
	if !w.check(m, err) {
		return
	}
	w.send(m, messages)
	w.feedLog(m)
	w.touch(m)
}

func (e applyDoneEvent) handle(w *worker) {
	m := e.m
	if !w.check(m, m.replica.ApplyDone(e.a)) {
		return
	}
	m.applied = e.a.Entries[len(e.a.Entries)-1].GetIndex()
	m.refused = false
	if e.configuration != nil && !w.membershipChanged(m, e.configuration) {
		return
	}
	w.tellCheckpoint(m, e.checkpoint)
	w.leadApplied(m)
	w.releaseReads(m)
	w.touch(m)
}

func (e snapshotSent) handle(w *worker) {
	e.m.replica.ReportSnapshot(e.to, e.ok)
	w.touch(e.m)
}

func (e truncateEvent) handle(w *worker) {
	if e.m.installing {
		return // The log is being replaced; what it held may be gone already.
	}
	index, err := e.m.replica.Truncate(e.index, e.tight)
	if w.check(e.m, err) {
		e.truncated(index)
	}
}

func (e inspectEvent) handle(*worker) { e.look(e.m) }
