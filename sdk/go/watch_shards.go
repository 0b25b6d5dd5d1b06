package raftkv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// reasonNoReplica is the reason of a node that has no replica of a shard.
const reasonNoReplica = "NO_REPLICA"

// lacksReplica says whether err is that of a node which has no replica of a shard to watch.
func lacksReplica(err error) bool {
	ce := new(connect.Error)
	if !errors.As(err, &ce) {
		return false
	}
	for _, d := range ce.Details() {
		if m, err := d.Value(); err == nil {
			if info, ok := m.(*errdetails.ErrorInfo); ok && info.GetReason() == reasonNoReplica {
				return true
			}
		}
	}
	return false
}

// mustSplit says whether the watch goes on as one of each shard: it is of several, a node has not all of them, and there is no token yet that is of all.
// In a cluster with more nodes than replicas, there may be no node that has.
func (w *watcher) mustSplit() bool {
	r := w.request
	open := strings.IndexByte(r.Prefix, '{')
	tagged := open >= 0 && strings.IndexByte(r.Prefix[open:], '}') > 1
	return w.lacking && w.at.server == "" && r.Key == "" && !tagged && len(r.Shards) == 0
}

// shardPlace is where a watch of each shard is in one of them.
type shardPlace struct {
	shard placement.ShardID
	at    cursor
	// initial says that keys of the start are still to come.
	initial bool
}

// shardPlaces are ascending by shard, and immutable.
type shardPlaces []shardPlace

// A token of a watch of each shard is, for every one of them,
//
//	shard:cursor    or, if keys of the start are still to come,    shard+:cursor
//
// with commas in between. No cursor has a colon.
const (
	placeMark   = ":"
	initialMark = "+"
)

func (p shardPlaces) token() string {
	parts := make([]string, len(p))
	for i, one := range p {
		mark := placeMark
		if one.initial {
			mark = initialMark + placeMark
		}
		parts[i] = strconv.FormatUint(uint64(one.shard), 10) + mark + one.at.token()
	}
	return strings.Join(parts, ",")
}

func parseShardPlaces(token string) (shardPlaces, error) {
	bad := &InvalidError{Problem: "token is not one that an event of a watch has given"}
	var out shardPlaces
	for part := range strings.SplitSeq(token, ",") {
		name, rest, ok := strings.Cut(part, placeMark)
		name, initial := strings.CutSuffix(name, initialMark)
		shard, err := strconv.ParseUint(name, 10, 32)
		at, cursorErr := parseCursor(rest)
		if !ok || err != nil || cursorErr != nil || at.server == "" || len(out) > 0 && out[len(out)-1].shard >= placement.ShardID(shard) {
			return nil, bad
		}
		out = append(out, shardPlace{placement.ShardID(shard), at, initial})
	}
	return out, nil
}

// split is a watch that is one of each shard. Each has a goroutine, which holds its next event until the user has taken those before it.
type split struct {
	whole  *watcher
	places shardPlaces
	marks  [][]WatchProgress // the last of each shard
	events chan shardEvent
	// started is closed when all shards have begun, so that there is a token for each; told when the keys of the start have been told of all, which no
	// change comes before.
	started, told chan struct{}
}

// shardEvent is the next event of a shard, or why it has none.
type shardEvent struct {
	index int
	event *Event
	err   error
}

// runSplit watches each shard by itself until the user leaves, with nil, or one of them cannot go on. Without places it begins.
func (w *watcher) runSplit(ctx context.Context, places shardPlaces, yield func(*Event, error) bool) error {
	if len(places) == 0 {
		if w.request.Revision != 0 {
			return &CallError{Operation: w.name, Err: &InvalidError{
				Problem: "each shard counts its own revisions, and these keys are of several; watch one key or {tag}, or go on with a token",
			}}
		}
		shards, err := w.client.Cluster().Shards(ctx)
		if err != nil {
			return err
		}
		for _, s := range shards {
			if s.GetId() != 0 { // the meta shard has no keys
				places = append(places, shardPlace{shard: placement.ShardID(s.GetId()), initial: w.request.IncludeInitial})
			}
		}
	}
	s := &split{
		whole: w, places: places, marks: make([][]WatchProgress, len(places)), events: make(chan shardEvent),
		started: make(chan struct{}), told: make(chan struct{}),
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var shards sync.WaitGroup
	defer shards.Wait()
	defer cancel(nil)
	for i := range places {
		shards.Go(func() { s.follow(ctx, i, places[i]) })
	}
	return s.merge(ctx, yield)
}

// follow watches one shard.
func (s *split) follow(ctx context.Context, i int, from shardPlace) {
	send := func(e shardEvent) bool {
		select {
		case s.events <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	wait := func(gate chan struct{}) bool {
		select {
		case <-gate:
			return true
		case <-ctx.Done():
			return false
		}
	}
	w := s.whole.ofShard(from)
	begun, initial := false, from.initial
	err := w.run(ctx, func(e *Event, _ error) bool {
		if !send(shardEvent{index: i, event: e}) {
			return false
		}
		if !begun {
			begun = true
			if !wait(s.started) {
				return false
			}
		}
		initial = initial && e.Type != EventInitialDone
		return initial || wait(s.told)
	})
	if err != nil {
		send(shardEvent{index: i, err: err})
	}
}

// ofShard is a watch of the same in one shard, with marks of progress: the first says where it begins.
func (w *watcher) ofShard(p shardPlace) *watcher {
	one := &watcher{client: w.client, name: fmt.Sprintf("%s in shard %d", w.name, p.shard), at: p.at, progress: true, quiet: w.quiet, patience: w.patience}
	one.request = proto.CloneOf(w.request)
	one.request.Shards = []uint32{uint32(p.shard)}
	return one
}

// merge hands over what the shards tell, until the user leaves.
func (s *split) merge(ctx context.Context, yield func(*Event, error) bool) error {
	waiting, initial := len(s.places), 0
	for _, p := range s.places {
		if p.initial {
			initial++
		}
	}
	started := false
	if initial == 0 {
		close(s.told)
	}
	for {
		var next shardEvent
		select {
		case next = <-s.events:
		case <-ctx.Done():
			return &CallError{Operation: s.whole.name, Err: reason(ctx)}
		}
		if next.err != nil {
			return next.err
		}
		e := next.event
		at, _ := e.behind.(cursor)
		s.places = slices.Clone(s.places) // events have the one before
		s.places[next.index].at = at
		switch e.Type {
		case EventProgress:
			s.marks[next.index] = e.Progress
			if !started {
				if waiting--; waiting > 0 {
					continue
				}
				started = true
				close(s.started)
			}
			if !s.whole.progress {
				continue
			}
			e.Progress = slices.Concat(s.marks...)
		case EventInitialDone:
			s.places[next.index].initial = false
			if initial--; initial > 0 {
				continue
			}
			close(s.told)
		}
		e.behind = s.places
		if !yield(e, nil) {
			return nil
		}
	}
}

// watchFrom runs the watch, as one or one of each shard.
func (w *watcher) watchFrom(ctx context.Context, yield func(*Event, error) bool) error {
	if len(w.places) == 0 {
		err := w.run(ctx, yield)
		if !errors.Is(err, errSplit) {
			return err
		}
	}
	return w.runSplit(ctx, w.places, yield)
}

// errSplit ends the run of a watch that goes on as one of each shard.
var errSplit = errors.New("no node has all shards")
