package raftnode

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
)

const (
	// leasesAskedMax is how many leases one read asks for.
	leasesAskedMax = 1024
	// leaseAskInterval is how often a leader asks the homes of the leases on which keys of its shard hang.
	leaseAskInterval = time.Second
)

// slotOf returns the slot that a request is about, if that does not follow from keys in it.
func slotOf(r *Request) (placement.Slot, bool) {
	if l := r.Command.GetLease(); l != nil {
		return placement.SlotOfLease(l.GetId()), true
	}
	if f := r.Command.GetFence(); f != nil {
		return placement.Slot(f.GetSlot() % placement.SlotCount), true // One that is too high is refused.
	}
	if ids := r.Read.GetLease().GetIds(); len(ids) == 1 {
		return placement.SlotOfLease(ids[0]), true
	}
	return 0, false
}

// branches are the operations of both branches of a write.
func branches(w *storev1.Write) iter.Seq[*storev1.Operation] {
	return func(yield func(*storev1.Operation) bool) {
		for _, ops := range [2][]*storev1.Operation{w.GetOperations(), w.GetOtherwise()} {
			for _, o := range ops {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// leasesElsewhere returns the leases of a write that are at home in other shards than its own. A request that was passed on has been looked after.
func (n *Node) leasesElsewhere(r *Request) []uint64 {
	if r.forwarded {
		return nil
	}
	var ids []uint64
	for o := range branches(r.Command.GetWrite()) {
		if o.GetLease() != 0 && n.shards.of(placement.SlotOfLease(o.GetLease())) != r.Shard {
			ids = append(ids, o.GetLease())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// asked goes on with a write whose leases were looked for in their homes. One on a lease that has ended is refused by the shard and not here: if it is the retry of
// one that was applied, its client must be told so.
func (n *Node) asked(r *Request, ended []uint64, err error) {
	if err != nil {
		r.fail(err)
		return
	}
	if len(ended) > 0 {
		r.Command = proto.CloneOf(r.Command)
		for o := range branches(r.Command.GetWrite()) {
			_, o.LeaseEnded = slices.BinarySearch(ended, o.GetLease())
		}
	}
	n.dispatch(r)
}

// askHomes asks the homes of leases which of them live. done gets those that do not, ascending, or the error of a home that has not answered.
func (n *Node) askHomes(ids []uint64, deadline time.Time, done func(ended []uint64, err error)) {
	homes := make(map[placement.ShardID][]uint64)
	for _, id := range ids {
		home := n.shards.of(placement.SlotOfLease(id))
		homes[home] = append(homes[home], id)
	}
	a := &askedHomes{left: len(homes), done: done}
	for _, home := range slices.Sorted(maps.Keys(homes)) {
		asked := homes[home]
		n.Submit(&Request{
			Shard: home, Deadline: deadline, Read: &peerv1.ReadRequest{Lease: &peerv1.LeaseRead{Ids: asked}},
			Done: func(res Result) { a.answer(asked, res) },
		})
	}
}

// askedHomes collects the answers of the homes of leases.
type askedHomes struct {
	// mu guards the fields below. It is a leaf.
	mu    sync.Mutex
	left  int
	ended []uint64
	err   error

	done func(ended []uint64, err error)
}

func (a *askedHomes) answer(asked []uint64, res Result) {
	a.mu.Lock()
	if a.left--; res.Err != nil {
		a.err = res.Err
	} else {
		live := make(map[uint64]bool, len(res.Read.GetLeases()))
		for _, l := range res.Read.GetLeases() {
			live[l.GetId()] = true
		}
		for _, id := range asked {
			if !live[id] {
				a.ended = append(a.ended, id)
			}
		}
	}
	left, ended, err := a.left, a.ended, a.err
	a.mu.Unlock()
	if left == 0 {
		slices.Sort(ended)
		a.done(ended, err)
	}
}

// homes is what the leader of a shard knows of the leases of other shards on which its keys hang. Their homes do not know where their keys are, so it
// asks them: a lease that does not live never will again, and its keys go.
type homes struct {
	// busy says that an answer or a removal is awaited; who clears it is done with the fields below. Any goroutine may.
	busy atomic.Bool
	// ended are leases whose keys are being removed.
	ended []uint64
	// next is when to ask again, after the lease behind which to go on.
	next  time.Time
	after uint64
}

// lookHome lets the leader of a shard ask for the next of its leases, or go on removing the keys of some.
func (h *housekeeper) lookHome(m *member, at position) {
	l := m.lead.Load()
	x := &m.homes
	if at.leasedKeys == 0 || len(h.n.shards.shards) == 2 || l == nil || !l.local {
		return // With one data shard beside the meta shard all leases are at home.
	}
	if planted.Is(planted.LeaseForgottenElsewhere) || !x.busy.CompareAndSwap(false, true) { // R19
		return
	}
	now := h.n.runtime.Now()
	if len(x.ended) > 0 {
		h.removeLeased(m, now)
		return
	}
	if now.Before(x.next) {
		x.busy.Store(false)
		return
	}
	x.next = now.Add(leaseAskInterval)
	ids, until, err := h.leasesElsewhere(m, x.after)
	if err != nil && !errors.Is(err, state.ErrReplaced) {
		h.n.fail(err)
		return
	}
	x.after = until
	if len(ids) == 0 {
		x.busy.Store(false)
		return
	}
	h.n.askHomes(ids, now.Add(defaultTimeout), func(ended []uint64, _ error) {
		x.ended = ended // Those of a home that has not answered are not among them.
		x.busy.Store(false)
		if len(ended) > 0 {
			h.wake()
		}
	})
}

// leasesElsewhere reads the leases of other shards on which keys of a shard hang. What its own replica shows is as good as what the leader has applied.
func (h *housekeeper) leasesElsewhere(m *member, after uint64) (ids []uint64, until uint64, err error) {
	view := h.n.engine.view()
	result, _, err := view.read(m.shard, &peerv1.ReadRequest{Lease: &peerv1.LeaseRead{Elsewhere: true, After: after, MaxItems: leasesAskedMax}})
	if err := errors.Join(err, view.close()); err != nil {
		return nil, 0, err
	}
	for _, l := range result.GetLeases() {
		ids = append(ids, l.GetId())
	}
	return ids, result.GetLeasesUntil(), nil
}

// removeLeased proposes to remove keys of leases that have ended elsewhere.
func (h *housekeeper) removeLeased(m *member, now time.Time) {
	x := &m.homes
	h.n.Submit(&Request{
		Shard: m.shard, Deadline: now.Add(defaultTimeout),
		Command: &storev1.Command{Body: &storev1.Command_Expire{Expire: &storev1.Expire{MaxKeys: expireKeysMax, Leases: x.ended}}},
		Done: func(res Result) {
			more := res.Err == nil && res.Write.GetMore()
			if !more { // What was refused is found again.
				x.ended = nil
			}
			x.busy.Store(false)
			if more {
				h.wake()
			}
		},
	})
}

// readLease reads leases, or keys of one.
func (v *kvView) readLease(shard placement.ShardID, r *peerv1.LeaseRead, result *peerv1.ReadResult) error {
	slots, err := v.serving(shard)
	if err != nil {
		return err
	}
	most := int(min(orMax(r.GetMaxItems()), uint32(v.limits.PageItems)))
	switch {
	case len(r.GetIds()) > 0:
		return v.readLeases(shard, r.GetIds(), slots, result)
	case r.GetKeysOf() != 0:
		result.LeaseKeys, result.More, err = v.view.LeasedKeys(shard, r.GetKeysOf(), r.GetKeysAfter(), most, v.limits.PageBytes)
	case r.GetElsewhere():
		var ids []uint64
		foreign := func(id uint64) bool { return !slots.Has(placement.SlotOfLease(id)) }
		ids, result.LeasesUntil, err = v.view.LeasesElsewhere(shard, r.GetAfter(), most, foreign)
		for _, id := range ids {
			result.Leases = append(result.Leases, &peerv1.LeaseState{Id: id})
		}
	default:
		result.Leases, result.More, err = v.view.Leases(shard, r.GetAfter(), most)
	}
	if err != nil {
		return readError(err)
	}
	return nil
}

// readLeases reads leases in slots that the shard serves in this very state (R17): an answer that a lease does not live is for ever.
func (v *kvView) readLeases(shard placement.ShardID, ids []uint64, slots *placement.SlotSet, result *peerv1.ReadResult) error {
	for _, id := range ids {
		if slot := placement.SlotOfLease(id); !slots.Has(slot) {
			return &StaleRouteError{Shard: shard, Slot: slot}
		}
		l, err := v.view.Lease(shard, id)
		if err != nil {
			return readError(err)
		}
		if l != nil {
			result.Leases = append(result.Leases, &peerv1.LeaseState{Id: id, TtlMs: l.GetTtlMs(), DeadlineMs: l.GetDeadlineMs()})
		}
	}
	return nil
}

// sayRemaining tells of the keys of a read how long they live: their deadlines are clocks of a shard, which mean nothing elsewhere.
func sayRemaining(r *peerv1.ReadResult) {
	for _, k := range r.GetRecords() {
		if d := k.GetRecord().GetDeadlineMs(); d != 0 {
			k.RemainingMs = LeaseRemaining(d, r.GetClockMs())
		}
	}
}

// LeaseRemaining is how long a lease or key lives on, in milliseconds by the clock of its shard; at least 1 while it is there, and 0 for ever. A deadline
// has one millisecond more than was asked for, which is not shown.
func LeaseRemaining(deadlineMs, clockMs uint64) uint64 {
	if deadlineMs == 0 {
		return 0
	}
	return max(1, deadlineMs-1-min(deadlineMs-1, clockMs))
}

// LeasePage is one page of leases of all shards, or of the keys of one lease in all shards.
type LeasePage struct {
	// Leases are ascending by id; DeadlineMs is what remains, and no clock.
	Leases []*peerv1.LeaseState
	// Keys are ascending.
	Keys []string
	// More says that there are others behind the last.
	More bool
}

// Leases reads one page of all leases, those above r.After, or of the keys that hang on r.KeysOf. Each shard's part is linearizable.
func (n *Node) Leases(ctx context.Context, r *peerv1.LeaseRead) (*LeasePage, error) {
	if n.failed() || n.closing.Load() {
		return nil, ErrStopped
	}
	if !n.serving.Load() {
		return nil, ErrForming
	}
	parts, err := n.readAll(ctx, n.shards.data(), &peerv1.ReadRequest{Lease: r})
	if err != nil {
		return nil, err
	}
	page := &LeasePage{}
	fence := "" // the first last key of a part that goes on behind it
	for _, p := range parts {
		page.More = page.More || p.Read.GetMore()
		keys := p.Read.GetLeaseKeys()
		page.Keys = append(page.Keys, keys...)
		if n := len(keys); n > 0 && p.Read.GetMore() && (fence == "" || keys[n-1] < fence) {
			fence = keys[n-1]
		}
		for _, l := range p.Read.GetLeases() {
			remaining := LeaseRemaining(l.GetDeadlineMs(), p.Read.GetClockMs())
			page.Leases = append(page.Leases, &peerv1.LeaseState{Id: l.GetId(), TtlMs: l.GetTtlMs(), DeadlineMs: remaining})
		}
	}
	slices.Sort(page.Keys)
	if i, _ := slices.BinarySearch(page.Keys, NextKey(fence)); fence != "" {
		page.Keys = page.Keys[:i]
	}
	slices.SortFunc(page.Leases, func(a, b *peerv1.LeaseState) int {
		if a.GetId() < b.GetId() {
			return -1
		}
		return 1
	})
	// Each part has as many leases as the page may have, so what is first of all of them has nothing missing in between.
	if most := int(min(orMax(r.GetMaxItems()), uint32(n.options.Limits.PageItems))); len(page.Keys)+len(page.Leases) > most {
		page.Keys, page.Leases = page.Keys[:min(len(page.Keys), most)], page.Leases[:min(len(page.Leases), most)]
		page.More = true
	}
	return page, nil
}
