package nodetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Load says what clients do.
type Load struct {
	// Clients is how many there are, Groups how many groups of keys they share.
	Clients, Groups int
	// Think is the mean time between the answer to one operation and the next.
	Think time.Duration
	// Reads is the share of reads. Of those, one in 1+Pages reads a page of a range; none if Pages is 0.
	Reads float64
	Pages int
	// ValueBytes is the size of values.
	ValueBytes int
	// Timeout is how long a client waits.
	Timeout time.Duration
}

// clients issue operations on random nodes and note what they see.
type clients struct {
	c       *Cluster
	load    Load
	history *History
	// stopped: no new operations.
	stopped bool
	// busy is how many operations are under way, values how many values were made.
	busy, values int
	// revisions are the highest ones seen, by shard: what a client with an id knows before its first attempt.
	revisions map[placement.ShardID]uint64
	known     [][GroupKeys]Cell
	recovery  *recovery
}

func newClients(c *Cluster, load Load) *clients {
	cs := &clients{
		c: c, load: load, history: &History{Refused: make(map[string]*Operation)},
		revisions: make(map[placement.ShardID]uint64), known: make([][GroupKeys]Cell, load.Groups),
		recovery: newRecovery(),
	}
	for i := range load.Clients {
		cl := &client{cs: cs, number: i}
		cl.think()
	}
	return cs
}

// client does one operation after another.
type client struct {
	cs       *clients
	number   int
	sequence uint64
}

func (cl *client) think() {
	s := cl.cs.c.scheduler
	s.after(s.about(cl.cs.load.Think), "client", func() {
		if !cl.cs.stopped {
			cl.begin()
		}
	})
}

// begin draws an operation and sends it.
func (cl *client) begin() {
	cs, s := cl.cs, cl.cs.c.scheduler
	op := &Operation{Client: cl.number, Group: s.random.IntN(cs.load.Groups), Call: s.now, Kind: Read}
	a := &attempt{cl: cl, op: op}
	if s.chance(cs.load.Reads) {
		a.page = cs.drawPage(op.Group)
		op.Stale = cs.drawStale(op.Group)
	} else {
		op.Kind = Write
		cl.sequence++
		op.Changes = cl.changes()
		if s.chance(0.2) {
			k := s.random.IntN(GroupKeys)
			known := cs.known[op.Group][k]
			op.Condition = &Condition{Key: k, Value: known.Value, ByRevision: s.chance(0.5), Revision: known.Revision}
			if s.chance(0.5) {
				op.Otherwise = cl.changes()
			}
		}
	}
	cs.busy++
	a.sequence, a.named, a.previous = cl.sequence, s.chance(0.8), s.chance(0.3)
	a.keyed = op.Kind == Write && (!a.named || s.chance(0.2))
	a.named = a.named && !a.keyed
	a.send()
	if a.named && op.Kind == Write && s.chance(0.15) {
		a.loseHeart()
	}
}

// changes draws what a write does.
func (cl *client) changes() []Change {
	s := cl.cs.c.scheduler
	first, n := s.random.IntN(GroupKeys), 1
	if s.chance(0.4) {
		n = 2 + s.random.IntN(GroupKeys-1)
	}
	out := make([]Change, 0, n)
	for i := range n {
		c := Change{Key: (first + i) % GroupKeys}
		if s.chance(0.15) {
			c.Delete = true
		} else {
			cl.cs.values++
			c.Value = fmt.Sprintf("v%d", cl.cs.values)
		}
		out = append(out, c)
	}
	return out
}

// attempt is an operation on its way. A write with a name may be sent again when its outcome is unknown.
type attempt struct {
	cl *client
	op *Operation
	// page: the operation reads a page; nil if it reads keys or writes.
	page     *peerv1.RangeRead
	sequence uint64
	named    bool
	// keyed: the write stands under an idempotency key; first is when it was sent first.
	keyed bool
	first time.Duration
	// asked counts the questions what came of the write.
	asked int
	// previous: a write is to show what it replaces.
	previous bool
	seen     uint64
	// doubt: an earlier attempt may have been executed.
	doubt bool
	// try numbers the attempts, so that a late answer to an earlier one is not taken.
	try int
}

// send sends the operation to a random node.
func (a *attempt) send() {
	cs, s := a.cl.cs, a.cl.cs.c.scheduler
	p := cs.c.processes[s.random.IntN(len(cs.c.processes))]
	a.try++
	a.op.Attempts++
	if a.try == 1 {
		a.seen, a.first = cs.seenBy(a.op.Group), s.now
	}
	try := a.try
	s.add(s.between(50*time.Microsecond, time.Millisecond), &event{
		name: "request", process: p,
		run:  func() { a.arrive(p.life, try) },
		lost: func() { a.answered(try, raftnode.Result{Err: errUnreachable}, true) },
	})
	// A node answers soon after the deadline, if it lives; a client waits no longer than that.
	s.after(cs.load.Timeout+2*time.Second, "client timeout", func() {
		a.answered(try, raftnode.Result{Err: errNoAnswer}, false)
	})
}

