package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// recorder remembers what clients saw, on one monotonic clock.
type recorder struct {
	began time.Time

	// mu guards what follows. It is a leaf.
	mu         sync.Mutex
	history    *nodetest.History
	violations []string
	// revisions are the highest ones seen: what a client knows before a first attempt.
	revisions map[placement.ShardID]uint64
	// acked are when writes were acknowledged.
	acked map[placement.ShardID][]time.Duration
	// cells are keys as somebody saw them last, by group.
	cells map[int]*[nodetest.GroupKeys]nodetest.Cell
	// tokens are those of the highest revisions that answers have given.
	tokens map[placement.ShardID]token
	// stale counts stale reads, aged those of a state that need not have been the newest, tooStale those that no state was new enough for.
	stale, aged, tooStale int
	// done, failed (their condition did not hold), unknown and refused count writes; read and unread reads.
	done, failed, unknown, refused, read, unread int
	retried                                      int
	// otherwise counts writes that have done something else because their condition did not hold, shown those that have shown what they replaced.
	otherwise, shown int
	tally            tally
}

// tally counts what came of writes that were sent again, or asked after. found and fenced are outcomes that were told, late attempts of a fenced write that were
// refused, twins and repeated answers that were given again, reused idempotency keys that were refused to another write.
type tally struct{ found, fenced, late, twins, repeated, reused int }

// tell counts.
func (r *recorder) tell(count func(*tally)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count(&r.tally)
}

func newRecorder() *recorder {
	return &recorder{
		began: time.Now(), history: &nodetest.History{Refused: make(map[string]*nodetest.Operation)},
		revisions: make(map[placement.ShardID]uint64), acked: make(map[placement.ShardID][]time.Duration),
		cells: make(map[int]*[nodetest.GroupKeys]nodetest.Cell), tokens: make(map[placement.ShardID]token),
	}
}

// now is the time of the history.
func (r *recorder) now() time.Duration { return time.Since(r.began) }

// violate notes that a promise was broken.
func (r *recorder) violate(format string, args ...any) {
	text := fmt.Sprintf("%7.2f s: %s", r.now().Seconds(), fmt.Sprintf(format, args...))
	fmt.Println("VIOLATION", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, text)
}

// broken returns the violations so far.
func (r *recorder) broken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.violations)
}

// seen is the highest revision known of a shard.
func (r *recorder) seen(shard placement.ShardID) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revisions[shard]
}

// token is the newest one known of a shard, whoever was given it.
func (r *recorder) token(shard placement.ShardID) token {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tokens[shard]
}

// keep keeps the token of an answer.
func (r *recorder) keep(op *nodetest.Operation, h *raftkvv1.ResponseHeader) error {
	t, err := tokenOf(op, h)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.revision > r.tokens[op.Shard].revision {
		r.tokens[op.Shard] = t
	}
	return nil
}

// known is a key as somebody saw it last. It may have changed since.
func (r *recorder) known(group, key int) nodetest.Cell {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cells := r.cells[group]; cells != nil {
		return cells[key]
	}
	return nodetest.Cell{}
}

// finish notes an operation that happened, or that its condition has stopped.
func (r *recorder) finish(op *nodetest.Operation, outcome nodetest.Outcome) {
	op.Return, op.Outcome = r.now(), outcome
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revisions[op.Shard] = max(r.revisions[op.Shard], op.Origin)
	if op.Stale != nil {
		r.history.Stale = append(r.history.Stale, op)
		if r.stale++; op.Stale.Age > 0 || op.Stale.AgeUnknown {
			r.aged++
		}
		return
	}
	r.history.Operations = append(r.history.Operations, op)
	if op.Attempts > 1 {
		r.retried++
	}
	switch {
	case op.Kind == nodetest.Read:
		r.read++
	case outcome == nodetest.CompareFailed:
		r.failed++
		if op.Changed() {
			r.otherwise++
		}
	default:
		r.done++
		r.acked[op.Shard] = append(r.acked[op.Shard], op.Return)
	}
	if op.Before != nil {
		r.shown++
	}
	_, left := op.Branches()
	r.never(op, left)
	r.learn(op)
}

// never notes what an operation has certainly not done. mu is held.
func (r *recorder) never(op *nodetest.Operation, changes []nodetest.Change) {
	for _, c := range changes {
		if !c.Delete {
			r.history.Refused[c.Value] = op
		}
	}
}

// learn takes over how an operation shows keys. mu is held.
func (r *recorder) learn(op *nodetest.Operation) {
	cells := r.cells[op.Group]
	if cells == nil {
		cells = new([nodetest.GroupKeys]nodetest.Cell)
		r.cells[op.Group] = cells
	}
	done, _ := op.Branches()
	for i, cell := range op.Cells {
		if op.Kind == nodetest.Read {
			cells[op.From+i] = cell
			continue
		}
		c := done[i]
		cells[c.Key] = nodetest.Cell{}
		if !c.Delete {
			cells[c.Key] = nodetest.Cell{Value: c.Value, Version: cell.Version, Revision: op.Revision}
		}
	}
}

// stood notes a stale read that no state was new enough for.
func (r *recorder) stood() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tooStale++
}

// lose notes an operation of which nobody knows what came. A read that was not answered says nothing.
func (r *recorder) lose(op *nodetest.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if op.Kind == nodetest.Read {
		r.unread++
		return
	}
	op.Lose()
	r.unknown++
	r.history.Operations = append(r.history.Operations, op)
}

// refuse notes an operation that certainly did not happen.
func (r *recorder) refuse(op *nodetest.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if op.Kind == nodetest.Read {
		r.unread++
		return
	}
	r.refused++
	r.never(op, slices.Concat(op.Changes, op.Otherwise))
}

// save writes the history, an operation a line.
func (r *recorder) save(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := json.NewEncoder(f)
	for _, op := range slices.Concat(r.history.Operations, r.history.Stale) {
		if err := e.Encode(op); err != nil {
			return err
		}
	}
	for _, op := range r.history.Refused {
		if err := e.Encode(struct{ Refused *nodetest.Operation }{op}); err != nil {
			return err
		}
	}
	return nil
}

// saveJSON writes something as JSON.
func saveJSON(path string, what any) error {
	b, err := json.MarshalIndent(what, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
