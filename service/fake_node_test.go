package service

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// fakeNode is a node of one shard, in a map.
type fakeNode struct {
	// fail makes requests fail, if set and not nil.
	fail func(*raftnode.Request) error
	// hold keeps requests instead of executing them, until release.
	hold bool
	// notReady is that of Status.
	notReady []string

	mu       sync.Mutex
	held     []*raftnode.Request
	heldNote chan struct{} // a token for each held request
	records  map[string]*storev1.Record
	revision uint64
	index    uint64
	dedup    map[string]*storev1.WriteResult
	keyed    map[string]keyedResult
	past     map[string][]pastRecord // oldest first
	leases   map[uint64]uint64       // their times to live, in milliseconds; none passes
	stale    *peerv1.Stale           // of the last read
	second   bool                    // pages have a part of another shard
	empty    string                  // the next page shows nothing and goes on behind this
	moved    placement.ShardID       // how much higher the shard of pages is
}

// keyedResult is the answer to a write under an idempotency key.
type keyedResult struct {
	fingerprint string
	result      *storev1.WriteResult
}

// pastRecord is a key as a revision left it.
type pastRecord struct {
	revision uint64
	record   *storev1.Record
}

func newFakeNode() *fakeNode {
	return &fakeNode{
		records: map[string]*storev1.Record{}, dedup: map[string]*storev1.WriteResult{}, past: map[string][]pastRecord{}, leases: map[uint64]uint64{},
		keyed:    map[string]keyedResult{},
		heldNote: make(chan struct{}, 1<<20),
	}
}

const (
	fakeCluster = "00112233445566778899aabbccddeeff"
	fakeID      = "n1"
	fakeShard   = 1
)

func (n *fakeNode) Watch(context.Context, raftnode.WatchRequest) (*raftnode.WatchStream, error) {
	return nil, raftnode.ErrForming // Tests of watches set Service.watch.
}

func (n *fakeNode) Submit(r *raftnode.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hold {
		n.held = append(n.held, r)
		n.heldNote <- struct{}{}
		return
	}
	res := n.execute(r)
	go r.Done(res)
}

// release executes what is held, in the order that shuffle leaves, and goes on without holding.
func (n *fakeNode) release(shuffle func([]*raftnode.Request)) {
	n.mu.Lock()
	held := n.held
	n.held, n.hold = nil, false
	n.mu.Unlock()
	if shuffle != nil {
		shuffle(held)
	}
	for _, r := range held {
		n.mu.Lock()
		res := n.execute(r)
		n.mu.Unlock()
		r.Done(res)
	}
}

func (n *fakeNode) Do(ctx context.Context, r *raftnode.Request) raftnode.Result {
	done := make(chan raftnode.Result, 1)
	r.Done = func(res raftnode.Result) { done <- res }
	if d, ok := ctx.Deadline(); ok && (r.Deadline.IsZero() || d.Before(r.Deadline)) {
		r.Deadline = d
	}
	n.Submit(r)
	select {
	case res := <-done:
		return res
	case <-ctx.Done():
		if r.Read != nil {
			return raftnode.Result{Err: ctx.Err()}
		}
		return raftnode.Result{Err: &raftnode.UnknownOutcomeError{Shard: fakeShard, Cause: "the requester stopped waiting"}}
	}
}

