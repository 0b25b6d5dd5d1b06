// Package failpoint names the moments at which a process may end with the most harm, so that tests can end it there, hold it up or make it
// panic (make failpoints).
//
// Under the build tag failpoint, RAFTKV_FAILPOINTS says what happens where:
//
//	RAFTKV_FAILPOINTS="log-after-write=kill@300;apply-before-commit=sleep:50ms;before-reply=panic"
//
// kill ends the process as kill -9 does; @n waits for the n-th time, 1 if it is not there. Without the tag Hit does nothing, and the compiler
// removes it.
package failpoint

// Point names a moment. It is a type, so that a name that nobody knows does not compile.
type Point string

// The moments.
const (
	LogBeforeWrite    Point = "log-before-write"    // an append is ready to be written
	LogAfterWrite     Point = "log-after-write"     // it is written, and not synced
	LogBeforeSync     Point = "log-before-sync"     // as above, without what the writer does in between
	LogAfterSync      Point = "log-after-sync"      // it is durable, and nobody knows
	SegmentNamed      Point = "segment-named"       // a new segment has its name, which is not durable
	HardState         Point = "hard-state"          // a term, a vote or a commit is about to be written
	LogTruncation     Point = "log-truncation"      // a log is about to be cut
	ApplyBeforeCommit Point = "apply-before-commit" // what entries change is ready to be committed
	ApplyAfterCommit  Point = "apply-after-commit"  // it is committed, and nobody knows
	BeforeReply       Point = "before-reply"        // a write is about to be answered
	IdentityWritten   Point = "identity-written"    // a new identity is on the disk, and not yet in the place of the old one
	IdentityNamed     Point = "identity-named"      // it is in its place, which is not durable
	FormationAdopted  Point = "formation-adopted"   // the formation is durable here, and nobody knows
	FirstState        Point = "first-state"         // a new shard has its first state, and no log
	SnapshotSending   Point = "snapshot-sending"    // a snapshot is about to be sent
	SnapshotStaged    Point = "snapshot-staged"     // a snapshot is staged, and not stepped
	SnapshotIntended  Point = "snapshot-intended"   // the intent to ingest it is durable
	SnapshotIngested  Point = "snapshot-ingested"   // it is ingested, and the log is not reset
	SnapshotInstalled Point = "snapshot-installed"  // the log is reset, and nobody knows
	DamageNoted       Point = "damage-noted"        // a quarantine is durable, and what is damaged is where it was
	DamageAside       Point = "damage-aside"        // a damaged store is in the quarantine, and no new one stands in its place
	ReplicaReset      Point = "replica-reset"       // the log of a damaged replica is empty, its state is not
	ReplicaForgotten  Point = "replica-forgotten"   // its state is empty, and its new id not noted
	ReplicaRenewed    Point = "replica-renewed"     // its new id is durable, and it takes no part yet
	QuarantineCleared Point = "quarantine-cleared"  // what is in quarantine is about to be removed
	MembershipChanged Point = "membership-changed"  // a membership is applied, and neither durable nor followed
)

// Points are all of them.
var Points = []Point{
	LogBeforeWrite, LogAfterWrite, LogBeforeSync, LogAfterSync, SegmentNamed, HardState, LogTruncation, ApplyBeforeCommit, ApplyAfterCommit,
	BeforeReply, IdentityWritten, IdentityNamed, FormationAdopted, FirstState, SnapshotSending, SnapshotStaged, SnapshotIntended,
	SnapshotIngested, SnapshotInstalled, DamageNoted, DamageAside, ReplicaReset, ReplicaForgotten, ReplicaRenewed, QuarantineCleared,
	MembershipChanged,
}
