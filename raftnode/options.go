package raftnode

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.opentelemetry.io/otel/trace"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// Member is a founding node of a cluster.
type Member struct {
	ID placement.NodeID
	// PeerAddress is where its peers reach it, ClientAddress where clients do; both host:port.
	PeerAddress, ClientAddress string
}

// Limits are the bounds on requests. A zero field takes its default.
type Limits struct {
	// ValueBytes bounds a value. Default 1 MiB.
	ValueBytes int
	// CommandBytes bounds the keys and values of one command. Default 4 MiB; at least ValueBytes and a key.
	CommandBytes int
	// CommandOperations bounds the operations of one command. Default 1,000.
	CommandOperations int
	// PageItems and PageBytes bound a page of a range. Defaults 10,000 and 1 MiB; a page holds at least one key.
	PageItems, PageBytes int
}

// KeyBytes bounds a key. It is part of the contract and cannot be changed.
const KeyBytes = 4 << 10

// Options say what a node is. The zero value of a field takes its default.
type Options struct {
	// NodeID is the name of the node, 1 to 64 of a-z A-Z 0-9 - _ . characters. Required.
	NodeID placement.NodeID
	// Dir holds everything that the node keeps. Required.
	Dir string
	// FS is where Dir is. Default: the disk.
	FS vfs.FS
	// Members are the founding nodes, this one included. None: a cluster of this node alone.
	Members []Member
	// PeerListener, if set, is used instead of listening on the peer address of this node.
	PeerListener net.Listener
	// PeerTLS secures the connections between nodes, both ways. Default: none.
	PeerTLS *tls.Config
	// Shards is the number of data shards of a new cluster. Default 1.
	Shards int
	// Replicas is the number of replicas of each shard of a new cluster. Default: one on each node, at most 5.
	Replicas int
	// HeartbeatInterval is the tick of the node, the same on all nodes: a peer that misses several counts as down. Default 100 ms.
	HeartbeatInterval time.Duration
	// ElectionTimeout is how long a follower waits for its leader, at least, up to twice that. Default 1 s.
	ElectionTimeout time.Duration
	// SnapshotEntries triggers a flush of the state, and then truncation of the log, when that many entries are applied and not flushed.
	// Default 50,000.
	SnapshotEntries uint64
	// SnapshotPeriod triggers the same when so much time has passed. Default 5 minutes.
	SnapshotPeriod time.Duration
	// MaxLogEntries is how many applied entries the log keeps for members that lag. Default 10,000.
	MaxLogEntries uint64
	// DiskReserve is the room on the disk that is kept for deletes, reads and recovery: a quarter in a file, the rest free. Default: an eighth of
	// the file system, 32 MiB to 1 GiB.
	DiskReserve uint64
	// MaxLogBytes is the size of all logs above which only what recovery needs is kept. Default 1 GiB, at most the reserve of the disk.
	MaxLogBytes uint64
	// SegmentBytes is the size of a file of the log. Default 64 MiB, at most a sixteenth of the reserve.
	SegmentBytes int64
	// CacheBytes and MemTableBytes size the state engine. Defaults 256 MiB, and 32 MiB or a thirty-second of the reserve; up to four memtables
	// come on top. Those of some members are up to three eighths smaller, so that not all flush at the same moment.
	CacheBytes, MemTableBytes int64
	// OpenFiles is how many tables the state engine keeps open. Default 1,000. Some 200 files come on top.
	OpenFiles int
	// HistoryBytes is how much history a shard keeps; up to a sixteenth more before some of it goes. Default 64 MiB, at most a sixteenth of the reserve.
	HistoryBytes uint64
	// HistoryAge is for how long a shard keeps history, by its own clock, if HistoryBytes do not end it sooner. Default 1 hour.
	HistoryAge time.Duration
	// NoSync leaves fsync out: acknowledged writes can be lost.
	NoSync bool
	// Limits bound requests.
	Limits Limits
	// Logger takes the node's messages. Default: slog.Default().
	Logger *slog.Logger
	// Tracers take the spans of sampled requests. Default: none are made; traces are passed on to other nodes all the same.
	Tracers trace.TracerProvider
	// Observer is told how much the steps of writes take.
	Observer Observer
	// Machine makes the state machine of a shard. Default: the built-in key-value machine.
	Machine func(placement.ShardID) StateMachine
	// Runtime runs the stages. Default: NewRuntime().
	Runtime Runtime
	// NewTransport connects the node with its peers. Default: TCP.
	NewTransport func(TransportOptions) (Transport, error)
	// Seed feeds what must differ from node to node: incarnation, cluster id, jitter. Default: random.
	Seed uint64
}

