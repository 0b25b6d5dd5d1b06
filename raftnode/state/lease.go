package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

func checkLease(c *storev1.LeaseCommand) error {
	if c == nil || c.Id == 0 || c.Id > math.MaxInt64 {
		return fmt.Errorf("%w: a lease command without an id of 63 bits", ErrInvalidEntry)
	}
	switch a := c.Action.(type) {
	case *storev1.LeaseCommand_Grant:
		if a.Grant == nil || a.Grant.TtlMs == 0 || a.Grant.TtlMs > TTLMillisMax {
			return fmt.Errorf("%w: a lease lives for 1 to %d ms", ErrInvalidEntry, uint64(TTLMillisMax))
		}
	case *storev1.LeaseCommand_KeepAlive:
	case *storev1.LeaseCommand_Revoke:
		if a.Revoke == nil || a.Revoke.MaxKeys == 0 {
			return fmt.Errorf("%w: a revoke without a bound", ErrInvalidEntry)
		}
	default:
		return fmt.Errorf("%w: a lease command of no kind that this version knows", ErrInvalidEntry)
	}
	return nil
}

// applyLease executes a lease command; the order of its checks is that of applyWrite. It makes a revision only if it removes keys.
func (sh *Shard) applyLease(
	b *Batch, ordinal uint32, id *storev1.RequestId, c *storev1.LeaseCommand, r *storev1.WriteResult,
) (*storev1.WriteResult, error) {
	var request dedupID
	home := placement.SlotOfLease(c.Id)
	if id != nil {
		copy(request.client[:], id.ClientId)
		request.sequence = id.Sequence
		if answer, err := sh.asked(&request, id, r); err != nil || answer != nil {
			return answer, err
		}
	}
	if !sh.serves(home) {
		refuse(r, notServed, sh.meta.Revision)
		r.Slot = uint32(home)
		return r, nil
	}
	if err := sh.changeLease(b, c, r); err != nil {
		return nil, err
	}
	r.LeaseId = c.Id
	if id != nil {
		if err := sh.remember(b, &request, home, id.AckedBelow, ordinal, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (sh *Shard) changeLease(b *Batch, c *storev1.LeaseCommand, r *storev1.WriteResult) error {
	lease, err := sh.lease(c.Id)
	if err != nil {
		return err
	}
	sh.done(r)
	grant := c.GetGrant()
	switch {
	case grant != nil && lease != nil:
		// One that has ended is there as long as keys hang on it.
		r.Outcome = storev1.WriteOutcome_WRITE_OUTCOME_LEASE_EXISTS
		return nil
	case grant == nil && (lease == nil || lease.Ended):
		r.Outcome = noLease
		return nil
	}
	if revoke := c.GetRevoke(); revoke != nil {
		return sh.revoke(b, c.Id, lease, int(revoke.MaxKeys), r)
	}
	next := &sh.scratch.lease
	next.TtlMs, next.Ended = grant.GetTtlMs(), false
	if lease != nil {
		next.TtlMs = lease.TtlMs
	}
	next.DeadlineMs = sh.deadline(next.TtlMs)
	r.LeaseTtlMs = next.TtlMs
	return sh.putLease(b, c.Id, lease, next)
}

// revoke ends a lease with as many of its keys as it may remove. The others are due at once.
func (sh *Shard) revoke(b *Batch, id uint64, lease *storev1.Lease, most int, r *storev1.WriteResult) error {
	x := &removal{room: most}
	all, err := sh.takeLeased(x, id)
	if err == nil {
		err = sh.endLease(b, id, lease, max(1, sh.meta.ClockMs), all)
	}
	if err != nil {
		return err
	}
	return sh.remove(b, x, r)
}

// endLease removes a lease whose keys are all about to go, and marks one that still has some.
func (sh *Shard) endLease(b *Batch, id uint64, lease *storev1.Lease, deadline uint64, all bool) error {
	if all {
		return sh.putLease(b, id, lease, nil)
	}
	next := &sh.scratch.lease
	next.TtlMs, next.DeadlineMs, next.Ended = lease.TtlMs, deadline, true
	return sh.putLease(b, id, lease, next)
}

// endLeases ends the leases whose time has passed, as far as there is room for them and their keys.
func (sh *Shard) endLeases(b *Batch, x *removal) error {
	start, end := sh.dueSpan(sectionLeaseDue)
	due, err := sh.indexed(start, end, x.room+1, func([]byte) bool { return true })
	if err != nil {
		return err
	}
	for _, key := range due {
		if x.room == 0 {
			x.more = true
			return nil
		}
		x.room--
		deadline, id, err := parseLeaseDue([]byte(key[sectionLen:]))
		if err != nil {
			return err
		}
		lease, err := sh.lease(id)
		if err != nil {
			return err
		}
		if lease == nil {
			return sh.damage(errIndex)
		}
		all, err := sh.takeLeased(x, id)
		if err == nil {
			err = sh.endLease(b, id, lease, deadline, all)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// missingLease returns the first lease of an operation that is at home here and does not live; 0 if there is none. Those of other shards have been
// looked for by who has proposed the write: what ends in between takes its keys along soon after.
func (sh *Shard) missingLease(ops []*storev1.Operation) (uint64, error) {
	last := uint64(0)
	for _, op := range ops {
		if op.LeaseEnded {
			return op.Lease, nil
		}
		if op.Lease == 0 || op.Lease == last || !sh.serves(placement.SlotOfLease(op.Lease)) {
			continue
		}
		lease, err := sh.lease(op.Lease)
		if err != nil {
			return 0, err
		}
		if lease == nil || lease.Ended {
			return op.Lease, nil
		}
		last = op.Lease
	}
	return 0, nil
}

// lease returns a lease as the open batch leaves it, nil if there is none.
func (sh *Shard) lease(id uint64) (*storev1.Lease, error) {
	stored, closer, err := sh.storedLease(id)
	if err != nil || stored == nil {
		return nil, err
	}
	defer closer.Close()
	l, err := readLease(stored)
	if err != nil {
		return nil, sh.damage(err)
	}
	return l, nil
}

func readLease(stored []byte) (*storev1.Lease, error) {
	l := new(storev1.Lease)
	if err := decode(l, stored, "lease"); err != nil {
		return nil, err
	}
	if l.TtlMs == 0 || l.DeadlineMs == 0 {
		return nil, errors.New("lease without a time to live or a deadline")
	}
	return l, nil
}

// storedLease leaves the key of a lease in sh.key.
func (sh *Shard) storedLease(id uint64) ([]byte, io.Closer, error) {
	sh.key = appendLeaseKey(sh.key[:0], sh.id, id)
	if stored, ok := sh.overlay.leases[id]; ok {
		return stored, noCloser{}, nil
	}
	return sh.read()
}

// putLease replaces a lease by another; nil is none.
func (sh *Shard) putLease(b *Batch, id uint64, old, next *storev1.Lease) error {
	digest := &sh.touch(placement.SlotOfLease(id)).digest
	if old != nil {
		stored, closer, err := sh.storedLease(id)
		if err != nil {
			return err
		}
		digest.remove(hashLease(id, stored))
		if err := closer.Close(); err != nil {
			return fmt.Errorf("state: shard %d: read lease: %w", sh.id, err)
		}
		sh.meta.Leases--
		sh.key = appendLeaseDueKey(sh.key[:0], sh.id, old.DeadlineMs, id)
		if err := sh.unmark(b); err != nil {
			return err
		}
	}
	if next == nil {
		sh.overlay.leases[id] = nil
		return b.delete(appendLeaseKey(sh.key[:0], sh.id, id))
	}
	sh.meta.Leases++
	sh.key = appendLeaseDueKey(sh.key[:0], sh.id, next.DeadlineMs, id)
	if err := sh.mark(b); err != nil {
		return err
	}
	sh.key = appendLeaseKey(sh.key[:0], sh.id, id)
	stored, err := b.set(sh.key, next)
	if err != nil {
		return err
	}
	sh.overlay.leases[id] = stored
	digest.add(hashLease(id, stored))
	return nil
}

// hashLease is hashRecord for a lease: it counts in the digest of its slot (R25) under a name that is no key.
func hashLease(id uint64, stored []byte) Digest {
	return hashRecord(string(binary.BigEndian.AppendUint64([]byte{0xff}, id)), stored)
}
