package raftnode

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
)

// kvEngine is the key-value state machine of all shards: a state.Store.
type kvEngine struct {
	store  *state.Store
	limits Limits
	// batch is the applier's, used again from round to round.
	batch *state.Batch
	// flushing is closed when the last flush that was asked for is done.
	flushing <-chan struct{}

	// mu guards shards. It is a leaf.
	mu     sync.RWMutex
	shards map[placement.ShardID]*state.Shard
}

var _ engine = (*kvEngine)(nil)

func openKV(dir string, o Options, flushed func(), fatal func(error)) (engine, error) {
	store, err := state.Open(dir, state.Options{
		FS: o.FS, CacheBytes: o.CacheBytes, MemTableBytes: o.memTableBytes(), OpenFiles: o.OpenFiles, CompactionsLeave: o.DiskReserve / compactionsShare,
		Logger: o.Logger, OnFlush: flushed, OnFatal: fatal,
	})
	if err != nil {
		return nil, err
	}
	return &kvEngine{store: store, limits: o.Limits, batch: store.NewBatch(), shards: make(map[placement.ShardID]*state.Shard)}, nil
}

func (e *kvEngine) open(shard placement.ShardID) (position, error) {
	s, err := e.store.Shard(shard)
	if err != nil {
		return position{}, err
	}
	e.mu.Lock()
	e.shards[shard] = s
	e.mu.Unlock()
	return e.position(shard), nil
}

func (e *kvEngine) shard(id placement.ShardID) *state.Shard {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.shards[id]
}

func (e *kvEngine) position(shard placement.ShardID) position {
	s := e.shard(shard)
	p := s.Position()
	at := kvPosition(p)
	at.deadlineMs, at.leasedKeys, at.keys = s.NextDeadline(), p.LeasedKeys, p.Keys
	clients, results := s.Sessions()
	at.sessions, at.results = uint64(clients), uint64(results)
	return at
}

func (e *kvEngine) kept(shard placement.ShardID) ShardMetrics {
	m := ShardMetrics{ID: shard}
	if s := e.shard(shard); s != nil {
		at := s.Position()
		m.ExpiredKeys, m.LeasedKeys, m.Leases = s.Expired(), at.LeasedKeys, at.Leases
		m.KeyedResults, m.KeyedBytes = at.KeyedResults, at.KeyedBytes
	}
	return m
}

func kvPosition(p state.Position) position {
	return position{
		index: p.Index, term: p.Term, revision: p.Revision, clockMs: p.ClockMs,
		historyBytes: p.HistoryBytes, historyFloor: p.HistoryFloor,
	}
}

func (e *kvEngine) configuration(shard placement.ShardID) *storev1.Configuration {
	return e.shard(shard).Configuration()
}

func (e *kvEngine) durable(shard placement.ShardID) (uint64, error) {
	return e.store.DurableApplied(shard)
}

func (e *kvEngine) bootstrap(shard placement.ShardID, c *storev1.Configuration, slots *storev1.SlotTable) error {
	s, b := e.shard(shard), e.store.NewBatch()
	first := &storev1.Entry{CommandVersion: entryVersion}
	if slots != nil {
		first.Commands = []*storev1.Command{{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: slots}}}}
	}
	if _, err := s.Apply(b, firstIndex-1, firstTerm, first); err != nil {
		return err
	}
	if err := s.ApplyConfiguration(b, firstIndex, firstTerm, c); err != nil {
		return err
	}
	if err := b.Commit(); err != nil {
		return err
	}
	done, err := e.store.Flush()
	if err != nil {
		return err
	}
	<-done
	at, err := e.durable(shard)
	if err == nil && at < firstIndex {
		err = fmt.Errorf("the first state is not durable after a flush: index %d", at)
	}
	return err
}