const (
	workers           = 2
	readers           = 2
	pastReaders       = 1
	pageReaders       = 1        // of pages of the past
	entryBytesMax     = 1 << 20  // commands are gathered into one entry up to this
	entryCommandsMax  = 4096     //
	appendsMax        = 2        // appends with entries in flight per shard: batches size themselves to the disk
	queueRequestsMax  = 32 << 10 // requests waiting per shard
	queueBytesMax     = 64 << 20
	readsMax          = 64 << 10  // reads waiting or running per shard
	forwardsMax       = 64 << 10  // requests passed on and not answered
	requestBytesMax   = 256 << 20 // of all requests that the node has taken and not answered
	answerTicks       = 2         // for the answer to a request that was passed on
	answersBytesMax   = 64 << 20  // answers to other nodes that wait for a connection
	crowdedMax        = 5         // tries to pass a request on to a node for which too much waits
	messagesMax       = 64 << 10  // peer messages waiting for a worker; more are dropped
	messagesBytesMax  = 64 << 20
	messageBytesMax   = 1 << 20  // an append message
	commandBytesMax   = 32 << 20 // Limits.CommandBytes: half of what a frame between nodes holds
	inflightBytesMax  = 16 << 20 // append messages not acknowledged, per member
	uncommittedMax    = 64 << 20
	applyBytesMax     = 16 << 20 // handed to the applier and not applied, per shard
	ringBytes         = 32 << 20
	trimRevisionsMax  = 4096 // revisions that one TrimHistory removes
	fullHistoryShare  = 8    // the part of the history that is kept while a disk is nearly full
	compactionsShare  = 8    // the part of the reserve that compactions leave to the log, to flushes and to snapshots
	snapshotsMax      = 2    // sent at once
	snapshotsWaiting  = 16   // taken in and waiting, per node
	overloadRetry     = 50 * time.Millisecond
	diskFullRetry     = time.Second
	keysFullRetry     = time.Second
	defaultTimeout    = 10 * time.Second
	entryFormat       = 1
	entryVersion      = 1
	nodeIDBytesMax    = 64
	housekeepInterval = 500 * time.Millisecond
	// How often the state is flushed because the logs are too long, at the most.
	tightFlushInterval = 5 * time.Second
)

func (o *Options) setDefaults() {
	setDefault(&o.FS, vfs.Default)
	setDefault(&o.Shards, 1)
	o.Observer.setDefaults()
	setDefault(&o.HeartbeatInterval, 100*time.Millisecond)
	setDefault(&o.ElectionTimeout, time.Second)
	setDefault(&o.SnapshotEntries, 50_000)
	setDefault(&o.SnapshotPeriod, 5*time.Minute)
	setDefault(&o.MaxLogEntries, 10_000)
	setDefault(&o.HistoryAge, time.Hour)
	setDefault(&o.CacheBytes, 256<<20)
	setDefault(&o.Limits.ValueBytes, 1<<20)
	setDefault(&o.Limits.CommandBytes, max(4<<20, o.Limits.ValueBytes+KeyBytes))
	setDefault(&o.Limits.CommandOperations, 1000)
	setDefault(&o.Limits.PageItems, 10_000)
	setDefault(&o.Limits.PageBytes, 1<<20)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if len(o.Members) == 0 {
		o.Members = []Member{{ID: o.NodeID, PeerAddress: "127.0.0.1:0"}}
	}
	setDefault(&o.Replicas, min(len(o.Members), 5))
}

