package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftkv/raftkv/raftnode/placement"
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("state: the store is closed")
	// ErrFatal wraps the first error after which nothing may be acknowledged (R6). The process has to end.
	ErrFatal = errors.New("state: the store has failed and takes nothing more; end the process and look at the disk")
	// ErrDropped is returned by a shard after Drop.
	ErrDropped = errors.New("state: the shard was dropped")
	// ErrInvalidEntry means that an entry holds what no proposer may propose; nothing of it was applied. CheckCommand finds it before.
	ErrInvalidEntry = errors.New("state: invalid entry")
	// ErrOutOfOrder means that an entry does not follow the last one applied.
	ErrOutOfOrder = errors.New("state: entry out of order")
	// ErrBatchOpen means that a shard has changes in a batch that is not committed.
	ErrBatchOpen = errors.New("state: the shard has changes in another batch that is not committed")
	// ErrReplaced means that the image of the shard was replaced after the view was opened. Open another view.
	ErrReplaced = errors.New("state: the image of the shard was replaced since the view was opened; open another view")
	// ErrBadSnapshot means that a snapshot stream is damaged, cut off or not a snapshot. Nothing was changed; ask for another.
	ErrBadSnapshot = errors.New("state: bad snapshot")
	// ErrDamaged means that the store is damaged as a whole. Its replicas must be rebuilt.
	ErrDamaged = errors.New("state: the store is damaged")
	// ErrReference means that a record keeps its value in the log, which this version cannot read.
	ErrReference = errors.New("state: the value stands in the log, which this version cannot read; run the version that wrote it")
)

// VersionError means that an entry or a shard needs a newer state machine (R21). The replica stops and serves again after an upgrade.
type VersionError struct {
	Need, Have uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("state: version %d of the state machine is needed, this is version %d; upgrade raftkv on this node", e.Need, e.Have)
}

// FormatError means that a stored or sent format is not known to this version.
type FormatError struct {
	What  string
	Found []byte
	Want  byte
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("state: %s has format %x, this version knows %d only; run the version of raftkv that wrote it, or a newer one", e.What, e.Found, e.Want)
}

// CorruptionError means that stored bytes are not what was written. The replica must be rebuilt.
type CorruptionError struct {
	Shard placement.ShardID
	Key   []byte
	Err   error
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("state: shard %d: damage at key %x: %v; rebuild the replica", e.Shard, e.Key, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }

// CompactedError means that history, or the state at a revision, was asked for that is forgotten. Floor is the oldest that can be had.
type CompactedError struct {
	Revision, Floor uint64
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("state: revision %d is compacted; ask for revision %d or a later one", e.Revision, e.Floor)
}

// FutureRevisionError means that a revision was asked for that the shard has not reached.
type FutureRevisionError struct {
	Revision, Current uint64
}

func (e *FutureRevisionError) Error() string {
	return fmt.Sprintf("state: revision %d is not reached, the shard is at %d", e.Revision, e.Current)
}

// DamageOf says whether an error tells that what is stored is damaged, and of which shard, if that is known.
func DamageOf(err error) (shard placement.ShardID, known, damaged bool) {
	var c *CorruptionError
	switch {
	case errors.As(err, &c):
		return c.Shard, true, true
	case errors.Is(err, ErrDamaged), pebble.IsCorruptionError(err):
		return 0, false, true
	default:
		return 0, false, false
	}
}
