package logstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/raftkv/raftkv/raftnode/placement"
)

var (
	// ErrFailed is what Append returns from its first error on; the error wraps the cause. Nothing that was not acknowledged by
	// then may be (R6). Restart the node: recovery finds what is on disk.
	ErrFailed = errors.New("the raft log has failed and takes no more writes; restart the node once the disk is sound")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the raft log is closed")
	// ErrVersion is returned by Open for a log that another version of raftkv wrote.
	ErrVersion = errors.New("unknown format version of the raft log")
	// errInvalid is an update that does not fit the log it is for: the caller has lost track of it.
	errInvalid = errors.New("invalid update of the raft log")
)

// CorruptionError says that bytes which were on disk once are not what they were. It is never returned for the end of the last
// write before a crash, which nobody was told of.
type CorruptionError struct {
	// Path and Offset say where.
	Path   string
	Offset int64
	// Shards are those whose logs are affected. Empty: it cannot be known.
	Shards []placement.ShardID
	// Reason says what is wrong.
	Reason string
}

func (e *CorruptionError) Error() string {
	whose, remedy := "which shards are affected cannot be known", "let all replicas of the node be rebuilt from the others"
	if len(e.Shards) > 0 {
		ids := make([]string, len(e.Shards))
		for i, s := range e.Shards {
			ids[i] = fmt.Sprint(s)
		}
		whose, remedy = "shard "+strings.Join(ids, ", "), "let the replica be rebuilt from the others"
	}
	return fmt.Sprintf("raft log is damaged: %s at offset %d: %s (%s; check the disk and %s)", e.Path, e.Offset, e.Reason, whose, remedy)
}
