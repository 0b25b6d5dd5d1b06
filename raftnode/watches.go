package raftnode

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
	"github.com/raftkv/raftkv/raftnode/watch"
)

const (
	watchStreamsMax   = 64 << 10               // watches of a node
	watchInterval     = 250 * time.Millisecond // the tick of watches
	confirmInterval   = time.Second            // between the ReadIndex rounds that confirm what watches have seen
	watchProgress     = 10 * time.Second       // WatchRequest.Progress by default
	watchProgressMin  = 100 * time.Millisecond
	watchCutOffPeriod = 3 // periods of progress that a replica may be cut off before its watches end
	watchCutOffVotes  = 5 // election timeouts that it may be, at least
)

// watches are the watches of a node: the hub that feeds them, and what is known of the freshness of the replicas that it reads.
type watches struct {
	n       *Node
	hub     *watch.Hub
	history historian // nil: a program's own machine, which cannot be watched
	// wake runs publish.
	wake func()

	// mu guards the fields below, and those of streams that say so. It is a leaf.
	mu      sync.Mutex
	streams map[*WatchStream]struct{}
	shards  map[placement.ShardID]*confirmation
}

// confirmation is the last ReadIndex round of a shard that the watches have asked for.
type confirmation struct {
	// watchers counts the streams that need it.
	watchers int
	// at is when the round began, revision the one that was applied when it was answered: whoever has seen that was complete then.
	at       time.Time
	revision uint64
	asking   bool
}

func newWatches(n *Node) *watches {
	ws := &watches{n: n, streams: make(map[*WatchStream]struct{}), shards: make(map[placement.ShardID]*confirmation)}
	ws.history, _ = n.engine.(historian)
	ws.wake = n.runtime.Stage("watch", ws.publish)
	ws.hub = watch.New(watch.Options{Read: ws.read, Wake: ws.wake})
	return ws
}

// publish is the stage that hands out what was applied.
func (ws *watches) publish() {
	if ws.n.failed() {
		return
	}
	if err := ws.hub.Publish(); err != nil {
		_ = ws.failed(err) // it is logged, or ends the node
	}
}

// failed says what a read that has failed means: the node must not go on with a damaged state (R15).
func (ws *watches) failed(err error) error {
	switch _, damaged := damageOf(err); {
	case errors.Is(err, ErrStopped):
		return ErrStopped
	case damaged:
		ws.n.fail(fmt.Errorf("read the history: %w", err))
	default:
		ws.n.log.Warn("the history cannot be read; watches wait", "err", err)
	}
	return readError(err)
}

// read reads the history. Streams read in goroutines that are no stages.
func (ws *watches) read(shard placement.ShardID, r state.ChangesRead) ([]*state.Part, state.Cursor, error) {
	ws.n.engineMu.RLock()
	defer ws.n.engineMu.RUnlock()
	if ws.n.released {
		return nil, r.From, ErrStopped
	}
	return ws.history.changes(shard, r)
}

// readInitial reads a page of the records of the start.
func (ws *watches) readInitial(shard placement.ShardID, start, end string, revision uint64) ([]*peerv1.KeyRecord, string, error) {
	ws.n.engineMu.RLock()
	defer ws.n.engineMu.RUnlock()
	if ws.n.released {
		return nil, "", ErrStopped
	}
	return ws.history.rangeAt(shard, start, end, revision)
}

// applied tells the hub where the state of a shard stands.
func (ws *watches) applied(shard placement.ShardID, revision uint64) { ws.hub.Applied(shard, revision) }

// add takes a stream in.
func (ws *watches) add(s *WatchStream) error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.streams) >= watchStreamsMax {
		return overloaded("watches", watchStreamsMax, uint64(len(ws.streams)))
	}
	ws.streams[s] = struct{}{}
	for _, p := range s.shards {
		c := ws.shards[p.shard]
		if c == nil {
			c = &confirmation{}
			ws.shards[p.shard] = c
		}
		c.watchers++
	}
	return nil
}

func (ws *watches) remove(s *WatchStream) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, ok := ws.streams[s]; !ok {
		return
	}
	delete(ws.streams, s)
	for _, p := range s.shards {
		c := ws.shards[p.shard]
		if c.watchers--; c.watchers == 0 {
			delete(ws.shards, p.shard)
		}
	}
}

// confirmed notes the answer to a round that began at a time.
func (ws *watches) confirmed(shard placement.ShardID, at time.Time, revision uint64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if c := ws.shards[shard]; c != nil && at.After(c.at) {
		c.at, c.revision = at, max(c.revision, revision)
	}
}

// freshness returns the last round of a shard.
func (ws *watches) freshness(shard placement.ShardID) (at time.Time, revision uint64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if c := ws.shards[shard]; c != nil {
		return c.at, c.revision
	}
	return time.Time{}, 0
}

// tick asks for rounds that are due, and wakes the streams for which time has done something.
func (ws *watches) tick() {
	now := ws.n.runtime.Now()
	ws.mu.Lock()
	var due []placement.ShardID
	for _, shard := range slices.Sorted(maps.Keys(ws.shards)) {
		if c := ws.shards[shard]; !c.asking && now.Sub(c.at) >= confirmInterval {
			c.asking = true
			due = append(due, shard)
		}
	}
	stopping := ws.n.closing.Load() || ws.n.failed()
	for s := range ws.streams {
		if s.tick(now) || stopping {
			s.wake()
		}
	}
	ws.mu.Unlock()
	for _, shard := range due {
		ws.confirm(shard, now)
	}
	ws.hub.Nudge()
}

// confirm asks for a round of the local replica.
func (ws *watches) confirm(shard placement.ShardID, now time.Time) {
	ws.n.Submit(&Request{
		Shard: shard, Deadline: now.Add(defaultTimeout), Read: &peerv1.ReadRequest{}, forwarded: true,
		Done: func(res Result) {
			if res.Err == nil {
				ws.confirmed(shard, now, res.Origin.GetRevision())
			}
			ws.mu.Lock()
			defer ws.mu.Unlock()
			if c := ws.shards[shard]; c != nil {
				c.asking = false
			}
		},
	})
}

// cutOff returns the shard of a stream that has been without a round for longer than it may.
func (ws *watches) cutOff(s *WatchStream, now time.Time) error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, p := range s.shards {
		if c := ws.shards[p.shard]; c != nil && now.Sub(c.at) > s.limit {
			return &CutOffError{Shard: p.shard, For: now.Sub(c.at)}
		}
	}
	return nil
}
