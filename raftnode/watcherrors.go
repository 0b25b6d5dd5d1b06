package raftnode

import (
	"fmt"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// CutOffError says that a replica has not heard of a majority of its shard for so long that it cannot tell whether its watches miss something.
type CutOffError struct {
	Shard placement.ShardID
	// For is how long.
	For time.Duration
}

func (e *CutOffError) Error() string {
	return fmt.Sprintf("this node has not reached a majority of shard %d for %s, so its watches end; go on at another node with the last token", e.Shard, e.For.Round(time.Millisecond))
}
