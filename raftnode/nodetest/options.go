package nodetest

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/raftkv/raftkv/raftnode"
)

// Options shape a cluster. A zero field takes its default.
type Options struct {
	// Seed decides everything that is left to chance.
	Seed uint64
	// Nodes is how many there are. Default 3.
	Nodes int
	// Shards and Replicas are those of raftnode.Options. Default 1 shard, a replica on each node.
	Shards, Replicas int
	// Heartbeat is the tick of the nodes; an election timeout is ten of it. Default 100 ms.
	Heartbeat time.Duration
	// SnapshotEntries, MaxLogEntries, SegmentBytes and HistoryBytes are those of raftnode.Options, small by default, so
	// that flushes, truncations, snapshots and trims happen within a few hundred writes.
	SnapshotEntries, MaxLogEntries uint64
	SegmentBytes                   int64
	HistoryBytes                   uint64
	// MaxLogBytes is that of raftnode.Options. Default: its default, which is never reached here.
	MaxLogBytes uint64
	// NoSync leaves fsync out, as raftnode.Options does: a simulation must find that.
	NoSync bool
	// Skew lets the clocks of the nodes run up to 5 % too fast or too slow.
	Skew bool
	// Log gets what the nodes have to say, with virtual times. Default: nobody.
	Log slog.Handler
}

func (o *Options) setDefaults() {
	set(&o.Nodes, 3)
	set(&o.Shards, 1)
	set(&o.Replicas, min(o.Nodes, 5))
	set(&o.Heartbeat, 100*time.Millisecond)
	set(&o.SnapshotEntries, 50)
	set(&o.MaxLogEntries, 30)
	set(&o.SegmentBytes, 32<<10)
	set(&o.HistoryBytes, 64<<10)
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// memTableBytes is so large that no memtable fills up: when one is full depends on the heights of Pebble's skip lists, which no seed
// decides. Flushes come by SnapshotEntries instead.
const memTableBytes = 32 << 20

// diskReserve is what nodes keep of their disks: much more than they write while a disk is nearly full, because Pebble cannot meet a disk that is
// full within a bubble. Compactions leave an eighth and a MiB, and a squeeze leaves more than that: what is free beside other writers, no seed decides.
const diskReserve = 4 << 20

// historyAge is so short that history goes by age, too, while faults last.
const historyAge = 15 * time.Second

// election is the election timeout.
func (o Options) election() time.Duration { return 10 * o.Heartbeat }

// String is the line that a run prints.
func (o Options) String() string {
	return fmt.Sprintf("seed=%d nodes=%d shards=%d replicas=%d heartbeat=%s snapshot-entries=%d max-log-entries=%d segment-bytes=%d history-bytes=%d max-log-bytes=%d no-sync=%t skew=%t",
		o.Seed, o.Nodes, o.Shards, o.Replicas, o.Heartbeat, o.SnapshotEntries, o.MaxLogEntries, o.SegmentBytes, o.HistoryBytes, o.MaxLogBytes, o.NoSync, o.Skew)
}

// node are the options of the node of a process.
func (o Options) node(c *Cluster, p *process) raftnode.Options {
	return raftnode.Options{
		NodeID: p.id, Dir: dataDir, FS: p.disk, Members: c.members,
		Shards: o.Shards, Replicas: o.Replicas,
		HeartbeatInterval: o.Heartbeat, ElectionTimeout: o.election(),
		SnapshotEntries: o.SnapshotEntries, SnapshotPeriod: 20 * time.Second, MaxLogEntries: o.MaxLogEntries,
		MaxLogBytes: cmp.Or(o.MaxLogBytes, 1<<30), DiskReserve: diskReserve, SegmentBytes: o.SegmentBytes, CacheBytes: 1 << 20, MemTableBytes: memTableBytes, HistoryBytes: o.HistoryBytes, HistoryAge: historyAge, NoSync: o.NoSync,
		Logger: p.logger(),
		// A node that starts again must not draw what it drew before.
		Seed: c.scheduler.random.Uint64() | 1,
	}
}
