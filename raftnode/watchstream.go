package raftnode

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
	"github.com/raftkv/raftkv/raftnode/watch"
)

// WatchStream is a watch: one cursor for each shard, merged without an order between shards. One goroutine calls its methods, but for Ready.
type WatchStream struct {
	ws     *watches
	filter watch.Filter
	// shards are ascending.
	shards []*watchedShard
	turn   int
	// period is the time between marks of progress, limit how long a replica may be cut off.
	period, limit time.Duration
	ready         chan struct{}
	created       bool
	err           error

	// next is when the next mark of progress is due, due that it is; the lock of ws guards both.
	next time.Time
	due  bool
}

// watchedShard is a watch of one shard.
type watchedShard struct {
	shard   placement.ShardID
	watcher *watch.Watcher
	// place is where the stream is: what was handed over is behind it.
	place watchPlace
	// fresh is the time of which the stream is known to be complete; zero as long as it has not caught up with its beginning.
	fresh time.Time
}

// WatchBatch is what a watch sees next. At most one of Records, Events and Progress is there.
type WatchBatch struct {
	// Created marks the first batch, which says where the watch begins.
	Created bool
	// Shard is that of Records and Events.
	Shard placement.ShardID
	// Records are of the start. InitialDone says that none follow, of any shard.
	Records     []*peerv1.KeyRecord
	InitialDone bool
	// Events are in the order of the shard. MoreOfRevision says that further events of the last one's revision follow.
	Events         []WatchEvent
	MoreOfRevision bool
	// Behind says that the events were read in the history because the watch was behind.
	Behind bool
	// Progress says how far the watch is in each shard, ascending.
	Progress []WatchProgress
	// Revision is the one up to which the watch is complete in Shard.
	Revision uint64
	// Writers are the spans of the writes of Events that are sampled and were applied here a short while ago; nearly always none.
	Writers []trace.SpanContext
}

// WatchEvent is one change of a key.
type WatchEvent struct {
	Revision uint64
	Key      string
	// After is the record as the change has left it; nil after a delete. Before is what it has replaced, if that was asked for and the key existed.
	After, Before *peerv1.KeyRecord
	// Expired says of a delete that no client has made it: the time of the key has passed, or its lease has ended.
	Expired bool
}

// WatchProgress is how far a watch is in a shard.
type WatchProgress struct {
	Shard placement.ShardID
	// Revision is the one up to which it is complete; Age is how long ago that was all there was, -1 as long as the watch has not caught up.
	Revision uint64
	Age      time.Duration
}

// Ready has something in it when TryNext may have. It may be used by any goroutine.
func (s *WatchStream) Ready() <-chan struct{} { return s.ready }

// wake does not block.
func (s *WatchStream) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// tick says whether time has done something for the stream. The caller holds the lock of ws.
func (s *WatchStream) tick(now time.Time) bool {
	if !s.due && !now.Before(s.next) {
		s.due, s.next = true, now.Add(s.period)
		return true
	}
	return s.due
}

// takeDue says whether a mark of progress is due, and takes it.
func (s *WatchStream) takeDue() bool {
	s.ws.mu.Lock()
	defer s.ws.mu.Unlock()
	due := s.due
	s.due = false
	return due
}

// Next waits for the next batch, of about maxBytes at the most. After an error there is nothing more; Token says where to go on.
func (s *WatchStream) Next(ctx context.Context, maxBytes uint64) (*WatchBatch, error) {
	for {
		b, idle, err := s.step(maxBytes)
		if b != nil || err != nil {
			return b, err
		}
		if !idle {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.ws.n.done:
			return nil, ErrStopped
		}
	}
}

// TryNext is Next that does not wait: it returns nil if there is nothing now.
func (s *WatchStream) TryNext(maxBytes uint64) (*WatchBatch, error) {
	for {
		if b, idle, err := s.step(maxBytes); b != nil || idle || err != nil {
			return b, err
		}
	}
}

// step does bounded work: a batch, or none yet (idle false), or none until something happens.
func (s *WatchStream) step(maxBytes uint64) (b *WatchBatch, idle bool, err error) {
	if s.err == nil {
		s.err = s.ended()
	}
	if s.err != nil {
		return nil, false, s.err
	}
	if b, idle, err = s.look(max(maxBytes, 1)); err != nil {
		s.err = err
		return nil, false, err
	}
	return b, idle, nil
}

// ended says why the stream is over, if it is.
func (s *WatchStream) ended() error {
	n := s.ws.n
	if n.failed() || n.closing.Load() {
		return ErrStopped
	}
	return s.ws.cutOff(s, n.runtime.Now())
}

func (s *WatchStream) look(maxBytes uint64) (b *WatchBatch, idle bool, err error) {
	if !s.created {
		s.created = true
		return &WatchBatch{Created: true, Progress: s.progress()}, false, nil
	}
	for _, p := range s.shards {
		if p.place.initial {
			return s.initial(p)
		}
	}
	// Before the events, so that a stream that is always busy says how far it is, too.
	if s.takeDue() {
		return &WatchBatch{Progress: s.progress()}, false, nil
	}
	idle = true
	for range s.shards {
		p := s.shards[s.turn%len(s.shards)]
		s.turn++
		found, err := p.watcher.Poll(maxBytes)
		if err != nil {
			return nil, false, s.pollError(p, err)
		}
		if b := s.take(p, found); b != nil {
			return b, false, nil
		}
		idle = idle && found.Idle
	}
	return nil, idle, nil
}

