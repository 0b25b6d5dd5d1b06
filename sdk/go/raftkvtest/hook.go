package raftkvtest

import (
	"context"
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Call is a call of a lease method or the begin of a watch as a hook sees it, before it is executed.
type Call struct {
	// Node is the index of the node that received it.
	Node int
	// Method is Grant, KeepAlive, Revoke, GetLease, ListLeases or Watch.
	Method string
}

// SetCallHook makes hook decide about every call of a lease method, and the begin of every watch, from now on; nil serves them all. It is called from
// many goroutines. Of the Action for a watch, DropAfter does nothing.
func (c *Cluster) SetCallHook(hook func(Call) Action) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.callHook = hook
}

// hooked does what the hook says before a call is executed.
func (n *node) hooked(ctx context.Context, method string) (Action, error) {
	n.cluster.mu.Lock()
	hook := n.cluster.callHook
	n.cluster.mu.Unlock()
	if hook == nil {
		return Action{}, nil
	}
	a := hook(Call{Node: n.index, Method: method})
	if a.Wait != nil {
		select {
		case <-a.Wait:
		case <-ctx.Done():
			return a, context.Cause(ctx)
		case <-n.stopped:
			return a, errors.New("stopped")
		}
	}
	if a.DropBefore {
		abort()
	}
	if a.Refuse != nil {
		return a, a.Refuse.rpc()
	}
	return a, nil
}

// abort resets the stream of a call without a word.
func abort() { panic(http.ErrAbortHandler) }

// CutOff ends a watch because the node has not reached a majority of a shard for long.
func CutOff(shard placement.ShardID, d time.Duration) *Error {
	return &Error{
		code: connect.CodeUnavailable, reason: "CUT_OFF", message: "cut off",
		details: []proto.Message{
			&raftkvv1.CutOff{Shard: uint32(shard), ForMs: uint64(d.Milliseconds())},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)},
		},
	}
}

func noReplica(s *shard) *Error {
	return &Error{
		code: connect.CodeUnavailable, reason: "NO_REPLICA", message: "no replica here",
		details: []proto.Message{
			&raftkvv1.NotLeader{Shard: uint32(s.id)},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)},
		},
	}
}

func compacted(s *shard, revision uint64) *Error {
	return &Error{
		code: connect.CodeOutOfRange, reason: "COMPACTED", message: "the revision is forgotten",
		details: []proto.Message{&raftkvv1.Compacted{Revision: revision, Oldest: s.oldest, Shard: uint32(s.id)}},
	}
}
