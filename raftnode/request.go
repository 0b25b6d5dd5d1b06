package raftnode

import (
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Request is one operation on one shard. Exactly one of Command and Read is set. A node owns a request from Submit until
// it calls Done.
type Request struct {
	// Command is a write.
	Command *storev1.Command
	// Read reads keys of one shard.
	Read *peerv1.ReadRequest
	// Shard is where the request goes; AutoShard finds it by the keys.
	Shard placement.ShardID
	// AutoShard routes by the keys of the request, and refuses keys of several shards.
	AutoShard bool
	// Deadline is when the requester stops waiting. A node answers a tick or two later at the most, OutcomeUnknown if it must; one whose disk
	// hangs may answer when it is closed.
	Deadline time.Time
	// Trace is the span of the caller, if that is sampled; else nil. Only then the node makes spans of the request (Options.Tracers).
	Trace *storev1.TraceContext
	// Timed asks for Result.Timing.
	Timed bool
	// After says what is read of the shard when the write is done; nil, or an answer of nothing: nothing is. What is found becomes Result.Read,
	// beside Result.Write.
	After func(*storev1.WriteResult) []*peerv1.PastRead
	// Done is called exactly once, from a goroutine of the node that must not be held up: it may neither block nor call the node.
	Done func(Result)

	// node has After done; nil without it.
	node *Node
	// bytes is the size of the command or of the read, for the bounds of queues and the budget.
	bytes int
	// budget is where the request counts; nil if it does not.
	budget *budget
	// crowded counts how often too much waited for the node that the request was to be passed on to.
	crowded uint64
	// forwarded says that another node has passed the request on: it is executed here or answered NotLeader.
	forwarded bool
	// transferTo makes the request one to hand the lead to another node; it exists between nodes only.
	transferTo placement.NodeID
	// replace makes the request one to replace the replica of this node; between nodes only, too.
	replace *peerv1.ReplaceReplica
	// journey is where the time of the request goes, if anybody wants to know; nil for nearly all.
	journey *journey
}

// done answers the request.
func (r *Request) done(res Result) {
	if r.journey != nil {
		res.Timing = r.journey.end(r, &res)
	}
	if r.node != nil && res.Err == nil && res.Write != nil {
		if past := r.After(res.Write); len(past) > 0 {
			r.node.readAfter(r, res, past)
			return
		}
	}
	r.answer(res)
}

// answer gives up the room that the request has had in the budget: while it has some, a node that is leaving stays for it.
func (r *Request) answer(res Result) {
	if r.journey != nil {
		r.journey.timing.Answered = r.journey.n.runtime.Now() // behind what it has read, too
	}
	r.release()
	r.Done(res)
}

// fail answers it with an error.
func (r *Request) fail(err error) { r.done(Result{Shard: r.Shard, Err: err}) }

// Result is the answer to a Request.
type Result struct {
	// Shard executed the request, or would have.
	Shard placement.ShardID
	// Origin is the state from which the answer comes; nil if there is an error.
	Origin *peerv1.Origin
	// Write is the answer to a write whose outcome is APPLIED or COMPARE_FAILED; other outcomes come as an error.
	Write *storev1.WriteResult
	// Read is the answer to a read.
	Read *peerv1.ReadResult
	// Opaque is the answer of a caller's own state machine to a command of its own.
	Opaque []byte
	// Timing says where the time went, if the request was Timed or has a Trace.
	Timing *Timing
	// replaced is the answer to Request.replace.
	replaced *peerv1.ReplacedReplica
	// Err is one of the errors of this package. All but *UnknownOutcomeError mean that nothing was applied.
	Err error
}

// Page is one page of a range over all shards.
type Page struct {
	// Records are in the order of the range.
	Records []*peerv1.KeyRecord
	// More says that the range goes on behind the key Behind: the last record's, but for a page at a revision, which may have looked further.
	More   bool
	Behind string
	// Origin is the state read, if one shard gave the whole page; else only its node is set, and the age of the oldest part.
	Origin *peerv1.Origin
	// Shard is that shard; 0 if several took part.
	Shard placement.ShardID
	// Parts are the states that the page shows, by ascending shard.
	Parts []PagePart
}

// PagePart is what one shard has put on a page.
type PagePart struct {
	Shard placement.ShardID
	// Origin is the state read.
	Origin *peerv1.Origin
}

// Status describes a node.
type Status struct {
	// ClusterID has 32 hexadecimal digits; empty while the cluster forms.
	ClusterID string
	NodeID    placement.NodeID
	// NotReady says what the node still lacks; empty when it is ready.
	NotReady []string
	// Uptime is how long the node has been open.
	Uptime time.Duration
	// LogBytes and StateBytes are on disk.
	LogBytes, StateBytes uint64
	// DiskFree is what is free on the disk, DiskReserve what is kept of it; DiskFull says that the shards of the node take no puts because the one
	// has fallen into the other.
	DiskFree, DiskReserve uint64
	DiskFull              bool
	// SyncWrite is false when the node does not fsync.
	SyncWrite bool
	Shards    []ShardStatus
}

// ShardStatus describes a shard as a node knows it.
type ShardStatus struct {
	ID       placement.ShardID
	Slots    *storev1.SlotTable
	Replicas []ReplicaStatus
	// Leader is empty during an election.
	Leader placement.NodeID
	// Local says that the node holds a replica of the shard; the fields below are zero if it does not.
	Local                    bool
	Term, Commit             uint64
	Applied, Durable         uint64
	FirstLogIndex, LastIndex uint64
	Revision                 uint64
	// Keys are those that exist, Sessions the clients that the shard remembers, Results the answers that it keeps for their retries, HistoryBytes what
	// its history takes.
	Keys, Sessions, Results, HistoryBytes uint64
	// WaitingWrites and WaitingReads are requests that are not proposed or not answered yet.
	WaitingWrites, WaitingReads int
}

// ReplicaStatus describes a member of a shard.
type ReplicaStatus struct {
	ID     uint64
	NodeID placement.NodeID
	// Leader, Learner: neither is a follower.
	Leader, Learner bool
	// Match is known to the leader only.
	Match uint64
}

// NodeStatus describes a node of the cluster as another knows it.
type NodeStatus struct {
	ID                         placement.NodeID
	PeerAddress, ClientAddress string
	Reachable                  bool
	Shards, Leads              []placement.ShardID
}

// Location says where a key lives.
type Location struct {
	RoutingPart string
	Slot        placement.Slot
	Shard       placement.ShardID
	Leader      placement.NodeID
}