// fit makes the defaults of what takes room on the disk, so that a small reserve holds them, too: what is on its way when a disk becomes full is a few
// segments and memtables.
func (o *Options) fit(reserve uint64) {
	o.DiskReserve = reserve
	if reserve == 0 {
		reserve = reserveBytesMax
	}
	setDefault(&o.MaxLogBytes, min(1<<30, reserve))
	setDefault(&o.SegmentBytes, int64(min(64<<20, max(reserve/16, 64<<10)))) //nolint:gosec // small
	setDefault(&o.MemTableBytes, int64(min(32<<20, max(reserve/32, 1<<20)))) //nolint:gosec // small
	setDefault(&o.HistoryBytes, min(64<<20, reserve/16))
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports everything that is wrong with the options at once. Defaults are taken into account.
func (o Options) Validate() error {
	o.setDefaults()
	var errs []error
	report := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkNodeID(o.NodeID); err != nil {
		errs = append(errs, err)
	}
	if o.Dir == "" {
		report("no data directory")
	}
	seen := make(map[placement.NodeID]bool)
	for _, m := range o.Members {
		if err := checkNodeID(m.ID); err != nil {
			report("member %q: %w", m.ID, err)
		}
		if seen[m.ID] {
			report("member %q is listed twice", m.ID)
		}
		seen[m.ID] = true
		if _, _, err := net.SplitHostPort(m.PeerAddress); err != nil {
			report("member %q: peer address %q is not host:port", m.ID, m.PeerAddress)
		}
	}
	if !seen[o.NodeID] {
		report("node %q is not among the members; list it with its own address too", o.NodeID)
	}
	if o.Shards < 1 || o.Shards > int(placement.SlotCount) {
		report("%d shards; there can be 1 to %d", o.Shards, placement.SlotCount)
	}
	if o.Replicas < 1 || o.Replicas > len(o.Members) {
		report("%d replicas on %d nodes; there can be 1 to the number of nodes", o.Replicas, len(o.Members))
	}
	if o.HeartbeatInterval < time.Millisecond {
		report("heartbeat interval %s is below 1 ms", o.HeartbeatInterval)
	}
	if o.ElectionTimeout < 3*o.HeartbeatInterval {
		report("election timeout %s must be at least three heartbeat intervals (%s)", o.ElectionTimeout, o.HeartbeatInterval)
	}
	if o.HistoryAge < time.Second {
		report("history age %s is below 1 s", o.HistoryAge)
	}
	if o.Limits.CommandBytes > commandBytesMax {
		report("command limit %d is above %d, which is what fits into a message between nodes", o.Limits.CommandBytes, commandBytesMax)
	}
	if o.Limits.CommandBytes < o.Limits.ValueBytes+KeyBytes {
		report("command limit %d is below value limit %d and a key", o.Limits.CommandBytes, o.Limits.ValueBytes)
	}
	return errors.Join(errs...)
}

func checkNodeID(id placement.NodeID) error {
	if id == "" || len(id) > nodeIDBytesMax {
		return fmt.Errorf("node id %q: it has 1 to %d characters", id, nodeIDBytesMax)
	}
	for _, c := range []byte(id) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
		if !ok {
			return fmt.Errorf("node id %q: only letters, digits, '-', '_' and '.' are allowed", id)
		}
	}
	return nil
}

// memTableBytesMin is what the state engine takes.
const memTableBytesMin = 64 << 10

// memTableBytes is the size of the memtables of this node. Replicas apply the same entries at the same time: with memtables of one size all of them would flush and compact at the same moment,
// and no quorum would be quick meanwhile. So up to three eighths less, by the place of the node among the members.
func (o *Options) memTableBytes() int64 {
	place := int64(0)
	for _, m := range o.Members {
		if m.ID < o.NodeID {
			place++
		}
	}
	return max(min(o.MemTableBytes, memTableBytesMin), o.MemTableBytes-o.MemTableBytes/8*(place%4))
}