func (n *fakeNode) execute(r *raftnode.Request) raftnode.Result {
	if n.fail != nil {
		if err := n.fail(r); err != nil {
			return raftnode.Result{Shard: fakeShard, Err: err}
		}
	}
	n.index++
	res := raftnode.Result{Shard: fakeShard}
	if r.Read != nil {
		n.stale = r.Read.GetStale()
		res.Read = &peerv1.ReadResult{}
		for _, key := range r.Read.GetKeys() {
			record := n.records[key]
			res.Read.Records = append(res.Read.Records, &peerv1.KeyRecord{Key: key, Record: record, RemainingMs: record.GetDeadlineMs()})
		}
		for _, id := range r.Read.GetLease().GetIds() {
			if ttl := n.leases[id]; ttl != 0 {
				res.Read.Leases = append(res.Read.Leases, &peerv1.LeaseState{Id: id, TtlMs: ttl, DeadlineMs: ttl + 1})
			}
		}
		res.Origin = n.origin()
		if past := r.Read.GetPast(); len(past) > 0 {
			if past[0].GetRevision() > n.revision {
				return raftnode.Result{Err: &raftnode.FutureRevisionError{Shard: fakeShard, Revision: past[0].GetRevision(), Current: n.revision}}
			}
			res.Read = n.readPast(past)
			res.Origin.Revision = past[0].GetRevision()
		}
		return res
	}
	res.Write = n.write(r.Command)
	if res.Write.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND {
		return raftnode.Result{Shard: fakeShard, Err: &raftnode.LeaseNotFoundError{ID: res.Write.GetLeaseId()}}
	}
	switch res.Write.GetOutcome() {
	case storev1.WriteOutcome_WRITE_OUTCOME_IDEMPOTENCY_KEY_REUSED:
		return raftnode.Result{Shard: fakeShard, Err: &raftnode.IdempotencyKeyReusedError{Shard: fakeShard, Key: r.Command.GetIdempotency().GetKey()}}
	case storev1.WriteOutcome_WRITE_OUTCOME_FENCED:
		if r.Command.GetFence() == nil {
			return raftnode.Result{Shard: fakeShard, Err: &raftnode.FencedError{Shard: fakeShard}}
		}
	default:
	}
	if r.After != nil {
		if past := r.After(res.Write); len(past) > 0 {
			res.Read = n.readPast(past)
		}
	}
	res.Origin = n.origin()
	return res
}

func (n *fakeNode) readPast(past []*peerv1.PastRead) *peerv1.ReadResult {
	res := &peerv1.ReadResult{}
	for _, p := range past {
		k := &peerv1.KeyRecord{Key: p.GetKey()}
		for _, is := range n.past[p.GetKey()] {
			if is.revision <= p.GetRevision() {
				k.Record = is.record
			}
		}
		res.Records = append(res.Records, k)
	}
	return res
}

// executed is how many requests have been executed.
func (n *fakeNode) executed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return int(n.index)
}

// latest is the revision of the last write that changed anything.
func (n *fakeNode) latest() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.revision
}

func (n *fakeNode) origin() *peerv1.Origin {
	return &peerv1.Origin{NodeId: fakeID, Term: 3, Index: n.index, Revision: n.revision, Leader: true}
}

func (n *fakeNode) write(c *storev1.Command) *storev1.WriteResult {
	id := c.GetRequestId()
	dedup := string(id.GetClientId()) + string(rune(id.GetSequence()))
	if id != nil && n.dedup[dedup] != nil {
		return n.dedup[dedup]
	}
	k := c.GetIdempotency()
	if was, ok := n.keyed[k.GetKey()]; ok {
		if was.fingerprint != string(k.GetFingerprint()) {
			return &storev1.WriteResult{Outcome: storev1.WriteOutcome_WRITE_OUTCOME_IDEMPOTENCY_KEY_REUSED}
		}
		again := proto.CloneOf(was.result)
		again.Replayed = true
		return again
	}
	var res *storev1.WriteResult
	if l := c.GetLease(); l != nil {
		res = n.lease(l)
	} else if c.GetFence() != nil {
		res = &storev1.WriteResult{Outcome: storev1.WriteOutcome_WRITE_OUTCOME_FENCED}
	} else {
		res = n.change(c.GetWrite())
	}
	res.Revision = n.revision
	if id != nil {
		n.dedup[dedup] = res
	}
	if k != nil {
		n.keyed[k.GetKey()] = keyedResult{string(k.GetFingerprint()), res}
	}
	return res
}

// change executes a write that has not been executed before.
func (n *fakeNode) change(w *storev1.Write) *storev1.WriteResult {
	for i, c := range w.GetCompares() {
		current, holds := n.records[c.GetKey()].GetModRevision(), false
		switch is := c.GetCondition().(type) {
		case *storev1.Compare_Exists:
			holds = is.Exists == (current > 0)
		case *storev1.Compare_ModRevision:
			holds = is.ModRevision == current
		case *storev1.Compare_Value:
			holds = current > 0 && string(is.Value) == string(n.records[c.GetKey()].GetValue())
		}
		if !holds {
			res := n.operate(w.GetOtherwise())
			res.Outcome, res.FailedCompare, res.FailedModRevision = storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED, uint32(i), current
			return res
		}
	}
	return n.operate(w.GetOperations())
}