func (e *kvEngine) apply(jobs []*applyJob) error {
	b := e.batch
	changed := make(map[placement.ShardID]*storev1.Configuration) // in this batch
	for _, j := range jobs {
		s := e.shard(j.shard)
		j.results = make([][]commandResult, len(j.entries))
		for i, entry := range j.entries {
			var err error
			switch entry.GetType() {
			case raftpb.EntryNormal:
				j.results[i], err = applyKV(s, b, j, i)
			case raftpb.EntryConfChangeV2:
				if j.configuration = changed[j.shard]; j.configuration == nil {
					j.configuration = s.Configuration()
				}
				j.configuration, err = changeKV(s, b, j.configuration, entry)
				changed[j.shard] = j.configuration
			default:
				err = unknownEntry(entry)
			}
			if err != nil {
				return fmt.Errorf("shard %d, entry %d: %w", j.shard, entry.GetIndex(), err)
			}
		}
	}
	if err := b.Commit(); err != nil {
		return err
	}
	for _, j := range jobs {
		j.after, j.checkpoint = e.position(j.shard), e.shard(j.shard).Checkpoint()
	}
	return nil
}

func unknownEntry(e *raftpb.Entry) error {
	return fmt.Errorf("entry type %s is not known to this version of raftkv; use a newer one", e.GetType())
}

// changeKV applies a change of the membership to c, which is the one at the entry before.
func changeKV(s *state.Shard, b *state.Batch, c *storev1.Configuration, entry *raftpb.Entry) (*storev1.Configuration, error) {
	next, err := changedBy(c, entry)
	if err != nil {
		return nil, err
	}
	return next, s.ApplyConfiguration(b, entry.GetIndex(), entry.GetTerm(), next)
}

// applyKV applies one entry of commands, the ith of a job.
func applyKV(s *state.Shard, b *state.Batch, j *applyJob, i int) ([]commandResult, error) {
	entry := j.entries[i]
	if len(entry.GetData()) == 0 {
		return nil, s.ApplyEmpty(b, entry.GetIndex(), entry.GetTerm())
	}
	decoded, err := state.DecodeEntry(entry.GetData())
	if err != nil {
		return nil, err
	}
	writes, err := s.Apply(b, entry.GetIndex(), entry.GetTerm(), decoded)
	if err != nil {
		return nil, err
	}
	if len(decoded.GetTraces()) > 0 {
		j.writers = append(j.writers, writers{entry: i, traces: decoded.GetTraces()})
	}
	results := make([]commandResult, len(writes))
	for i, w := range writes {
		results[i].write = w
	}
	return results, nil
}

// flush starts a flush unless one is under way: another would only make small files. The housekeeper alone calls it.
func (e *kvEngine) flush() error {
	select {
	case <-e.flushing:
	default:
		if e.flushing != nil {
			return nil
		}
	}
	done, err := e.store.Flush()
	e.flushing = done
	return err
}

func (e *kvEngine) pressure() *OverloadedError {
	what, bound, actual, high := e.store.Pressure()
	if !high {
		return nil
	}
	return &OverloadedError{Field: what, Limit: bound, Actual: actual, RetryAfter: overloadRetry}
}

func (e *kvEngine) metrics() state.Metrics { return e.store.Metrics() }

func (e *kvEngine) close() error { return e.store.Close() }

func (e *kvEngine) forget(shard placement.ShardID) error {
	e.mu.Lock()
	delete(e.shards, shard)
	e.mu.Unlock()
	return e.store.Drop(shard)
}

func (e *kvEngine) stage(dir string, r io.Reader) (*storev1.SnapshotHeader, error) {
	return e.store.Stage(dir, r)
}

func (e *kvEngine) ingest(shard placement.ShardID, dir string) error {
	return e.store.Ingest(shard, dir)
}

func (e *kvEngine) image(shard placement.ShardID) (engineImage, error) {
	v := e.store.View()
	at, err := v.Position(shard)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	c, err := v.Configuration(shard)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return &kvImage{view: v, shard: shard, at: at, members: c}, nil
}

// kvImage is a view of the state, which is an image as it stands.
type kvImage struct {
	view    *state.View
	shard   placement.ShardID
	at      state.Position
	members *storev1.Configuration
}

func (i *kvImage) header() *storev1.SnapshotHeader {
	return &storev1.SnapshotHeader{Shard: uint32(i.shard), Index: i.at.Index, Term: i.at.Term, Configuration: i.members}
}

func (i *kvImage) write(w io.Writer) error {
	_, err := i.view.Export(i.shard, w)
	return err
}

func (i *kvImage) close() error { return i.view.Close() }

func (e *kvEngine) view() engineView { return &kvView{view: e.store.View(), limits: e.limits} }

// kvView serves reads of one round from one view.
type kvView struct {
	view   *state.View
	limits Limits

	slots   *placement.SlotSet
	slotsOf placement.ShardID
}

