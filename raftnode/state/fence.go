package state

import (
	"fmt"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// pinnedMax is how many sessions may have a fence that the shard's revision has not passed yet: they are not forgotten meanwhile.
const pinnedMax = 256

// FencesMax is how many clients may have a fence that is newer than the last revision of a shard.
const FencesMax = pinnedMax

func checkFence(id *storev1.RequestId, c *storev1.Fence) error {
	if c == nil || id == nil {
		return fmt.Errorf("%w: a fence without the id of a request", ErrInvalidEntry)
	}
	if c.Slot >= placement.SlotCount {
		return fmt.Errorf("%w: a fence in slot %d, which there is not", ErrInvalidEntry, c.Slot)
	}
	return nil
}

// applyFence gives the answer to a request, or keeps one that says that it was fenced: whatever attempt of it still comes finds that.
//
// What is refused here must be refused to a late attempt, too, for as long as anybody remembers, so the fence asks more than an attempt: it is not
// enough to have seen all that there is (see expired), because a request that has changed no key may have been forgotten at this revision.
func (sh *Shard) applyFence(b *Batch, ordinal uint32, id *storev1.RequestId, c *storev1.Fence, r *storev1.WriteResult) (*storev1.WriteResult, error) {
	request := dedupID{sequence: id.Sequence}
	copy(request.client[:], id.ClientId)
	if answer, err := sh.answered(&request); err != nil || answer != nil {
		return answer, err
	}
	floor, gone := sh.expired(&request, id.Seen)
	switch slot := placement.Slot(c.Slot); {
	case !sh.serves(slot):
		refuse(r, notServed, sh.meta.Revision)
		r.Slot = c.Slot
	case gone, id.Seen < floor, id.Seen > sh.meta.Revision: // The last is no revision of this shard, and no floor would ever stop the attempt.
		refuse(r, expired, sh.meta.Revision)
		r.SessionFloor = floor
	case sh.full(&request, id.AckedBelow):
		refuse(r, sessionFull, sh.meta.Revision)
	case sh.pinsFull(&request):
		refuse(r, fencesFull, sh.meta.Revision)
	default:
		refuse(r, fenced, sh.meta.Revision)
		if planted.Is(planted.NotAppliedUnfenced) {
			return r, nil // R23
		}
		// Attempts may have seen more than the fence says, but nothing that is not there yet.
		below := sh.meta.Revision + 1
		sh.dedup.fence(&request, below, sh.meta.Revision)
		return r, sh.rememberFenced(b, &request, slot, id.AckedBelow, below, ordinal, r)
	}
	return r, nil
}

// A forgotten client is kept out by the session floor, but one that has seen all that there is passes that (see expired): else nobody could write to
// a shard that makes no revision. A fenced attempt must not. So the session of a fence is pinned until the shard has made a revision behind the fence,
// which no attempt before it has seen. Who is pinned follows from stored results and the revision.

func (s *session) pinned(revision uint64) bool {
	return s.fenced > revision && !planted.Is(planted.FenceForgotten) // R23
}

// pin counts the sessions that are pinned, after all results have been added.
func (d *dedupIndex) pin(revision uint64) {
	d.pinned, d.pinnedAt = 0, revision
	for s := d.silent; s != nil; s = s.shorter {
		if s.pinned(revision) {
			d.pinned++
		}
	}
}

// fence notes that a fence is about to be added.
func (d *dedupIndex) fence(id *dedupID, below, revision uint64) {
	if d.pinnedAt != revision {
		d.pinned, d.pinnedAt = 0, revision
	}
	if s := d.sessions[id.client]; below > revision && (s == nil || s.fenced <= revision) {
		d.pinned++
	}
}

// pinsFull says whether a fence would pin one session too many.
func (sh *Shard) pinsFull(id *dedupID) bool {
	d := sh.dedup
	if d.pinnedAt != sh.meta.Revision || d.pinned < min(pinnedMax, sh.store.options.DedupResults/2) {
		return false
	}
	s := d.sessions[id.client]
	return s == nil || s.fenced <= sh.meta.Revision
}

// forgettable returns the session that was silent for the longest of those that are not pinned and not s, nil if there is none.
func (d *dedupIndex) forgettable(s *session, revision uint64) *session {
	for silent := d.silent; silent != nil; silent = silent.shorter {
		if silent != s && !silent.pinned(revision) {
			return silent
		}
	}
	return nil
}
