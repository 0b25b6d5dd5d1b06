package raftnode

import (
	"errors"
	"fmt"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
)

// Reads of keys as they were at a revision of their shard. What a revision has left never changes, so a replica that has applied it answers
// without asking anybody. A write that is to show what it has found, or what it has read, is one followed by such a read: apply returns
// revisions only, and results that are kept for retries have no values in them.

// pastBytesMax bounds the values of the answer to reads of the past. What does not fit is left out: the requester may have made a write, and
// must hear that it was applied.
const pastBytesMax = 4 << 20

// RevisionIgnoredError says that a node has shown another revision of a range than the one that was asked for. Nothing was changed.
type RevisionIgnoredError struct {
	Node            placement.NodeID
	Shard           placement.ShardID
	Revision, Shown uint64
}

func (e *RevisionIgnoredError) Error() string {
	return fmt.Sprintf("node %s showed revision %d of shard %d and not %d, as releases do that know no ranges at a revision; upgrade that node, or ask one that has a replica of the shard itself",
		e.Node, e.Shown, e.Shard, e.Revision)
}

// pageWorkBytes bounds what a page at a revision reads: some ten times what it may show, so that a few writes since do not make pages short.
const pageWorkBytes = 8 << 20

// pageEffort bounds the work of a page at a revision.
func pageEffort(l Limits) state.Effort {
	return state.Effort{Records: l.PageItems, Bytes: pageWorkBytes}
}

// CompactedError says that a revision was asked for that the shard has forgotten. Nothing was changed.
type CompactedError struct {
	Shard placement.ShardID
	// Oldest is the oldest revision that the shard knows.
	Revision, Oldest uint64
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("revision %d of shard %d is forgotten, the oldest known is %d; ask for that or a later one, or begin the watch anew", e.Revision, e.Shard, e.Oldest)
}

// FutureRevisionError says that a revision was asked for that the shard has not reached. Nothing was changed.
type FutureRevisionError struct {
	Shard placement.ShardID
	// Current is the revision of the shard.
	Revision, Current uint64
}

func (e *FutureRevisionError) Error() string {
	return fmt.Sprintf("revision %d of shard %d is not reached, the shard is at %d; a revision is one of the shard that has told it", e.Revision, e.Shard, e.Current)
}

// ofPast says whether a read is one of the past.
func ofPast(r *peerv1.ReadRequest) bool {
	return len(r.GetPast()) > 0 || pageOfPast(r)
}

// pageOfPast says whether a read is a page at a revision.
func pageOfPast(r *peerv1.ReadRequest) bool { return r.GetRange().GetRevision() > 0 }

// pastKnown says whether a read is one of the past, all of which this replica has applied.
func (n *Node) pastKnown(shard placement.ShardID, r *peerv1.ReadRequest) bool {
	if !ofPast(r) || len(r.GetKeys()) > 0 || r.GetRange() != nil && r.GetRange().GetRevision() == 0 {
		return false
	}
	at := n.engine.position(shard).revision
	for _, p := range r.GetPast() {
		if p.GetRevision() > at {
			return false
		}
	}
	return r.GetRange().GetRevision() <= at
}

// readPast reads keys as they were, of slots that the shard serves in this very state (R17).
func (v *kvView) readPast(shard placement.ShardID, past []*peerv1.PastRead, result *peerv1.ReadResult) error {
	slots, err := v.serving(shard)
	if err != nil {
		return err
	}
	size := 0
	for _, p := range past {
		if slot := placement.SlotOf(p.GetKey()); shard != placement.MetaShard && !slots.Has(slot) {
			return &StaleRouteError{Shard: shard, Slot: slot}
		}
		record, err := v.view.GetAt(shard, p.GetKey(), p.GetRevision())
		if planted.Is(planted.PastIsPresent) { // R22
			record, err = v.view.Get(shard, p.GetKey())
		}
		if err != nil {
			return pastError(shard, err)
		}
		k := &peerv1.KeyRecord{Key: p.GetKey(), Record: record}
		if n := len(record.GetValue()); n > 0 && size > 0 && size+n > pastBytesMax {
			k.Omitted, record.Content = true, nil
		} else {
			size += n
		}
		result.Records = append(result.Records, k)
	}
	return nil
}

// readRangeAt reads a page of a range as it was. Who merges it sees to it that the shard serves the slots of the range.
func (v *kvView) readRangeAt(shard placement.ShardID, r *peerv1.RangeRead, result *peerv1.ReadResult) error {
	records, behind, err := v.view.RangeAt(shard, r, pageEffort(v.limits))
	if err != nil {
		return pastError(shard, err)
	}
	result.Records, result.Behind, result.More = records, behind, behind != ""
	return nil
}

func pastError(shard placement.ShardID, err error) error {
	var compacted *state.CompactedError
	var future *state.FutureRevisionError
	switch {
	case errors.As(err, &compacted):
		return &CompactedError{Shard: shard, Revision: compacted.Revision, Oldest: compacted.Floor}
	case errors.As(err, &future):
		return &FutureRevisionError{Shard: shard, Revision: future.Revision, Current: future.Current}
	default:
		return readError(err)
	}
}

// readAfter reads what a write that is done asks for, and answers the write with both. A node that is leaving does it still: the write is its own. If
// what is asked for is forgotten, as it may be for a retry, the write is answered without values.
func (n *Node) readAfter(write *Request, res Result, past []*peerv1.PastRead) {
	read := &Request{Read: &peerv1.ReadRequest{Past: past}, Shard: res.Shard, Deadline: write.Deadline, Trace: write.Trace}
	if write.journey.sampled() {
		n.beginJourney(read)
	}
	read.Done = func(found Result) {
		var compacted *CompactedError
		switch {
		case errors.As(found.Err, &compacted):
			res.Read = &peerv1.ReadResult{}
			for _, p := range past {
				res.Read.Records = append(res.Read.Records, &peerv1.KeyRecord{Key: p.GetKey(), Omitted: true})
			}
		case found.Err != nil:
			write.answer(Result{Shard: res.Shard, Timing: res.Timing, Err: afterError(write.Command.GetWrite(), &res, found.Err)})
			return
		default:
			res.Read = found.Read
		}
		write.answer(res)
	}
	if n.failed() {
		read.fail(ErrStopped)
		return
	}
	n.dispatch(read)
}

// afterError is the error of a write that is done and whose read has failed. One that could have changed something must not be taken for one
// that was not applied.
func afterError(w *storev1.Write, res *Result, err error) error {
	ops := w.GetOperations()
	if res.Write.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED {
		ops = w.GetOtherwise()
	}
	for _, o := range ops {
		if o.GetKind() != storev1.OperationKind_OPERATION_KIND_GET {
			return &UnknownOutcomeError{Shard: res.Shard, Cause: fmt.Sprintf(
				"it is applied at revision %d, but what it was to show could not be read: %v", res.Write.GetRevision(), err)}
		}
	}
	return err
}
