package raftnode

import (
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// engine is what committed entries of all shards of a node are applied to: the key-value state (kvEngine) or an embedding
// program's own state machines (ownEngine). Methods that change state are called by the applier, or by the installer while the
// applier holds nothing of the shard.
type engine interface {
	// open makes a shard ready, as far as it is durable, and returns its position; index 0 if there is none.
	open(shard placement.ShardID) (position, error)
	// bootstrap gives a new shard its first membership and slots, as if an entry at index and term 1 had done so. Durable on return.
	bootstrap(shard placement.ShardID, c *storev1.Configuration, slots *storev1.SlotTable) error
	// apply applies and commits all jobs, in order, and fills their results.
	apply(jobs []*applyJob) error
	// position returns where the shard stands, configuration its membership there. Safe at any time.
	position(shard placement.ShardID) position
	configuration(shard placement.ShardID) *storev1.Configuration
	// kept returns what is counted of what a shard keeps for a time. Safe at any time.
	kept(shard placement.ShardID) ShardMetrics
	// durable returns the highest applied index that a crash leaves.
	durable(shard placement.ShardID) (uint64, error)
	// flush starts to make everything applied durable; flushed is called when durable indexes may have risen.
	flush() error
	// view opens one consistent state of all shards for reading.
	view() engineView
	// pressure names a bound of the engine that is passed, so that writes are refused before they stall (nil: none).
	pressure() *OverloadedError
	// image opens an image of a shard; stage checks one and makes it durable in dir; ingest takes it over from there.
	image(shard placement.ShardID) (engineImage, error)
	stage(dir string, r io.Reader) (*storev1.SnapshotHeader, error)
	ingest(shard placement.ShardID, dir string) error
	// forget removes what is stored of a shard, durably; open makes a new one. Whoever calls it has a tombstone for the replica (R14).
	forget(shard placement.ShardID) error
	// metrics are figures of the state, of which a program's own machine knows the bytes alone. They may wait for the disk.
	metrics() state.Metrics
	close() error
}

// engineImage is an image of a shard that is ready to be sent.
type engineImage interface {
	// header says what the image holds.
	header() *storev1.SnapshotHeader
	// write writes it.
	write(w io.Writer) error
	// close lets it go.
	close() error
}

// engineView is a consistent state. It is short-lived.
type engineView interface {
	// read executes a read of a shard.
	read(shard placement.ShardID, r *peerv1.ReadRequest) (*peerv1.ReadResult, position, error)
	close() error
}

// position is where the state of a shard stands.
type position struct {
	index, term, revision uint64
	clockMs               uint64
	historyBytes          uint64
	historyFloor          uint64
	// deadlineMs is the first clock at which something is due, 0 if nothing ever is; leasedKeys are the keys that hang on a lease. Views have neither.
	deadlineMs, leasedKeys uint64
	// keys are those that exist, sessions the clients that are remembered, results the answers kept for their retries. Views have none of them.
	keys, sessions, results uint64
}

// applyJob is a run of committed entries of one shard on its way through the applier.
type applyJob struct {
	member  *member
	shard   placement.ShardID
	entries []*raftpb.Entry
	// results are the answers to the commands of each entry; entries without commands have none.
	results [][]commandResult
	// writers are the sampled commands of the entries, which nothing of the state depends on; nil if there are none.
	writers []writers
	// after is the position behind the last entry, checkpoint the newest checkpoint there.
	after      position
	checkpoint state.Checkpoint
	// configuration is the membership there, if the entries have changed it.
	configuration *storev1.Configuration
	// began is when the applier got it.
	began time.Time
	// done tells the worker.
	done func()
}

// commandResult is the answer to one command: of the key-value machine or of a program's own.
type commandResult struct {
	write  *storev1.WriteResult
	opaque []byte
}