func (n *fakeNode) operate(ops []*storev1.Operation) *storev1.WriteResult {
	for _, o := range ops {
		if id := o.GetLease(); id != 0 && n.leases[id] == 0 {
			return &storev1.WriteResult{Outcome: storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND, LeaseId: id}
		}
	}
	res := &storev1.WriteResult{Outcome: storev1.WriteOutcome_WRITE_OUTCOME_APPLIED}
	next := n.revision + 1
	for _, o := range ops {
		if o.GetKind() == storev1.OperationKind_OPERATION_KIND_GET {
			res.Operations = append(res.Operations, &storev1.OperationResult{})
			continue
		}
		old := n.records[o.GetKey()]
		result := &storev1.OperationResult{Existed: old != nil}
		if o.GetKind() == storev1.OperationKind_OPERATION_KIND_DELETE {
			delete(n.records, o.GetKey())
			if old != nil {
				n.revision = next
				n.past[o.GetKey()] = append(n.past[o.GetKey()], pastRecord{next, nil})
			}
		} else {
			record := &storev1.Record{
				CreateRevision: next, ModRevision: next, Version: old.GetVersion() + 1,
				Content: &storev1.Record_Value{Value: slices.Clone(o.GetValue())},
				Lease:   o.GetLease(), DeadlineMs: o.GetTtlMs(),
			}
			if old != nil {
				record.CreateRevision = old.GetCreateRevision()
			}
			n.records[o.GetKey()], n.revision = record, next
			n.past[o.GetKey()] = append(n.past[o.GetKey()], pastRecord{next, record})
			result.CreateRevision, result.Version = record.GetCreateRevision(), record.GetVersion()
		}
		res.Operations = append(res.Operations, result)
	}
	return res
}

func (n *fakeNode) Page(ctx context.Context, r *peerv1.RangeRead, stale *peerv1.Stale) (*raftnode.Page, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stale = stale
	if n.fail != nil {
		if err := n.fail(&raftnode.Request{}); err != nil {
			return nil, err
		}
	}
	if r.GetRevision() > n.revision {
		return nil, &raftnode.FutureRevisionError{Shard: fakeShard, Revision: r.GetRevision(), Current: n.revision}
	}
	records := n.records
	page := &raftnode.Page{Origin: n.origin(), Shard: fakeShard}
	if r.GetRevision() > 0 {
		records = n.recordsAt(r.GetRevision())
		page.Origin.Revision = r.GetRevision()
	}
	page.Shard += n.moved
	page.Parts = []raftnode.PagePart{{Shard: page.Shard, Origin: page.Origin}}
	if n.second {
		page.Parts = append(page.Parts, raftnode.PagePart{Shard: fakeShard + 1, Origin: &peerv1.Origin{
			NodeId: "n2", Term: 4, Index: 9, Revision: 77, Learner: true, FreshnessMs: 55,
		}})
		page.Shard, page.Origin = 0, &peerv1.Origin{NodeId: fakeID, FreshnessMs: 55}
	}
	if page.Behind = n.empty; n.empty != "" {
		page.More, n.empty = true, ""
		return page, nil
	}
	keys := slices.Sorted(maps.Keys(records))
	if r.GetReverse() {
		slices.Reverse(keys)
	}
	size := 0
	for _, k := range keys {
		if k < r.GetStart() || (r.GetEnd() != "" && k >= r.GetEnd()) {
			continue
		}
		record := records[k]
		if len(page.Records) > 0 && (uint64(size+len(k)+len(record.GetValue())) > r.GetMaxBytes() || len(page.Records) == int(r.GetMaxItems())) {
			page.More, page.Behind = true, page.Records[len(page.Records)-1].GetKey()
			break
		}
		if r.GetKeysOnly() {
			record = &storev1.Record{CreateRevision: record.GetCreateRevision(), ModRevision: record.GetModRevision(), Version: record.GetVersion(), Lease: record.GetLease(), DeadlineMs: record.GetDeadlineMs()}
		}
		size += len(k) + len(record.GetValue())
		page.Records = append(page.Records, &peerv1.KeyRecord{Key: k, Record: record, RemainingMs: record.GetDeadlineMs()})
	}
	return page, nil
}

