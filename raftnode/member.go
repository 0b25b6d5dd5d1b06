package raftnode

import (
	"sync"
	"sync/atomic"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
)

// member is a replica of a shard on this node and everything that its worker knows of it. Only the worker touches it, except for the
// fields that say otherwise.
type member struct {
	shard   placement.ShardID
	worker  *worker
	replica *replica.Replica
	// configuration is the membership of the shard as applied (R11), byNode who is in it. newcomers are replicas that are not in it yet and were
	// heard of: the lead may be theirs.
	configuration *storev1.Configuration
	byNode        map[placement.NodeID]uint64
	newcomers     map[placement.NodeID]*storev1.Replica
	// changeIndex is where this leader has proposed its last change of the membership.
	changeIndex uint64

	// dirty says that the member waits in its worker's list.
	dirty bool
	// applied is the index that the applier has reached, as far as the worker was told.
	applied uint64

	// writes wait to be proposed, or passed on, or for a leader.
	writes      []*Request
	writesBytes int
	// refused says that raft took no entry of them: the lead is being handed over, or too much is uncommitted. Trying again costs an
	// encoded entry, so it waits until something is applied, the role changes, or time passes.
	refused bool
	// clock is the base of the shard clock while this member leads (R19).
	clock shardClock
	// expiry is what the leader does about deadlines.
	expiry expiry
	// appends in order; the first inFlight of them are with the log writer. An install holds back those behind it.
	appends    []*replica.Append
	inFlight   int
	installing bool

	// reads wait for the next round to start, rounds for their answers (oldest first; the last may be given up, too), confirmed for the applier.
	reads     []*Request
	rounds    []readRound
	confirmed []confirmedReads
	// confirmedCount is the number of requests in confirmed.
	confirmedCount int

	// staged are the directories of snapshots that are taken in and not installed yet, by index.
	staged map[uint64]string
	// campaignAt is when to campaign because the leader's node is gone, zero if not; campaigns is how often.
	campaignAt time.Time
	campaigns  int
	// transfers wait for another node to lead; one at the most.
	transfers []*transfer
	// yielding counts the ticks since this leader was to give up the lead because its disk stalls.
	yielding int

	// courses are those of the entries that this leader has proposed and that are not committed and durable here yet, by index; only entries of which somebody
	// wants to know have one. tracedAppends are the appends of a follower with sampled writes, in their order.
	courses       []*course
	tracedAppends []tracedAppend

	// proposed are the requests whose entries are in the log. It has a lock of its own.
	proposed proposals
	// caughtUp says that the member has applied what a leader had committed after the node was opened, and askedLead that it is finding out;
	// any goroutine may change them.
	caughtUp, askedLead atomic.Bool
	// writers are the sampled writes that were applied last. It has a lock of its own.
	writers lastWriters
	// agreement compares the state with those of the other replicas. It has a lock of its own.
	agreement agreement
	// trimming says that a TrimHistory is under way; any goroutine may change it.
	trimming atomic.Bool
	// fresh says how old the state is.
	fresh freshness
	// reading counts reads that are with the readers; any goroutine may change it.
	reading atomic.Int64
	// clockMs is what clock said last, for any goroutine to load; only of a leader it means anything.
	clockMs atomic.Uint64
	// homes is what the leader asks of leases in other shards. The housekeeper's, with what it says.
	homes homes
	// membership is configuration for any goroutine to load.
	membership atomic.Pointer[storev1.Configuration]
	// lead is the leader as last seen; any goroutine may load it.
	lead atomic.Pointer[leadership]
}

// leadership is who leads a shard.
type leadership struct {
	node    placement.NodeID // empty during an election
	id      uint64           // 0 during an election
	term    uint64
	local   bool // this node leads
	applied bool // and has applied an entry of its term
}

// confirmedReads are reads that may be served once the applier has reached index.
type confirmedReads struct {
	index    uint64
	began    time.Duration // when their round began
	requests []*Request
}

// transfer is a wish to see another node lead.
type transfer struct {
	to       placement.NodeID
	deadline time.Time // when raft has given it up
	done     func(term uint64, err error)
}

// proposals are the requests whose entries stand in the log, ordered by index. An entry that is applied under the term of its proposal
// answers its requests; one that is applied under another term proves that the proposal never will be.
type proposals struct {
	// mu guards entries. It is a leaf.
	mu      sync.Mutex
	entries []proposal
}

type proposal struct {
	index, term uint64
	requests    []*Request
	course      *course   // nil if nobody wants to know
	began       time.Time // zero once its commit was observed
}

func (p *proposals) add(one proposal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries = append(p.entries, one)
}

// take removes and returns the proposals at and below index. Several may stand at one index, of different terms.
func (p *proposals) take(index uint64) []proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out, rest []proposal
	for _, e := range p.entries {
		if e.index <= index {
			out = append(out, e)
		} else {
			rest = append(rest, e)
		}
	}
	p.entries = rest
	return out
}

// expire removes the requests that have been waiting beyond their deadline, and returns them: whether they will be applied is not known.
func (p *proposals) expire(now time.Time) []*Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*Request
	for i := range p.entries {
		e := &p.entries[i]
		for j, r := range e.requests {
			// Positions in the entry must stay, so an expired request leaves a nil behind.
			if r != nil && r.Deadline.Before(now) {
				out = append(out, r)
				e.requests[j] = nil
			}
		}
	}
	return out
}
