package state

import (
	"fmt"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// scratch holds the messages that Apply encodes, so that the hot path allocates none of them.
type scratch struct {
	dedup   storev1.DedupResult
	summary storev1.SlotSummary
	history storev1.History
	record  record
	value   storev1.Record_Value
	// What stands for a value that is stored by itself.
	separated storev1.Record_Separated
	// One for every change of a command. History refers to them, so they are pointers.
	changes []*storev1.History_Change
	before  []byte // the records that the changes of a command replaced
	// The command under way removes keys that no client deletes.
	expiring bool
	lease    storev1.Lease
	keyed    storev1.KeyedResult
}

// Apply applies the commands of an entry, one result for each. They see what earlier calls left in the batch.
//
// An entry that can not be applied, by this version or by any, is refused before anything of it is: the batch stays good, the replica must
// stop. Any other error is fatal to the store.
func (sh *Shard) Apply(b *Batch, index, term uint64, e *storev1.Entry) ([]*storev1.WriteResult, error) {
	if err := checkEntry(e); err != nil {
		return nil, fmt.Errorf("shard %d, entry %d: %w", sh.id, index, err)
	}
	if err := sh.begin(b, index, term); err != nil {
		return nil, err
	}
	sh.meta.ClockMs = max(sh.meta.ClockMs, e.ClockMs)
	if planted.Is(planted.ClockGoesBack) {
		sh.meta.ClockMs = e.ClockMs // R19
	}
	sh.meta.CommandVersion = max(sh.meta.CommandVersion, e.CommandVersion)
	results := makeResults(e)
	for i, c := range e.Commands {
		r, err := sh.applyCommand(b, uint32(i), c, results[i])
		if err != nil {
			err = fmt.Errorf("shard %d, entry %d, command %d: %w", sh.id, index, i, err)
			sh.store.fatal.fail(err)
			return nil, err
		}
		results[i] = r
	}
	return results, nil
}

// ApplyEmpty passes an entry that says nothing to the state.
func (sh *Shard) ApplyEmpty(b *Batch, index, term uint64) error {
	return sh.begin(b, index, term)
}

// ApplyConfiguration makes c the membership of the shard (R10, R11). The shard keeps c.
func (sh *Shard) ApplyConfiguration(b *Batch, index, term uint64, c *storev1.Configuration) error {
	if err := sh.begin(b, index, term); err != nil {
		return err
	}
	sh.configuration = c
	if planted.Is(planted.ConfigurationNotStored) {
		return nil // R10
	}
	sh.key = appendKey(sh.key[:0], sh.id, sectionConfiguration)
	if _, err := b.set(sh.key, c); err != nil {
		err = fmt.Errorf("state: shard %d, entry %d: configuration: %w", sh.id, index, err)
		sh.store.fatal.fail(err)
		return err
	}
	return nil
}

// begin moves the shard to the next entry, in the batch. A shard without state may begin anywhere.
func (sh *Shard) begin(b *Batch, index, term uint64) error {
	if err := sh.store.fatal.err(); err != nil {
		return err
	}
	switch last := sh.meta.AppliedIndex; {
	case sh.dropped:
		return fmt.Errorf("shard %d: %w", sh.id, ErrDropped)
	case sh.open != nil && sh.open != b:
		return fmt.Errorf("shard %d: %w", sh.id, ErrBatchOpen)
	case index == 0, last != 0 && index != last+1:
		return fmt.Errorf("%w: shard %d has applied %d, entry %d does not follow", ErrOutOfOrder, sh.id, last, index)
	}
	if sh.open == nil {
		if err := b.lookup.close(); err != nil { // What it sees may be older than what another batch has committed of this shard.
			sh.store.fatal.fail(err)
			return err
		}
		sh.open = b
		b.shards = append(b.shards, sh)
	}
	sh.note()
	sh.meta.AppliedIndex, sh.meta.AppliedTerm = index, term
	return nil
}

// makeResults makes the results of an entry and their parts in a few large pieces.
func makeResults(e *storev1.Entry) []*storev1.WriteResult {
	operations := 0
	for _, c := range e.Commands {
		operations += len(c.GetWrite().GetOperations())
	}
	results := make([]*storev1.WriteResult, len(e.Commands))
	slab := make([]storev1.WriteResult, len(e.Commands))
	parts := makeOperationResults(operations)
	for i, c := range e.Commands {
		results[i] = &slab[i]
		n := len(c.GetWrite().GetOperations())
		results[i].Operations, parts = parts[:n:n], parts[n:]
	}
	return results
}

// makeOperationResults makes n results in two pieces.
func makeOperationResults(n int) []*storev1.OperationResult {
	parts, slab := make([]*storev1.OperationResult, n), make([]storev1.OperationResult, n)
	for i := range parts {
		parts[i] = &slab[i]
	}
	return parts
}

// applyCommand fills r, or returns another result: the one that a first attempt got.
func (sh *Shard) applyCommand(b *Batch, ordinal uint32, c *storev1.Command, r *storev1.WriteResult) (*storev1.WriteResult, error) {
	switch body := c.Body.(type) {
	case *storev1.Command_Write:
		return sh.applyWrite(b, ordinal, c, body.Write, r)
	case *storev1.Command_TrimHistory:
		return sh.done(r), sh.trimHistory(b, body.TrimHistory)
	case *storev1.Command_Bootstrap:
		return sh.done(r), sh.bootstrap(b, body.Bootstrap)
	case *storev1.Command_Expire:
		return r, sh.expire(b, body.Expire, r)
	case *storev1.Command_Lease:
		return sh.applyLease(b, ordinal, c.RequestId, body.Lease, r)
	case *storev1.Command_Fence:
		return sh.applyFence(b, ordinal, c.RequestId, body.Fence, r)
	default:
		return nil, fmt.Errorf("%w: %T", ErrInvalidEntry, body)
	}
}

// done is the result of a command that makes no revision.
func (sh *Shard) done(r *storev1.WriteResult) *storev1.WriteResult {
	r.Outcome, r.Revision = storev1.WriteOutcome_WRITE_OUTCOME_APPLIED, sh.meta.Revision
	return r
}

// bootstrap takes the first slot table. A retried one changes nothing.
func (sh *Shard) bootstrap(b *Batch, c *storev1.Bootstrap) error {
	if sh.slotTable != nil {
		return nil
	}
	slots, err := expandSlots(c.Slots)
	if err != nil {
		return err
	}
	sh.key = appendKey(sh.key[:0], sh.id, sectionSlotTable)
	if _, err := b.set(sh.key, c.Slots); err != nil {
		return err
	}
	sh.slotTable, sh.slots = c.Slots, slots
	return nil
}
