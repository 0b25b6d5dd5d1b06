package raftkv

import (
	"fmt"
	"math"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// StaleWithin is the option to read what a replica has, without asking the others, if that is at most so old; 0 is any age. Such a read goes to the replicas of
// the shard in turn. One that is not new enough asks a majority, or fails with a *TooStaleError, and another is tried.
func StaleWithin(bound time.Duration) GetOption { return staleWithin(bound) }

// AtLeast is the option to read what a replica has, without asking the others, if that holds what a token names: a write whose result is at the revision of a TokenAt, or all
// that the client has seen whose Token it is. With StaleWithin, both must hold.
func AtLeast(token Token) GetOption { return atLeast(token) }

type (
	staleWithin time.Duration
	atLeast     Token
)

func (b staleWithin) applyGet(o *getOptions) { o.stale.use, o.stale.bound = true, time.Duration(b) }
func (t atLeast) applyGet(o *getOptions)     { o.stale.use, o.stale.token = true, Token(t) }

// AgeUnknown is the Age of an Item that a replica has shown which does not know how old its state is: only a read that may be of any age gets one.
const AgeUnknown = time.Duration(math.MinInt64)

// stale is how new a read must be.
type stale struct {
	use   bool
	bound time.Duration
	token Token
}

// ask fills in the fields of a request.
func (s *stale) ask(consistency *raftkvv1.Consistency, maxMs *uint64, token *string) error {
	*consistency, *maxMs, *token = raftkvv1.Consistency_CONSISTENCY_UNSPECIFIED, 0, ""
	if !s.use {
		return nil
	}
	if s.bound < 0 || s.bound > stalenessMax || s.bound > 0 && s.bound < time.Millisecond {
		return &InvalidError{Problem: fmt.Sprintf("a bound of staleness is 0, or %s to %s, not %s", time.Millisecond, stalenessMax, s.bound)}
	}
	*consistency, *maxMs, *token = raftkvv1.Consistency_CONSISTENCY_STALE, uint64(s.bound.Milliseconds()), string(s.token) //nolint:gosec // not negative
	return nil
}

// stalenessMax is fixed by the contract.
const stalenessMax = 24 * time.Hour

// ageOf is how old the state of an answer may be.
func ageOf(h *raftkvv1.ResponseHeader) time.Duration {
	if h.GetFreshnessUnknown() {
		return AgeUnknown
	}
	return time.Duration(min(h.GetFreshnessMs(), math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
}

// Token says what somebody has seen of a cluster: a revision of each of some shards. It is text that can be kept and passed on, to a browser and back, say; only
// raftkv needs to know what is in it. The zero Token is of nothing.
type Token string

// TokenAt is what a read must show that is not to be behind a revision of a shard, such as those of the result of a write: see AtLeast.
func (c *Client) TokenAt(shard placement.ShardID, revision uint64) Token {
	return c.routes.token(placement.ShardRevision{Shard: shard, Revision: revision})
}

// Token is all that the client has seen, of every shard: reads AtLeast that, by whatever client, are not behind any answer that this one has had.
func (c *Client) Token() Token {
	r := c.routes
	r.mu.RLock()
	defer r.mu.RUnlock()
	var at []placement.ShardRevision
	for id, s := range r.shards {
		if seen := s.seen.Load(); seen > 0 && id != placement.MetaShard {
			at = append(at, placement.ShardRevision{Shard: id, Revision: seen})
		}
	}
	return r.token(at...)
}

// token is empty before the first answer.
func (r *routes) token(at ...placement.ShardRevision) Token {
	cluster := r.cluster.Load()
	if cluster == nil {
		return ""
	}
	return Token(placement.PositionToken(*cluster, at...))
}

// TooStaleError says that a replica was not new enough for a stale read and could not ask a majority.
type TooStaleError struct {
	Shard placement.ShardID
	// Age is how old its state may have been, 0 if that was not known, Bound how old it might be. Both are 0 if it lacked what the token names.
	Age, Bound time.Duration
}

func (e *TooStaleError) Error() string {
	switch {
	case e.Bound == 0:
		return fmt.Sprintf("a replica of shard %d lacked what the token names, and could not ask a majority", e.Shard)
	case e.Age == 0:
		return fmt.Sprintf("a replica of shard %d did not know how old its state was, which might be %s, and could not ask a majority", e.Shard, e.Bound)
	default:
		return fmt.Sprintf("the state of a replica of shard %d might be %s old, which is more than %s, and it could not ask a majority", e.Shard, e.Age, e.Bound)
	}
}

// Is makes every TooStaleError an ErrUnavailable.
func (e *TooStaleError) Is(target error) bool { return target == ErrUnavailable }
