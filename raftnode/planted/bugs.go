// Package planted holds the names of bugs that stand in the code on purpose, one for each rule that the code must obey, to prove that the
// tests would find them (make mutants).
//
// Under the build tag planted, Is compares with RAFTKV_BUG, so that one binary holds every bug and shows one at a time. Without the tag Is is
// a constant: the compiler removes the bugs, and nothing of them is in a release.
package planted

// Bug names a planted bug. It is a type, so that a name that nobody knows does not compile.
type Bug string

// The bugs. Each is a line or a few where its rule is kept; the comment says what goes wrong.
const (
	// logstore

	LogNotSynced         Bug = "log-not-synced"          // R3: an append is reported durable that was only written
	SyncRetried          Bug = "sync-retried"            // R6: a failed fsync is tried again, and the second one succeeds
	SegmentNameNotSynced Bug = "segment-name-not-synced" // R7: a segment is in use before its name is durable
	DamageCutAsTail      Bug = "damage-cut-as-tail"      // R15: damage before the last synced batch is taken for a torn write
	TornTailKept         Bug = "torn-tail-kept"          // R15: a torn batch is replayed instead of cut
	TailNotRewritten     Bug = "tail-not-rewritten"      // R6: what recovery has read may be in memory only

	// replica

	LeaderCountsItself    Bug = "leader-counts-itself"      // R3: a leader is part of a quorum before its own disk has the entry
	VoteBeforeDurable     Bug = "vote-before-durable"       // R4: a vote leaves before it is durable
	CandidacyNotDurable   Bug = "candidacy-not-durable"     // R4: votes are asked for in a term that a crash forgets
	AckBeforeDurable      Bug = "ack-before-durable"        // R4: a follower acknowledges what is not on its disk
	AckAboveDurable       Bug = "ack-above-durable"         // R5: an acknowledgement names the end of the log in memory
	VoteForgotten         Bug = "vote-forgotten"            // R4: a replica starts without the vote that it has given
	TermNotPromised       Bug = "term-not-promised"         // R4: a term alone is not made durable before something is said under it
	VoteNotPromised       Bug = "vote-not-promised"         // R4: a vote alone is not made durable before it is told
	CommitBehindApplied   Bug = "commit-behind-applied"     // R10: a replica starts with a commit index below what it has applied
	HeartbeatUnchecked    Bug = "heartbeat-unchecked"       // R26: a commit index beyond the log is stepped, on which raft panics
	LeaseReads            Bug = "lease-reads"               // R16: a leader reads without asking whether it still leads
	ReadOfAnEarlierCommit Bug = "read-of-an-earlier-commit" // R16: a new leader reads at a commit index that may be old

	// state

	TwoBatches             Bug = "two-batches"               // R1: what an entry changes is committed in parts
	RevisionInferred       Bug = "revision-inferred"         // R2: the revision is that of the last history, not the one stored
	AppliedIndexBehind     Bug = "applied-index-behind"      // R9: the state says that it has not applied its last entry
	ConfigurationNotStored Bug = "configuration-not-stored"  // R10: the membership is in memory only
	SlotUnchecked          Bug = "slot-unchecked"            // R17: a write is executed on a slot that the shard does not serve
	ClockGoesBack          Bug = "clock-goes-back"           // R19: the shard clock is that of the last entry, not the highest
	EarlyExpiry            Bug = "early-expiry"              // R19: the time of a key passes before it has
	DeadlinesForgotten     Bug = "deadlines-forgotten"       // R19: a replica that was opened again does not know what is due
	MapOrder               Bug = "map-order"                 // R20: the order of a history is that of a map
	TombstonesShown        Bug = "tombstones-shown"          // promise 1: a scan shows deleted keys
	HistoryMissing         Bug = "history-missing"           // R22: of a write of several keys only the first is in the history
	ReplacedValueDropped   Bug = "replaced-value-dropped"    // R22: a large value goes when it is replaced, not with its history
	DuplicateApplied       Bug = "duplicate-applied"         // R23: a retry is executed again
	FloorStays             Bug = "floor-stays"               // R23: a forgotten request is executed again
	ResultsNotInSnapshot   Bug = "results-not-in-snapshot"   // R23: a snapshot has no results of requests
	NotAppliedUnfenced     Bug = "not-applied-unfenced"      // R23: that a request is not applied is said without a fence that keeps it so
	FenceForgotten         Bug = "fence-forgotten"           // R23: a fence goes with its session though a late attempt would pass the floor
	KeyedNotInSnapshot     Bug = "keyed-not-in-snapshot"     // R23: a snapshot has no results of idempotency keys
	KeyedForgottenEarly    Bug = "keyed-forgotten-early"     // R19: the result of an idempotency key goes before its window ends
	CompareBeforeLookup    Bug = "compare-before-lookup"     // R23: a retry finds its own effect and is told that its condition failed
	WatchSplitUnmarked     Bug = "watch-split-unmarked"      // R22: a part of a revision looks as if it were the last
	DigestNotUpdated       Bug = "digest-not-updated"        // R25: the digest of a slot keeps a record that was replaced
	IngestIsFlushable      Bug = "ingest-is-flushable"       // R8: an ingest returns before it is durable
	StagedNameNotSynced    Bug = "staged-name-not-synced"    // R8: a staged snapshot is taken before its names are durable
	DeletedStays           Bug = "deleted-stays"             // R24: what is deleted on a full disk keeps its space
	CompactionsFillTheDisk Bug = "compactions-fill-the-disk" // R24: a compaction takes the last space of the disk
	ManifestAfterMarker    Bug = "manifest-after-marker"     // R7: the marker of Pebble is durable before the file that it names

	// transport and node

	ClusterUnchecked      Bug = "cluster-unchecked"        // R13: a node of another cluster is heard
	SenderUnchecked       Bug = "sender-unchecked"         // R26: a message is stepped whoever has sent it
	PastIsPresent         Bug = "past-is-present"          // R22: a read at a revision shows the key as it is now
	EmptiedDiskAdmitted   Bug = "emptied-disk-admitted"    // R13: a new disk under an old name is heard, and goes on
	LostLogBegunAnew      Bug = "lost-log-begun-anew"      // R14: a log that is gone is taken for one that never was
	IdentityNameNotSynced Bug = "identity-name-not-synced" // R7: a new identity may be the old one after a crash
	IngestWithoutIntent   Bug = "ingest-without-intent"    // R8: a crash behind an ingest leaves a log that does not fit
	ResetBeforeIngest     Bug = "reset-before-ingest"      // R8: the log is gone before the snapshot has taken its place
	ResetWithoutHardState Bug = "reset-without-hard-state" // R8: a snapshot of a later term is taken over, and the term is not
	TruncatedPastFlushed  Bug = "truncated-past-flushed"   // R8: the log is cut at what is applied and not at what is flushed
	ReadContextReused     Bug = "read-context-reused"      // R16: an answer to an earlier life is taken for one to this
	ReadBeforeApplied     Bug = "read-before-applied"      // R16: a read is served as soon as its index is confirmed
	StaleBoundIgnored     Bug = "stale-bound-ignored"      // promise 1: a stale read is served however old the state is
	StaleTokenIgnored     Bug = "stale-token-ignored"      // promise 1: a stale read does not wait for what its token names
	// R19: keys on a lease of another shard outlive it
	LeaseForgottenElsewhere Bug = "lease-forgotten-elsewhere"
	ReadSlotUnchecked       Bug = "read-slot-unchecked"     // R17: a key is read in a slot that the shard does not serve
	PageBeyondItsParts      Bug = "page-beyond-its-parts"   // R17: a page goes on behind the end of a shard's part
	AnsweredByIndex         Bug = "answered-by-index"       // TAX: a write is answered by whatever stands at its index
	ProposedCalledRefused   Bug = "proposed-called-refused" // TAX: a write that may be applied is said not to be
	ForwardedTwice          Bug = "forwarded-twice"         // TAX: a write that was passed on is passed on again when the connection breaks
	SnapshotIsDefinite      Bug = "snapshot-is-definite"    // TAX: a write that a snapshot has passed is said not to be applied

	// watch

	WatchGap            Bug = "watch-gap"              // R22: a watcher that falls back to the history begins one revision too late
	WatchBelowFloor     Bug = "watch-below-floor"      // R22: a watcher below the floor goes on at the floor and says nothing
	WatchTokenRunsAhead Bug = "watch-token-runs-ahead" // R22: a token says that a revision is complete of which a part is to come
)