// take moves the place on, and makes a batch of what was found if there is any.
func (s *WatchStream) take(p *watchedShard, found watch.Batch) *WatchBatch {
	p.place.next = found.Complete + 1
	if found.More && planted.Is(planted.WatchTokenRunsAhead) {
		p.place.next++ // R22
	}
	if len(found.Events) == 0 {
		return nil
	}
	b := &WatchBatch{
		Shard: p.shard, Events: make([]WatchEvent, len(found.Events)), MoreOfRevision: found.More, Behind: found.Behind, Revision: found.Complete,
	}
	for i, e := range found.Events {
		b.Events[i] = WatchEvent{Revision: e.Revision, Key: e.Key, Expired: e.Expired}
		if !e.Deleted {
			b.Events[i].After = recordAt(e.Key, e.After, e.ClockMs)
		}
		if s.filter.Before && e.Before != nil {
			b.Events[i].Before = recordAt(e.Key, e.Before, e.ClockMs)
		}
	}
	if s.ws.n.tracing != nil {
		if m := s.ws.n.member(p.shard); m != nil {
			b.Writers = m.writers.of(b.Events)
		}
	}
	return b
}

// recordAt is a record, and how long it lived on when the clock of its shard was at a time.
func recordAt(key string, r *storev1.Record, clockMs uint64) *peerv1.KeyRecord {
	return &peerv1.KeyRecord{Key: key, Record: r, RemainingMs: LeaseRemaining(r.GetDeadlineMs(), clockMs)}
}

// initial reads the next page of the records of the start, as they were before the first event.
func (s *WatchStream) initial(p *watchedShard) (b *WatchBatch, idle bool, err error) {
	end := s.filter.End
	switch {
	case s.filter.Key != "":
		end = NextKey(s.filter.Key)
	case s.filter.Prefix != "":
		end = PrefixEnd(s.filter.Prefix)
	}
	records, next, err := s.ws.readInitial(p.shard, p.place.key, end, p.place.next-1)
	if errors.Is(err, state.ErrReplaced) {
		return nil, true, nil // The hub nudges it.
	}
	var compacted *state.CompactedError
	if errors.As(err, &compacted) { // The records are those before the first event.
		return nil, false, &CompactedError{Shard: p.shard, Revision: compacted.Revision + 1, Oldest: compacted.Floor + 1}
	}
	if err != nil {
		return nil, false, s.pollError(p, err)
	}
	clock := s.ws.n.engine.position(p.shard).clockMs
	for _, k := range records {
		k.RemainingMs = LeaseRemaining(k.GetRecord().GetDeadlineMs(), clock)
	}
	p.place.key = next
	p.place.initial = next != ""
	b = &WatchBatch{Shard: p.shard, Records: records, Revision: p.place.next - 1, InitialDone: true}
	for _, other := range s.shards {
		b.InitialDone = b.InitialDone && !other.place.initial
	}
	if len(records) == 0 && !b.InitialDone {
		return nil, false, nil
	}
	return b, false, nil
}

// pollError says what the error of a read means to who watches.
func (s *WatchStream) pollError(p *watchedShard, err error) error {
	var compacted *state.CompactedError
	if errors.As(err, &compacted) {
		return &CompactedError{Shard: p.shard, Revision: compacted.Revision, Oldest: compacted.Floor}
	}
	return s.ws.failed(err)
}

// progress says how far the stream is.
func (s *WatchStream) progress() []WatchProgress {
	now := s.ws.n.runtime.Now()
	out := make([]WatchProgress, len(s.shards))
	for i, p := range s.shards {
		if !p.place.initial {
			p.place.next = max(p.place.next, p.watcher.Complete()+1)
		}
		if at, revision := s.ws.freshness(p.shard); p.place.next > revision {
			p.fresh = at
		}
		out[i] = WatchProgress{Shard: p.shard, Revision: p.place.next - 1, Age: -1}
		if !p.fresh.IsZero() {
			out[i].Age = max(0, now.Sub(p.fresh))
		}
	}
	return out
}

// Token says where to go on behind what the stream has handed over, in any node of the cluster. Of a revision of which only a part was, all is to come
// again.
func (s *WatchStream) Token() string {
	places := make([]watchPlace, len(s.shards))
	for i, p := range s.shards {
		places[i] = p.place
	}
	return s.token(places)
}

func (s *WatchStream) token(places []watchPlace) string {
	return encodeWatchToken(s.ws.n.identity.Load().GetFormation().GetClusterId(), watchHash(&s.filter), places)
}

// TokenBehind says where to go on behind one of the events of the last batch.
func (s *WatchStream) TokenBehind(b *WatchBatch, event int) string {
	places := make([]watchPlace, len(s.shards))
	for i, p := range s.shards {
		if places[i] = p.place; p.shard != b.Shard {
			continue
		}
		if places[i].next = b.Events[event].Revision; event+1 < len(b.Events) && b.Events[event+1].Revision > places[i].next {
			places[i].next++
		}
	}
	return s.token(places)
}

// Close ends the stream. It may be called again.
func (s *WatchStream) Close() {
	for _, p := range s.shards {
		p.watcher.Close()
	}
	s.ws.remove(s)
}
