package raftkv

import (
	"context"
	"errors"
	"fmt"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// WriteID is the identity of a write of which nobody knows what came. It holds for all attempts.
type WriteID struct {
	// ClientID has 16 bytes, Sequence counts the writes under it.
	ClientID []byte
	Sequence uint64
	// Seen is the revision of the shard that the client knew before the write.
	Seen uint64
	// Key is a key of the write, which leads to its shard.
	Key string

	// place keeps the cluster from forgetting the answer; nil when it is known, or the identity came from elsewhere.
	place *op
}

// OutcomeKind says what came of a write.
type OutcomeKind uint8

const (
	// Applied: the write was applied.
	Applied OutcomeKind = iota + 1
	// ConditionFailed: its condition did not hold; of a transaction, what stands in Else was done.
	ConditionFailed
	// NotApplied: it was not applied and never will be, whatever attempts of it are still under way.
	NotApplied
	// Forgotten: nobody can tell any more. It may have been applied.
	Forgotten
)

func (k OutcomeKind) String() string {
	switch k {
	case Applied:
		return "applied"
	case ConditionFailed:
		return "condition failed"
	case NotApplied:
		return "not applied"
	case Forgotten:
		return "forgotten"
	default:
		return fmt.Sprintf("outcome %d", uint8(k))
	}
}

// Outcome is what came of a write.
type Outcome struct {
	Kind OutcomeKind
	// Revision is the one that the write has made, or that of its shard if it changed nothing; 0 if it is forgotten.
	Revision uint64
	Shard    placement.ShardID
	// Current is, if the condition failed, the revision of the last write of its key then; 0 if the key did not exist.
	Current uint64
}

// FencedError says that somebody has resolved the write while it was under way, and was told that it is not applied. It never will be.
type FencedError struct {
	Shard placement.ShardID
}

func (e *FencedError) Error() string {
	return "somebody has asked what came of this write and was told that it is not applied, so it never will be"
}

// Resolve finds out what came of a write that ended with an OutcomeUnknownError, which err is or wraps. The answer holds for good: after NotApplied the write may
// safely be made again, by another call. If Resolve fails it may be called again; a client resolves what itself has written.
//
// The client keeps the answer from being forgotten until it is resolved, or until 1,024 later writes, with which it begins a new identity.
func (c *Client) Resolve(ctx context.Context, err error) (Outcome, error) {
	var unknown *OutcomeUnknownError
	if !errors.As(err, &unknown) || unknown.Write == nil {
		return Outcome{}, &CallError{Operation: "resolve", Err: &InvalidError{Problem: "err is no OutcomeUnknownError of a write of keys"}}
	}
	w := unknown.Write
	request := &raftkvv1.GetOutcomeRequest{
		RequestId: &raftkvv1.RequestId{ClientId: w.ClientID, Sequence: w.Sequence, Seen: w.Seen},
		Subject:   &raftkvv1.GetOutcomeRequest_Key{Key: w.Key},
	}
	var response *raftkvv1.GetOutcomeResponse
	// The question may be asked again, so it is no write to the client.
	err = c.unary(ctx, "resolve "+unknown.Operation, nil, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.kv.GetOutcome(ctx, request)
		return err
	})
	if err != nil {
		return Outcome{}, err
	}
	o := Outcome{Revision: response.GetRevision(), Shard: placement.ShardID(response.GetHeader().GetShard()), Current: response.GetFailed().GetCurrent()}
	switch response.GetOutcome() {
	case raftkvv1.Outcome_OUTCOME_APPLIED:
		o.Kind = Applied
	case raftkvv1.Outcome_OUTCOME_CONDITION_FAILED:
		o.Kind = ConditionFailed
	case raftkvv1.Outcome_OUTCOME_NOT_APPLIED, raftkvv1.Outcome_OUTCOME_LEASE_REFUSED:
		o.Kind = NotApplied
	case raftkvv1.Outcome_OUTCOME_FORGOTTEN:
		o.Kind = Forgotten
	default:
		return Outcome{}, &CallError{Operation: "resolve " + unknown.Operation, Err: &ServerError{
			Code: "unknown", Message: "outcome " + response.GetOutcome().String() + " is not known to this version",
		}}
	}
	c.sessions.resolved(w.place)
	return o, nil
}

// unresolved is what to ask by when nobody knows what came of o, which leaves something in its place: the client must not acknowledge the answer that it asks for.
func (o *op) unresolved() *WriteID {
	if o == nil || o.session == nil {
		return nil
	}
	if o.place == nil {
		o.place = &op{}
	}
	o.place.id.Sequence = o.id.Sequence
	return &WriteID{ClientID: o.id.ClientId, Sequence: o.id.Sequence, Seen: o.id.Seen, Key: o.key, place: o.place}
}

// leave puts another in the place of o. The caller holds the lock of the sessions.
func (o *op) leave(place *op) {
	n := o.session
	place.session, place.older, place.newer = n, o.older, o.newer
	if o.older == nil {
		n.oldest = place
	} else {
		o.older.newer = place
	}
	if o.newer == nil {
		n.newest = place
	} else {
		o.newer.older = place
	}
	o.session, o.older, o.newer, o.place = nil, nil, nil, nil
}

// resolved takes a place out of its session; once.
func (s *sessions) resolved(place *op) {
	if place == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if place.session != nil {
		place.out()
	}
}
