package raftkv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Watchable is what can be watched: a Range, such as Prefix("config/"), or a Key.
type Watchable interface {
	// request is what a watch of it asks for, and its name in errors.
	request() (*raftkvv1.WatchRequest, string)
}

// Key is a single key to watch.
func Key(key string) Watchable { return singleKey(key) }

type singleKey string

func (k singleKey) request() (*raftkvv1.WatchRequest, string) {
	return &raftkvv1.WatchRequest{Key: string(k)}, quote(string(k))
}

func (r Range) request() (*raftkvv1.WatchRequest, string) {
	name := "all keys"
	switch {
	case r.Prefix != "":
		name = "prefix " + quote(r.Prefix)
	case r.Start != "" || r.End != "":
		name = "range " + quote(r.Start) + " to " + quote(r.End)
	}
	return &raftkvv1.WatchRequest{Prefix: r.Prefix, Start: r.Start, End: r.End}, name
}

// EventType is what an Event says.
type EventType int

const (
	// EventPut says that a key was written, or with Initial that it was there.
	EventPut EventType = iota + 1
	// EventDelete says that a key was removed, or that its time was over.
	EventDelete
	// EventInitialDone says that all keys asked for by IncludeInitial have been told.
	EventInitialDone
	// EventProgress says how far the watch is. Only a watch WithProgress has it, and the first event of that is one: the watch has begun.
	EventProgress
)

func (t EventType) String() string {
	switch t {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventInitialDone:
		return "initial done"
	case EventProgress:
		return "progress"
	default:
		return fmt.Sprintf("EventType(%d)", int(t))
	}
}

// Event is one change of one key, or a mark of how far a watch is.
type Event struct {
	Type EventType
	// Item is the key as the change has left it. After a delete it has only Key and, as ModRevision, the revision of the delete.
	Item Item
	// Previous is the item as it was before, if that was asked for and it existed.
	Previous *Item
	// Revision is that of the change. Events of one shard come in the order of their revisions; between shards there is no order.
	Revision uint64
	Shard    placement.ShardID
	// Initial says that the key stands as it was when the watch began; nothing has changed it now.
	Initial bool
	// Expired says of an EventDelete that no client has removed the key: its time to live has passed, or its lease has ended or was revoked.
	Expired bool
	// Progress says how far the watch is in each shard; only of an EventProgress.
	Progress []WatchProgress

	behind position
}

// position is where a watch is.
type position interface{ token() string }

// Token says where to go on behind this event: a watch of the same keys and filters FromToken gets what follows, nothing twice and nothing left out, from any
// node, as long as the cluster has the history. It is made when it is asked for.
func (e *Event) Token() string { return e.behind.token() }

// WatchProgress is how far a watch is in a shard.
type WatchProgress struct {
	Shard placement.ShardID
	// Revision is the one up to which every event has been told.
	Revision uint64
	// Age is how long ago that was all there was; negative as long as the watch has not caught up with where it began.
	Age time.Duration
}

// WatchOption changes what a Watch tells.
type WatchOption interface{ applyWatch(*watchOptions) }

type watchOption func(*watchOptions)

func (f watchOption) applyWatch(o *watchOptions) { f(o) }

func (previous) applyWatch(o *watchOptions) { o.request.PrevKv = true }

type watchOptions struct {
	request  *raftkvv1.WatchRequest
	token    string
	progress bool
	interval time.Duration
	patience time.Duration
}

// FromRevision begins with the changes of a revision of the shard of the keys: for a key, or a prefix with a whole {tag}, because each shard counts its own
// revisions. A revision that is forgotten is a *CompactedError.
func FromRevision(revision uint64) WatchOption {
	return watchOption(func(o *watchOptions) { o.request.Revision = revision })
}

// FromToken goes on behind the event that had the token. FromRevision and IncludeInitial do not count then.
func FromToken(token string) WatchOption {
	return watchOption(func(o *watchOptions) { o.token = token })
}

// IncludeInitial tells the keys as they are when the watch begins first, then EventInitialDone, then what changes.
func IncludeInitial() WatchOption {
	return watchOption(func(o *watchOptions) { o.request.IncludeInitial = true })
}

// WithoutPuts leaves the puts out.
func WithoutPuts() WatchOption {
	return watchOption(func(o *watchOptions) { o.request.NoPuts = true })
}

// WithoutDeletes leaves the deletes out.
func WithoutDeletes() WatchOption {
	return watchOption(func(o *watchOptions) { o.request.NoDeletes = true })
}

// WithProgress tells when the watch has begun, and how far it is whenever nothing else has been told for interval: at least 100 ms, at most an hour, 0
// is ten seconds.
func WithProgress(interval time.Duration) WatchOption {
	return watchOption(func(o *watchOptions) { o.progress, o.interval = true, interval })
}

// WithPatience ends a watch that no node has served for d, with the error of the last attempt. Without it a watch that has begun waits for as long as ctx
// lasts; one that has not begun gives up after the timeout of the client.
func WithPatience(d time.Duration) WatchOption {
	return watchOption(func(o *watchOptions) { o.patience = d })
}