// arrive gives the operation to the node that it has reached.
func (a *attempt) arrive(l *life, try int) {
	cs, s := a.cl.cs, a.cl.cs.c.scheduler
	if l.node == nil {
		a.answered(try, raftnode.Result{Err: errUnreachable}, true)
		return
	}
	answers := 0
	r := a.request()
	r.Deadline = l.runtime.Now().Add(cs.load.Timeout)
	if l.process.serving() && a.op.Kind == Write && l.node.Locate(key(a.op.Group, 0)).Leader != l.process.id {
		cs.c.seen(ForwardedWrite)
	}
	if a.page != nil {
		a.turn(l, try, r.Deadline)
		return
	}
	r.Done = func(res raftnode.Result) {
		if l.dead.Load() {
			return
		}
		if answers++; answers > 1 {
			cs.c.violate("%s answers a request twice: %s", l.process.id, a.op)
		}
		s.after(s.between(50*time.Microsecond, time.Millisecond), "answer", func() { a.answered(try, res, true) })
	}
	l.ends = append(l.ends, func() {
		if answers == 0 {
			answers++
			if l.stopping {
				cs.c.violate("%s stops and leaves a request without an answer: %s", l.process.id, a.op)
			}
			s.after(s.between(time.Millisecond, 20*time.Millisecond), "client cut off", func() {
				a.answered(try, raftnode.Result{Err: errBroken}, false)
			})
		}
	})
	l.node.Submit(r)
}

// request is the operation as a node gets it.
func (a *attempt) request() *raftnode.Request {
	op := a.op
	r := &raftnode.Request{AutoShard: true}
	if op.Kind == Read {
		r.Read = &peerv1.ReadRequest{Stale: a.stale()}
		for k := range GroupKeys {
			r.Read.Keys = append(r.Read.Keys, key(op.Group, k))
		}
		return r
	}
	w := &storev1.Write{Operations: a.operations(op.Changes), Otherwise: a.operations(op.Otherwise)}
	if c := op.Condition; c != nil {
		compare := &storev1.Compare{Key: key(op.Group, c.Key), Condition: &storev1.Compare_Exists{Exists: false}}
		switch {
		case c.ByRevision:
			compare.Condition = &storev1.Compare_ModRevision{ModRevision: c.Revision}
		case c.Value != "":
			compare.Condition = &storev1.Compare_Value{Value: a.cl.cs.pad(c.Value)}
		}
		w.Compares = append(w.Compares, compare)
	}
	r.Command = &storev1.Command{Body: &storev1.Command_Write{Write: w}}
	if a.previous {
		r.After = a.replaced
	}
	if a.named {
		r.Command.RequestId = a.id()
	}
	if a.keyed {
		r.Command.Idempotency = a.key()
	}
	return r
}

func (a *attempt) operations(changes []Change) (ops []*storev1.Operation) {
	for _, c := range changes {
		o := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_DELETE, Key: key(a.op.Group, c.Key)}
		if !c.Delete {
			o.Kind, o.Value = storev1.OperationKind_OPERATION_KIND_PUT, a.cl.cs.pad(c.Value)
		}
		ops = append(ops, o)
	}
	return ops
}

// branch are the changes that a result tells to be done.
func (a *attempt) branch(w *storev1.WriteResult) []Change {
	if w.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED {
		return a.op.Otherwise
	}
	return a.op.Changes
}

// replaced are the keys that a write has found, as of the revision before its own.
func (a *attempt) replaced(w *storev1.WriteResult) (past []*peerv1.PastRead) {
	for i, c := range a.branch(w) {
		if w.GetOperations()[i].GetExisted() {
			past = append(past, &peerv1.PastRead{Key: key(a.op.Group, c.Key), Revision: w.GetRevision() - 1})
		}
	}
	return past
}

// pad makes a value as large as the load wants it.
func (cs *clients) pad(value string) []byte {
	out := make([]byte, max(len(value), cs.load.ValueBytes))
	copy(out, value)
	for i := len(value); i < len(out); i++ {
		out[i] = '.'
	}
	return out
}

func unpad(value []byte) string {
	for i, c := range value {
		if c == '.' {
			return string(value[:i])
		}
	}
	return string(value)
}

// answered takes an answer. spoken says that it came from a node; if not, nobody knows what has happened.
func (a *attempt) answered(try int, res raftnode.Result, spoken bool) {
	if try != a.try {
		return
	}
	a.try++ // What comes now is late.
	cs := a.cl.cs
	cs.note(a, res)
	if full := (*raftnode.DiskFullError)(nil); errors.As(res.Err, &full) {
		cs.c.seen(GrowthRefused)
	}
	if tooStale := (*raftnode.TooStaleError)(nil); errors.As(res.Err, &tooStale) {
		cs.c.seen(TooStale)
		if a.op.Stale == nil {
			cs.c.violate("too stale is no answer to %s", a.op)
		}
	}
	var unknown *raftnode.UnknownOutcomeError
	switch {
	case res.Err == nil:
		a.finish(res)
	case !spoken || errors.As(res.Err, &unknown):
		a.lose()
	case a.doubt:
		// This attempt was not executed. An earlier one may have been.
		a.again()
	default:
		a.refuse()
	}
}