// recordsAt are the records as they were at a revision.
func (n *fakeNode) recordsAt(revision uint64) map[string]*storev1.Record {
	records := make(map[string]*storev1.Record)
	for key := range n.past {
		if k := n.readPast([]*peerv1.PastRead{{Key: key, Revision: revision}}).GetRecords()[0]; k.GetRecord() != nil {
			records[key] = k.GetRecord()
		}
	}
	return records
}

// lease executes a lease command.
func (n *fakeNode) lease(l *storev1.LeaseCommand) *storev1.WriteResult {
	res := &storev1.WriteResult{Outcome: storev1.WriteOutcome_WRITE_OUTCOME_APPLIED, LeaseId: l.GetId()}
	grant := l.GetGrant()
	switch {
	case grant != nil:
		n.leases[l.GetId()] = grant.GetTtlMs()
	case n.leases[l.GetId()] == 0:
		res.Outcome = storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND
	case l.GetRevoke() != nil:
		delete(n.leases, l.GetId())
		for key, record := range n.records {
			if record.GetLease() == l.GetId() {
				delete(n.records, key)
				n.revision++
			}
		}
		return res
	}
	res.LeaseTtlMs = n.leases[l.GetId()]
	return res
}

func (n *fakeNode) Leases(_ context.Context, r *peerv1.LeaseRead) (*raftnode.LeasePage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	page := &raftnode.LeasePage{}
	if r.GetKeysOf() != 0 {
		for _, key := range slices.Sorted(maps.Keys(n.records)) {
			if n.records[key].GetLease() == r.GetKeysOf() && key > r.GetKeysAfter() {
				page.Keys = append(page.Keys, key)
			}
		}
		return page, nil
	}
	for _, id := range slices.Sorted(maps.Keys(n.leases)) {
		if id <= r.GetAfter() {
			continue
		}
		if page.More = len(page.Leases) == int(r.GetMaxItems()); page.More {
			break
		}
		page.Leases = append(page.Leases, &peerv1.LeaseState{Id: id, TtlMs: n.leases[id], DeadlineMs: n.leases[id]})
	}
	return page, nil
}

func (n *fakeNode) Status() raftnode.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	shards, _ := n.Shards()
	return raftnode.Status{
		ClusterID: fakeCluster, NodeID: fakeID, NotReady: n.notReady, Uptime: time.Second, LogBytes: 10, StateBytes: 20,
		SyncWrite: true, Shards: shards,
	}
}

func (n *fakeNode) setNotReady(what ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notReady = what
}

func (n *fakeNode) Nodes() []raftnode.NodeStatus {
	return []raftnode.NodeStatus{{
		ID: fakeID, PeerAddress: "127.0.0.1:1", ClientAddress: "127.0.0.1:2", Reachable: true,
		Shards: []placement.ShardID{0, 1}, Leads: []placement.ShardID{1},
	}}
}

func (n *fakeNode) Shards() ([]raftnode.ShardStatus, uint64) {
	return []raftnode.ShardStatus{{
		ID: fakeShard, Slots: &storev1.SlotTable{Runs: []*storev1.SlotTable_Run{
			{First: 0, Last: 4095, State: storev1.SlotState_SLOT_STATE_SERVING},
		}},
		Replicas: []raftnode.ReplicaStatus{{ID: 1, NodeID: fakeID, Leader: true, Match: 7}},
		Leader:   fakeID, Local: true, Term: 3, Commit: 7, Applied: 7, Durable: 6, FirstLogIndex: 1, LastIndex: 7, Revision: 5,
	}}, 9
}

func (n *fakeNode) Locate(key string) raftnode.Location {
	return raftnode.Location{RoutingPart: key, Slot: placement.Slot(len(key)), Shard: fakeShard, Leader: fakeID}
}

func (n *fakeNode) TransferLeader(_ context.Context, shard placement.ShardID, to placement.NodeID) (uint64, error) {
	if shard != fakeShard {
		return 0, &raftnode.InvalidError{Field: "shard", Problem: "there is no such shard"}
	}
	if strings.HasPrefix(string(to), "n") {
		return 4, nil
	}
	return 0, errors.New("something that no row names")
}