// Watch tells every change of some keys, from now on unless an option says otherwise, without a gap and nothing twice:
//
//	for event, err := range client.Watch(ctx, raftkv.Prefix("config/")) {
//		if err != nil {
//			return err
//		}
//		...
//	}
//
// The watch begins with the loop and ends when the loop is left or ctx ends, which is an error of the sequence. It is served by any node; if that stops, is cut
// off or out of reach, the watch goes on at another, where it was. What the loop has not come to waits at the node, in the history: a slow
// loop costs no memory, but may find its history gone. That is a *CompactedError: begin again with IncludeInitial, which tells all that is there, or
// FromRevision at its Oldest or later if a gap does no harm.
func (c *Client) Watch(ctx context.Context, what Watchable, options ...WatchOption) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		w, err := c.newWatcher(what, options)
		if err != nil {
			yield(nil, err)
			return
		}
		if err := w.watchFrom(ctx, yield); err != nil {
			yield(nil, err)
		}
	}
}

const (
	watchProgressMin = 100 * time.Millisecond
	watchProgressMax = time.Hour
	// watchProgressDefault is the server's.
	watchProgressDefault = 10 * time.Second
)

func (c *Client) newWatcher(what Watchable, options []WatchOption) (*watcher, error) {
	if what == nil {
		return nil, &CallError{Operation: "watch", Err: &InvalidError{Problem: "nothing to watch: say Key, Prefix or a Range"}}
	}
	w := &watcher{client: c}
	w.request, w.name = what.request()
	w.name = "watch " + w.name
	o := watchOptions{request: w.request}
	for _, option := range options {
		option.applyWatch(&o)
	}
	if err := o.check(what); err != nil {
		return nil, &CallError{Operation: w.name, Err: err}
	}
	w.progress, w.patience, w.quiet = o.progress, o.patience, 3*watchProgressDefault
	if o.interval > 0 {
		w.request.ProgressIntervalMs = uint32(o.interval.Milliseconds())
		w.quiet = max(3*o.interval, watchBeginTime)
	}
	var err error
	if strings.Contains(o.token, placeMark) {
		w.places, err = parseShardPlaces(o.token)
	} else {
		w.at, err = parseCursor(o.token)
	}
	if err != nil {
		return nil, &CallError{Operation: w.name, Err: err}
	}
	return w, nil
}

// check refuses what the servers would refuse.
func (o *watchOptions) check(what Watchable) error {
	r := o.request
	if k, single := what.(singleKey); single && k == "" {
		return &InvalidError{Problem: "key must not be empty"}
	}
	for field, key := range map[string]string{"key": r.Key, "prefix": r.Prefix, "start": r.Start, "end": r.End} {
		if len(key) > keyBytesMax {
			return &LimitError{Field: field, Limit: keyBytesMax, Actual: uint64(len(key))}
		}
		if !utf8.ValidString(key) {
			return &InvalidError{Problem: field + " must be valid UTF-8"}
		}
	}
	switch {
	case r.Prefix != "" && (r.Start != "" || r.End != ""):
		return &InvalidError{Problem: "Prefix does not go with Start or End"}
	case r.Start != "" && r.End != "" && r.Start >= r.End:
		return &InvalidError{Problem: "no key is from Start on and before End"}
	case r.NoPuts && r.NoDeletes:
		return &InvalidError{Problem: "WithoutPuts and WithoutDeletes leave nothing to watch"}
	case o.interval != 0 && (o.interval < watchProgressMin || o.interval > watchProgressMax):
		return &InvalidError{Problem: fmt.Sprintf("the interval of WithProgress is %s; it is 0, or from %s to %s", o.interval, watchProgressMin, watchProgressMax)}
	case o.patience < 0:
		return &InvalidError{Problem: fmt.Sprintf("the time of WithPatience is %s; it is more than 0", o.patience)}
	}
	return nil
}

// eventOf is an event as users see it, without its cursor.
func eventOf(e *raftkvv1.Event) *Event {
	out := &Event{
		Type: EventPut, Item: itemOf(e.GetKv()), Previous: itemOrNil(e.GetPrevKv()),
		Revision: e.GetRevision(), Shard: placement.ShardID(e.GetShard()), Initial: e.GetInitial(), Expired: e.GetExpired(),
	}
	if e.GetType() == raftkvv1.EventType_EVENT_TYPE_DELETE {
		out.Type = EventDelete
	}
	return out
}

func progressOf(progress []*raftkvv1.WatchProgress) []WatchProgress {
	out := make([]WatchProgress, len(progress))
	for i, p := range progress {
		out[i] = WatchProgress{Shard: placement.ShardID(p.GetShard()), Revision: p.GetRevision(), Age: -1}
		if p.FreshnessMs != nil {
			out[i].Age = millis(min(p.GetFreshnessMs(), math.MaxInt64))
		}
	}
	return out
}

var errSilent = errors.New("the node has said nothing for too long, as when a shard has no leader")