// note puts an answer into the trace.
func (cs *clients) note(a *attempt, res raftnode.Result) {
	t := &cs.c.scheduler.trace
	t.text(fmt.Sprintf("client %d: %v", a.cl.number, res.Err))
	for _, m := range []interface{ MarshalVT() ([]byte, error) }{res.Write, res.Read} {
		if b, err := m.MarshalVT(); err == nil {
			t.content(b)
		}
	}
}

// finish notes an operation that happened.
func (a *attempt) finish(res raftnode.Result) {
	cs, op := a.cl.cs, a.op
	op.Return, op.Outcome, op.Shard, op.Origin = cs.c.scheduler.now, Done, res.Shard, res.Origin.GetRevision()
	if op.Kind == Read {
		op.Cells = a.cells(res.Read)
		for k, cell := range op.Cells {
			if op.Stale == nil {
				cs.known[op.Group][k] = cell
			}
			if was, ok := cs.history.Refused[cell.Value]; ok && cell.Value != "" {
				cs.c.violate("a refused write is visible: %s, seen by %s", was, op)
			}
		}
		if op.Stale != nil {
			a.finishStale(res)
			return
		}
		cs.close(a)
		return
	}
	if res.Write.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED {
		op.Outcome, op.Current = CompareFailed, res.Write.GetFailedModRevision()
	}
	a.written(res)
	if a.doubt {
		cs.c.seen(Retried)
	}
	cs.revisions[res.Shard] = max(cs.revisions[res.Shard], res.Write.GetRevision())
	a.repeat(res)
	cs.close(a)
}

// written takes what a write has done from its result. The values of the branch that it has not taken are never to be seen.
func (a *attempt) written(res raftnode.Result) {
	cs, op, records := a.cl.cs, a.op, res.Read.GetRecords()
	done, other := op.Branches()
	for i, o := range res.Write.GetOperations() {
		op.Cells = append(op.Cells, Cell{Value: done[i].Value, Version: o.GetVersion(), Existed: o.GetExisted()})
		if !a.previous {
			continue
		}
		before := Cell{}
		if o.GetExisted() {
			before, records = cellOf(records[0]), records[1:]
		}
		op.Before = append(op.Before, before)
	}
	if slices.ContainsFunc(res.Read.GetRecords(), func(k *peerv1.KeyRecord) bool { return k.GetOmitted() }) {
		op.Before = nil // a retry came when history was forgotten
	}
	op.Revision = res.Write.GetRevision()
	cs.recovery.wrote(op)
	for _, c := range other {
		if !c.Delete {
			cs.history.Refused[c.Value] = op
		}
	}
}

// cells are the keys that a read shows, from the first of the group.
func (a *attempt) cells(read *peerv1.ReadResult) []Cell {
	if a.page != nil {
		return pageCells(a.op.Group, read)
	}
	var out []Cell
	for _, r := range read.GetRecords() {
		out = append(out, cellOf(r))
	}
	return out
}

func cellOf(r *peerv1.KeyRecord) Cell {
	v := r.GetRecord()
	return Cell{Value: unpad(v.GetValue()), Version: v.GetVersion(), Revision: v.GetModRevision()}
}

// close puts an operation that happened, or may have, into the history.
func (cs *clients) close(a *attempt) {
	cs.history.Operations = append(cs.history.Operations, a.op)
	cs.busy--
	a.cl.think()
}

// lose goes on from an attempt of which nobody knows what came.
func (a *attempt) lose() {
	cs := a.cl.cs
	if a.op.Kind == Read {
		cs.busy--
		a.cl.think()
		return
	}
	cs.c.seen(UnknownOutcome)
	a.doubt = true
	a.again()
}

// again sends a write whose outcome is in doubt once more, if it has a name, or gives it up.
func (a *attempt) again() {
	cs, s := a.cl.cs, a.cl.cs.c.scheduler
	switch more := a.op.Attempts < 6 && !cs.stopped; {
	case a.named && (!more || s.chance(0.3)):
		a.ask()
	case a.named, a.keyed && more && a.inWindow():
		s.after(s.about(200*time.Millisecond), "retry", a.send)
	default:
		a.op.Lose()
		cs.close(a)
	}
}

// refuse forgets an operation that certainly did not happen; its values must never be seen.
func (a *attempt) refuse() {
	cs := a.cl.cs
	for _, c := range slices.Concat(a.op.Changes, a.op.Otherwise) {
		if !c.Delete {
			cs.history.Refused[c.Value] = a.op
		}
	}
	cs.busy--
	a.cl.think()
}

// seenBy is the revision that a client knows of the shard of a group.
func (cs *clients) seenBy(group int) uint64 {
	for _, p := range cs.c.processes {
		if p.serving() {
			return cs.revisions[p.life.node.Locate(key(group, 0)).Shard]
		}
	}
	return 0
}
