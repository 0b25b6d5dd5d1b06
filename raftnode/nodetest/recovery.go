package nodetest

import (
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// recovery measures how long shards take no writes after a fault: from the fault to the first acknowledgement of a write that was begun after
// it. That includes the time until a client begins one.
type recovery struct {
	// struck are the faults after which a shard has not taken a write yet.
	struck map[placement.ShardID][]time.Duration
	took   []time.Duration
}

func newRecovery() *recovery { return &recovery{struck: make(map[placement.ShardID][]time.Duration)} }

// fault notes a fault, for all data shards.
func (r *recovery) fault(now time.Duration, shards int) {
	for shard := range placement.ShardID(shards) {
		r.struck[shard+1] = append(r.struck[shard+1], now)
	}
}

// wrote notes an acknowledged write.
func (r *recovery) wrote(op *Operation) {
	rest := r.struck[op.Shard][:0]
	for _, at := range r.struck[op.Shard] {
		if at <= op.Call {
			r.took = append(r.took, op.Return-at)
		} else {
			rest = append(rest, at)
		}
	}
	r.struck[op.Shard] = rest
}