func (v *kvView) close() error { return v.view.Close() }

func (v *kvView) read(shard placement.ShardID, r *peerv1.ReadRequest) (*peerv1.ReadResult, position, error) {
	at, err := v.view.Position(shard)
	if err != nil {
		return nil, position{}, readError(err)
	}
	result := &peerv1.ReadResult{}
	switch {
	case len(r.GetKeys()) > 0:
		err = v.readKeys(shard, r.GetKeys(), result)
	case r.GetRange() != nil:
		err = v.readRange(shard, r.GetRange(), result)
		if revision := r.GetRange().GetRevision(); revision != 0 {
			at.Revision = revision // the state that the answer shows
		}
	case r.GetLease() != nil:
		err = v.readLease(shard, r.GetLease(), result)
	case len(r.GetPast()) > 0:
		err = v.readPast(shard, r.GetPast(), result)
		if len(r.GetPast()) == 1 {
			at.Revision = r.GetPast()[0].GetRevision() // the state that the answer shows
		}
	}
	result.ClockMs = at.ClockMs
	return result, kvPosition(at), err
}

// serving returns the slots that the shard serves in this view. Views are short-lived and mostly of one shard, so one set is kept.
func (v *kvView) serving(shard placement.ShardID) (*placement.SlotSet, error) {
	if v.slots != nil && v.slotsOf == shard {
		return v.slots, nil
	}
	table, err := v.view.Slots(shard)
	if err != nil {
		return nil, readError(err)
	}
	set := servedSlots(table)
	v.slots, v.slotsOf = &set, shard
	return v.slots, nil
}

// servedSlots is the set of the slots that a table shows as served.
func servedSlots(t *storev1.SlotTable) placement.SlotSet {
	var set placement.SlotSet
	for _, r := range t.GetRuns() {
		if r.GetState() != storev1.SlotState_SLOT_STATE_SERVING {
			continue
		}
		if run, err := placement.NewSlotRun(r.GetFirst(), r.GetLast()); err == nil {
			set.AddRun(run)
		}
	}
	return set
}

// readKeys reads keys of slots that the shard serves in this very state (R17).
func (v *kvView) readKeys(shard placement.ShardID, keys []string, result *peerv1.ReadResult) error {
	slots, err := v.serving(shard)
	if err != nil {
		return err
	}
	size := 0
	for _, key := range keys {
		if slot := placement.SlotOf(key); shard != placement.MetaShard && !slots.Has(slot) && !planted.Is(planted.ReadSlotUnchecked) { // R17
			return &StaleRouteError{Shard: shard, Slot: slot}
		}
		record, err := v.view.Get(shard, key)
		if err != nil {
			return readError(err)
		}
		if size += len(key) + len(record.GetValue()); size > commandBytesMax {
			return limit("bytes of the answer", commandBytesMax, size)
		}
		result.Records = append(result.Records, &peerv1.KeyRecord{Key: key, Record: record})
	}
	return nil
}

func (v *kvView) readRange(shard placement.ShardID, r *peerv1.RangeRead, result *peerv1.ReadResult) error {
	slots, err := v.view.Slots(shard)
	if err != nil {
		return readError(err)
	}
	bounded := &peerv1.RangeRead{
		Start: r.GetStart(), End: r.GetEnd(), Reverse: r.GetReverse(), KeysOnly: r.GetKeysOnly(),
		MaxItems: min(orMax(r.GetMaxItems()), uint32(v.limits.PageItems)),
		MaxBytes: min(orMax(r.GetMaxBytes()), uint64(v.limits.PageBytes)),
	}
	result.Slots = slots
	if bounded.Revision = r.GetRevision(); bounded.Revision != 0 {
		return v.readRangeAt(shard, bounded, result)
	}
	records, more, err := v.view.Range(shard, bounded)
	if err != nil {
		return readError(err)
	}
	result.Records, result.More = records, more
	return nil
}

// orMax reads a bound of which zero means none.
func orMax[T uint32 | uint64](bound T) T {
	if bound == 0 {
		return ^T(0)
	}
	return bound
}

// readError is what a failed read tells its requester: nothing was changed, and the state needs looking after.
func readError(err error) error { return errors.Join(ErrReadFailed, err) }
