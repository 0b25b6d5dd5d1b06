package raftkv

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// watchBeginTime is how long a node may take to begin a watch. Then another is asked.
const watchBeginTime = 5 * time.Second

// watcher is one watch over all its streams. It runs in the goroutine of its user, who takes an event or holds it up: there is one response in
// memory, and what one stream may have received.
type watcher struct {
	client  *Client
	name    string
	request *raftkvv1.WatchRequest
	// at is where the user is.
	at       cursor
	progress bool
	// quiet is how long a stream may say nothing, marks of progress included.
	quiet    time.Duration
	patience time.Duration

	// places are where a watch goes on that is one of each shard.
	places shardPlaces
	// lacking: a node has refused to begin for want of a replica.
	lacking bool

	observation *observation

	begun bool // by any stream
	// served is when a node has last told something.
	served time.Duration
	// answered says that the stream has begun, healthy that it has given more than that.
	answered, healthy bool
	// streamed are the places of the last event of each shard on the present stream.
	streamed map[placement.ShardID]told
}

// run watches until the user leaves, with nil, or the watch cannot go on.
func (w *watcher) run(ctx context.Context, yield func(*Event, error) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.client.stopped, func() { cancel(ErrClosed) })()
	var last *endpoint
	story := call{client: w.client, name: w.name}
	w.served, w.observation = w.client.now(), w.client.telemetry.watching(ctx)
	for {
		last = w.client.routes.any(last)
		from := w.client.now()
		f := w.follow(ctx, last, yield)
		if f == nil {
			return nil
		}
		if w.mustSplit() {
			return errSplit
		}
		if w.healthy || w.answered && w.client.now()-from > 2*backoffMax {
			story = call{client: w.client, name: w.name}
		}
		switch {
		case !w.answered:
			w.observation.attempt(last, f)
		case f.ended: // by the user: the node has done nothing wrong
			return story.end(f.err)
		}
		wait, err := story.failed(f, last)
		if err != nil {
			return err
		}
		if err := w.pause(ctx, wait); err != nil {
			return story.end(err)
		}
	}
}

// pause waits before the next stream, unless patience ends first.
func (w *watcher) pause(ctx context.Context, wait time.Duration) error {
	var expired <-chan time.Time
	if patience := w.patienceNow(ctx); patience > 0 {
		left := w.served + patience - w.client.now()
		if left <= 0 {
			return w.unserved()
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		expired = timer.C
	}
	err := pause(ctx, w.client.stopped, expired, wait)
	if errors.Is(err, ErrTimeout) {
		return w.unserved()
	}
	return err
}

// unserved is why a watch ends that no node serves.
func (w *watcher) unserved() error {
	if w.patience > 0 {
		return fmt.Errorf("no node has served the watch for %v: %w", w.patience, context.DeadlineExceeded)
	}
	return ErrTimeout
}

// patienceNow is how long the watch may be without a node; 0 is for ever.
func (w *watcher) patienceNow(ctx context.Context) time.Duration {
	_, bounded := ctx.Deadline()
	switch {
	case w.patience > 0:
		return w.patience
	case !w.begun && !bounded:
		return w.client.options.timeout
	default:
		return 0
	}
}

// beginTime is how long a node may take to begin: no more than half of the time that is left, so that another has the other half.
func (w *watcher) beginTime(ctx context.Context) time.Duration {
	most := watchBeginTime
	if patience := w.patienceNow(ctx); patience > 0 {
		most = min(most, (w.served+patience-w.client.now())/2)
	}
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)/2)
	}
	return max(most, time.Millisecond)
}

// follow hands over what one stream tells. It returns why that has ended; nil if the user has left.
func (w *watcher) follow(ctx context.Context, e *endpoint, yield func(*Event, error) bool) *failure {
	w.lacking, w.answered, w.healthy, w.streamed = false, false, false, make(map[placement.ShardID]told)
	var reached atomic.Bool
	stream, cancel := context.WithCancelCause(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { reached.Store(true) },
	}))
	defer cancel(nil)
	silence := time.AfterFunc(w.beginTime(ctx), func() { cancel(errSilent) })
	defer silence.Stop()
	w.request.Token = w.at.server
	responses, err := w.client.watchService(e).Watch(w.client.telemetry.carry(stream), w.request)
	if err != nil {
		return w.judge(ctx, stream, err, e, reached.Load())
	}
	defer func() {
		cancel(nil) // before Close, which reads on for a while
		_ = responses.Close()
	}()
	for responses.Receive() {
		silence.Stop() // while the user takes his time
		if !w.answered {
			w.observation.attempt(e, nil)
		}
		w.begun, w.answered = true, true
		e.health.works()
		if !w.take(responses.Msg(), yield) {
			return nil
		}
		silence.Reset(w.quiet)
		w.served = w.client.now()
	}
	return w.judge(ctx, stream, responses.Err(), e, reached.Load())
}

// judge says what the end of a stream means, and lets the client pass over a node that is out of reach.
func (w *watcher) judge(ctx, stream context.Context, err error, e *endpoint, reached bool) *failure {
	var f *failure
	switch {
	case ctx.Err() != nil:
		return givenUp(reason(ctx), false)
	case errors.Is(context.Cause(stream), errSilent):
		f = &failure{err: errSilent, retry: true, unknown: true}
	case err == nil:
		f = &failure{err: errors.New("the node ended the watch"), retry: true}
	default:
		f = judgeCall(err, reached)
		w.lacking = lacksReplica(err)
	}
	if f.retry && f.unknown || !reached {
		e.failed(true)
	}
	return f
}

// take hands over a response; false if the user has left.
func (w *watcher) take(r *raftkvv1.WatchResponse, yield func(*Event, error) bool) bool {
	if !r.GetCreated() {
		w.healthy = true
	}
	behind := w.behind(r)
	for i, e := range r.GetEvents() {
		shard := placement.ShardID(e.GetShard())
		var last *told
		if t, ok := w.streamed[shard]; ok {
			last = &t
		}
		p := place(e, last)
		w.streamed[shard] = p
		if t := w.at.of(shard); t != nil && t.covers(&p) {
			continue
		}
		out := eventOf(e)
		if w.at = w.at.with(p); i == len(r.Events)-1 && !r.GetInitialDone() {
			w.at = behind // so that a token is as short as can be
		}
		out.behind = w.at
		if !yield(out, nil) {
			return false
		}
	}
	w.at = behind
	if r.GetInitialDone() && !yield(&Event{Type: EventInitialDone, Shard: placement.ShardID(r.GetHeader().GetShard()), behind: w.at}, nil) {
		return false
	}
	if len(r.GetProgress()) > 0 && w.progress {
		return yield(&Event{Type: EventProgress, Progress: progressOf(r.GetProgress()), behind: w.at}, nil)
	}
	return true
}

// behind is the cursor behind a whole response: its token, and what was told beyond. That is a part of a revision, or what was told of a stream before this one whose
// responses were longer.
func (w *watcher) behind(r *raftkvv1.WatchResponse) cursor {
	next := cursor{r.GetToken(), w.at.told}
	n := len(r.GetEvents())
	if n == 0 {
		return next
	}
	shard := placement.ShardID(r.GetEvents()[0].GetShard())
	last, known := w.streamed[shard]
	for i, e := range r.GetEvents() {
		if i == 0 && !known {
			last = place(e, nil)
			continue
		}
		last = place(e, &last)
	}
	if t := w.at.of(shard); t != nil && t.covers(&last) && *t != last {
		return next
	}
	if r.GetMoreOfRevision() {
		return next.with(last)
	}
	return next.without(shard)
}
