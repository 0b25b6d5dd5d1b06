package replica

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"

	"github.com/raftkv/raftkv/raftnode/planted"
)

const readContextBytes = 16

// reads runs ReadIndex rounds, one at a time (Raft thesis 6.4): a read that arrives while a round is under way belongs to the next one,
// because the index of a round is fixed when it starts. A round that takes too long is given up and another is started, but an answer to it
// still counts: it is an index that was committed after the round started.
type reads struct {
	// epoch and sequence make the context of a round; never used again, across restarts included (R16).
	epoch    uint64
	sequence uint64
	// answered is the newest round that was confirmed.
	answered uint64
	// outstanding says that the round of the current sequence is waited for.
	outstanding bool
	// age counts ticks since the round started.
	age int
	// startTerm is the term and lead under which the round was sent.
	term, lead uint64
}

// StartRead begins a ReadIndex round and returns its number, or false if one is under way or no leader is known. The round comes back
// in Output.Reads, or never: AbandonRead gives it up, and then it is time for another.
func (r *Replica) StartRead() (round uint64, ok bool) {
	if r.reads.outstanding || r.lead == raft.None {
		return 0, false
	}
	if r.Leads() && r.commit < r.leadFrom && !planted.Is(planted.ReadOfAnEarlierCommit) { // R16
		// Raft thesis 6.4: a leader knows what is committed only once it has committed an entry of its own term. Raft checks that
		// too, except for the only voter, which it answers at once, from a commit index that may have been lost in a crash.
		return 0, false
	}
	r.reads.sequence++
	r.reads.outstanding, r.reads.age = true, 0
	r.reads.term, r.reads.lead = r.term, r.lead
	r.guard(func() error { r.node.ReadIndex(r.readContext(r.reads.sequence)); return nil }) //nolint:errcheck // Ready has it
	return r.reads.sequence, true
}

// readRetryTicks bounds how long a round is waited for: raft forgets rounds when the term changes and messages get lost.
const readRetryTicks = 5

// AbandonRead gives the round up that is under way if it can no longer be answered or has taken too long, and says whether it did. Its
// reads are confirmed by the next round, or by its own answer if that comes first.
func (r *Replica) AbandonRead() bool {
	if !r.reads.outstanding {
		return false
	}
	if r.reads.term == r.term && r.reads.lead == r.lead && r.reads.age < readRetryTicks {
		return false
	}
	r.reads.outstanding = false
	return true
}

func (r *Replica) readContext(sequence uint64) []byte {
	c := make([]byte, readContextBytes)
	binary.BigEndian.PutUint64(c, r.reads.epoch)
	binary.BigEndian.PutUint64(c[8:], sequence)
	return c
}

// confirmed returns the round that a ReadState answers, or false if it is of another life or a later one has been answered.
func (r *Replica) confirmed(rs raft.ReadState) (uint64, bool) {
	if len(rs.RequestCtx) != readContextBytes || binary.BigEndian.Uint64(rs.RequestCtx) != r.reads.epoch {
		return 0, false
	}
	sequence := binary.BigEndian.Uint64(rs.RequestCtx[8:])
	if sequence <= r.reads.answered || sequence > r.reads.sequence {
		return 0, false
	}
	r.reads.answered = sequence
	if sequence == r.reads.sequence {
		r.reads.outstanding = false
	}
	return sequence, true
}
