package raftnode

import (
	"fmt"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// CompactedError says that history was asked for that is forgotten.
type CompactedError struct {
	Shard placement.ShardID
	// Oldest is the first revision that is kept.
	Oldest uint64
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("the history of shard %d begins at revision %d, what is before is forgotten; read the keys anew and go on from there", e.Shard, e.Oldest)
}

// FutureRevisionError says that a revision was asked for that its shard has not come to.
type FutureRevisionError struct {
	Shard placement.ShardID
	// Revision was asked for, Current is that of the shard.
	Revision, Current uint64
}

func (e *FutureRevisionError) Error() string {
	return fmt.Sprintf("shard %d is at revision %d and has not come to %d; ask for %d or less, or for none to begin now", e.Shard, e.Current, e.Revision, e.Current+1)
}

// CutOffError says that a replica has not heard of a majority of its shard for so long that it cannot tell whether its watches miss something.
type CutOffError struct {
	Shard placement.ShardID
	// For is how long.
	For time.Duration
}

func (e *CutOffError) Error() string {
	return fmt.Sprintf("this node has not reached a majority of shard %d for %s, so its watches end; go on at another node with the last token", e.Shard, e.For.Round(time.Millisecond))
}
