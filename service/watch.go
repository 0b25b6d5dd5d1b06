package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// watchBatchBytes is about how long a response of a watch is at the most. A revision is split only where it is longer.
const watchBatchBytes = 256 << 10

// watchStream is a watch of a node; *raftnode.WatchStream is one.
type watchStream interface {
	// Next waits for what comes next.
	Next(ctx context.Context, maxBytes uint64) (*raftnode.WatchBatch, error)
	// Token says where to go on behind the last batch, TokenBehind behind one of its events.
	Token() string
	TokenBehind(b *raftnode.WatchBatch, event int) string
	// Close ends it.
	Close()
}

// watches has the method of WatchService. Every protocol calls it.
type watches struct{ *Service }

// Watch streams changes until the client has gone or the watch cannot go on. Its error is a *failure. It holds one response at a time: what a
// client is slow to take waits in the history and nowhere else.
func (s watches) Watch(ctx context.Context, req *raftkvv1.WatchRequest, send func(*raftkvv1.WatchResponse) error) error {
	return s.frameWatch(ctx, func() error {
		if err := s.rules.check(req); err != nil {
			return err
		}
		return s.follow(ctx, req, 0, func(stream watchStream, b *raftnode.WatchBatch) error {
			res := s.watchResponse(b)
			res.Token = stream.Token()
			return s.sendCounted(messageBytes(res), func() error { return send(res) })
		})
	})
}

// frameWatch is the frame of a watch on every protocol: panics, the translation of errors, the metrics.
func (s *Service) frameWatch(ctx context.Context, do func() error) (err error) {
	s.metrics.watches.Inc()
	defer s.metrics.watches.Dec()
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(ctx, opWatch.String(), p)
		}
		if err == nil {
			s.metrics.counter(opWatch, codeOK).Inc()
			return
		}
		f := s.fail(ctx, opWatch, err, false)
		s.metrics.counter(opWatch, f.code).Inc() // How long a watch has lasted says nothing.
		err = f
	}()
	return do()
}

// follow hands over what a watch sees, and nil when there was nothing for the time of idle, if that is not 0. It ends with the service, too;
// the client goes on elsewhere.
func (s *Service) follow(ctx context.Context, req *raftkvv1.WatchRequest, idle time.Duration, take func(watchStream, *raftnode.WatchBatch) error) error {
	begin, cancel := context.WithTimeout(ctx, s.limits.Timeout)
	stream, err := s.watch(begin, watchRequest(req))
	cancel()
	if err != nil {
		return err
	}
	defer stream.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(s.drained, func() { end(raftnode.ErrStopped) })()
	for {
		b, err := nextWithin(ctx, stream, idle)
		if err != nil {
			return err
		}
		began := time.Time{}
		traced := s.tracing != nil && b != nil && len(b.Writers) > 0
		if traced {
			began = time.Now()
		}
		err = take(stream, b)
		if traced {
			s.tracing.delivered(ctx, b, began, err)
		}
		if err != nil {
			return err
		}
	}
}

// nextWithin is Next, but returns nil if nothing comes in the time of idle; 0 is no bound.
func nextWithin(ctx context.Context, stream watchStream, idle time.Duration) (*raftnode.WatchBatch, error) {
	if idle == 0 {
		return stream.Next(ctx, watchBatchBytes)
	}
	wait, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	b, err := stream.Next(wait, watchBatchBytes)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return b, err
}

// sendCounted sends what has size bytes, which are in the budget until the client has taken it.
func (s *Service) sendCounted(size uint64, send func() error) error {
	if err := s.budget.take(size); err != nil {
		return err
	}
	defer s.budget.give(size)
	return send()
}

// untaken is the error of a message that the client has not taken. It has gone, or is taken for that: no fault of the node, whatever the transport calls it.
func untaken(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", context.Canceled, err)
}

// toClient sends messages of a stream.
func toClient[M any](send func(*M) error) func(*M) error {
	return func(m *M) error { return untaken(send(m)) }
}

func watchRequest(req *raftkvv1.WatchRequest) raftnode.WatchRequest {
	r := raftnode.WatchRequest{
		Key: req.GetKey(), Prefix: req.GetPrefix(), Start: req.GetStart(), End: req.GetEnd(),
		NoPuts: req.GetNoPuts(), NoDeletes: req.GetNoDeletes(), Before: req.GetPrevKv(),
		Revision: req.GetRevision(), Initial: req.GetIncludeInitial(), Token: req.GetToken(),
		Progress: time.Duration(req.GetProgressIntervalMs()) * time.Millisecond,
	}
	for _, shard := range req.GetShards() {
		r.Shards = append(r.Shards, placement.ShardID(shard))
	}
	return r
}

// watchResponse is a batch as clients see it, but for the token.
func (s *Service) watchResponse(b *raftnode.WatchBatch) *raftkvv1.WatchResponse {
	res := &raftkvv1.WatchResponse{Header: s.nodeHeader(), Created: b.Created, MoreOfRevision: b.MoreOfRevision, InitialDone: b.InitialDone}
	res.Header.Shard, res.Header.Revision = uint32(b.Shard), b.Revision
	for _, p := range b.Progress {
		m := &raftkvv1.WatchProgress{Shard: uint32(p.Shard), Revision: p.Revision}
		if p.Age >= 0 {
			m.FreshnessMs = new(uint64(p.Age.Milliseconds()))
		}
		res.Progress = append(res.Progress, m)
	}
	if n := len(b.Records) + len(b.Events); n > 0 {
		res.Events = make([]*raftkvv1.Event, 0, n)
	}
	for _, r := range b.Records {
		e := &raftkvv1.Event{Type: raftkvv1.EventType_EVENT_TYPE_PUT, Kv: new(raftkvv1.KeyValue), Shard: uint32(b.Shard), Initial: true}
		fillKeyValue(e.Kv, r, r.GetRecord())
		e.Revision = e.GetKv().GetModRevision()
		res.Events = append(res.Events, e)
	}
	for i := range b.Events {
		res.Events = append(res.Events, watchEvent(b.Shard, &b.Events[i]))
	}
	return res
}

func watchEvent(shard placement.ShardID, w *raftnode.WatchEvent) *raftkvv1.Event {
	e := &raftkvv1.Event{Type: raftkvv1.EventType_EVENT_TYPE_DELETE, Kv: new(raftkvv1.KeyValue), Shard: uint32(shard), Revision: w.Revision}
	if w.After != nil {
		e.Type = raftkvv1.EventType_EVENT_TYPE_PUT
		fillKeyValue(e.Kv, w.After, w.After.GetRecord())
	} else {
		e.Kv.Key, e.Kv.ModRevision, e.Expired = w.Key, w.Revision, w.Expired
	}
	if w.Before != nil {
		e.PrevKv = new(raftkvv1.KeyValue)
		fillKeyValue(e.PrevKv, w.Before, w.Before.GetRecord())
	}
	return e
}
