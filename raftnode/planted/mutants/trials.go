package main

import "github.com/raftkv/raftkv/raftnode/planted"

// trial is a bug and the suites that must find it, each of them.
type trial struct {
	bug planted.Bug
	// rule is the one of the design that the bug breaks.
	rule string
	// seeds is how many of the simulation may pass before one finds the bug; 0: the simulation is not asked.
	seeds  int
	suites []suite
}

// suite is some tests of a package.
type suite struct{ pkg, tests string }

const (
	logstore  = "raftnode/logstore"
	replica   = "raftnode/replica"
	state     = "raftnode/state"
	transport = "raftnode/transport"
	node      = "raftnode"
	watch     = "raftnode/watch"
)

// seedsMost is how many seeds a bug has that the simulation must find.
const seedsMost = 200

var trials = []trial{
	{planted.LogNotSynced, "R3", seedsMost, in(logstore, "TestCrashEverywhere")},
	{planted.SyncRetried, "R6", seedsMost, in(logstore, "TestFailedSyncIsFinal")},
	{planted.SegmentNameNotSynced, "R7", seedsMost, in(logstore, "TestCrashEverywhere")},
	{planted.DamageCutAsTail, "R15", 0, in(logstore, "TestNoAmbiguityAfterClose")},
	{planted.TornTailKept, "R15", 0, in(logstore, "TestCrashEverywhere")},
	{planted.TailNotRewritten, "R6", seedsMost, in(logstore, "TestKillEverywhere")},

	{planted.LeaderCountsItself, "R3", 0, in(replica, "TestSingleReplicaWaitsForItsDisk|TestPromisesAreOnTheDisk")},
	{planted.VoteBeforeDurable, "R4", seedsMost, in(replica, "TestPromisesAreOnTheDisk")},
	{planted.CandidacyNotDurable, "R4", 0, in(replica, "TestNoTermIsLedTwice")},
	{planted.AckBeforeDurable, "R4", seedsMost, in(replica, "TestPromisesAreOnTheDisk")},
	{planted.AckAboveDurable, "R5", seedsMost, in(replica, "TestPromisesAreOnTheDisk")},
	{planted.VoteForgotten, "R4", 0, in(replica, "TestVotesSurviveARestart")},
	{planted.TermNotPromised, "R4", 0, in(replica, "TestWhatIsPromisedIsSyncedOnce")},
	{planted.VoteNotPromised, "R4", 0, in(replica, "TestWhatIsPromisedIsSyncedOnce")},
	{planted.CommitBehindApplied, "R10", seedsMost, in(replica, "TestRestartRaisesCommitToApplied")},
	{planted.HeartbeatUnchecked, "R26", 0, in(replica, "TestAmnesiaIsNoticed")},
	{planted.LeaseReads, "R16", 0, in(replica, "TestReadsNeedAQuorum")},
	{planted.ReadOfAnEarlierCommit, "R16", 0, in(replica, "TestLoneVoterReadsAfterItsFirstCommit")},

	{planted.TwoBatches, "R1", 0, in(state, "TestABatchIsThereAsAWhole")},
	{planted.RevisionInferred, "R2", 0, in(state, "TestAShardStandsWhereItStood")},
	{planted.AppliedIndexBehind, "R9", seedsMost, in(state, "TestAShardStandsWhereItStood")},
	{planted.ConfigurationNotStored, "R10", seedsMost, in(state, "TestAShardStandsWhereItStood")},
	{planted.SlotUnchecked, "R17", 0, append(in(state, "TestNotServing"), in(node, "TestSlotsAreCheckedWhereRequestsAreExecuted")...)},
	{planted.ClockGoesBack, "R19", 0, in(state, "TestClockConfigurationAndEmptyEntries")},
	{planted.EarlyExpiry, "R19", seedsMost, in(state, "TestKeysGoWhenTheirTimeHasPassedAndNotBefore")},
	{planted.DeadlinesForgotten, "R19", 0, in(state, "TestKeysGoWhenTheirTimeHasPassedAndNotBefore")},
	{planted.MapOrder, "R20", seedsMost, nil},
	{planted.TombstonesShown, "P1", seedsMost, in(state, "TestRangePages")},
	{planted.HistoryMissing, "R22", 0, in(state, "TestHistoryIsWhole")},
	{planted.ReplacedValueDropped, "R22", 0, in(state, "TestHistoryIsWhole")},
	{planted.DuplicateApplied, "R23", seedsMost, in(state, "TestRetriesGetTheFirstAnswer")},
	{planted.FloorStays, "R23", 0, in(state, "TestForgottenRequestsAreRefused")},
	{planted.ResultsNotInSnapshot, "R23", seedsMost, in(state, "TestSnapshotRoundTrip")},
	{planted.NotAppliedUnfenced, "R23", seedsMost, in(state, "TestFenceOrWrite")},
	{planted.FenceForgotten, "R23", 0, in(state, "TestFenceOutlivesItsSession")},
	{planted.KeyedNotInSnapshot, "R23", seedsMost, in(state, "TestIdempotencyKeys")},
	{planted.KeyedForgottenEarly, "R19", seedsMost, in(state, "TestIdempotencyKeys")},
	{planted.CompareBeforeLookup, "R23", seedsMost, in(state, "TestRetriesGetTheFirstAnswer")},
	{planted.DigestNotUpdated, "R25", seedsMost, in(state, "TestCommands")},
	{planted.IngestIsFlushable, "R8", 0, in(state, "TestCrashAtEveryOperation")},
	{planted.DeletedStays, "R24", 0, in(state, "TestReclaim")},
	{planted.CompactionsFillTheDisk, "R24", 0, in(state, "TestCompactionsLeaveRoom")},
	{planted.StagedNameNotSynced, "R8", 0, in(state, "TestCrashAtEveryOperation")},
	{planted.ManifestAfterMarker, "R7", 0, in(state, "TestCrashWhileOpening")},

	{planted.ClusterUnchecked, "R13", 0, in(transport, "TestStrangersAreToldWhyTheyAreRefused")},
	{planted.SenderUnchecked, "R26", 0, in(node, "TestOnlyMembersAreHeard")},
	{planted.EmptiedDiskAdmitted, "R13", seedsMost, in(node, "TestOnlyFoundersAreAdmitted|TestEmptiedDisk")},
	{planted.LostLogBegunAnew, "R14", 0, in(node, "TestLostLog")},
	{planted.IdentityNameNotSynced, "R7", 0, in(node, "TestIdentityIsDurable")},
	{planted.IngestWithoutIntent, "R8", seedsMost, nil},
	{planted.ResetBeforeIngest, "R8", seedsMost, nil},
	{planted.ResetWithoutHardState, "R8", 0, in(simulation, "TestSnapshotOfALaterTerm")},
	{planted.TruncatedPastFlushed, "R8", seedsMost, nil},
	{planted.ReadContextReused, "R16", 0, in(simulation, "TestReadsAreNotConfirmedByAnswersToAnEarlierLife")},
	{planted.ReadBeforeApplied, "R16", seedsMost, nil},
	{planted.StaleBoundIgnored, "promise 1", seedsMost, in(node, "TestFreshEnough$")},
	{planted.StaleTokenIgnored, "promise 1", seedsMost, in(node, "TestStaleReads$")},
	{planted.LeaseForgottenElsewhere, "R19", seedsMost, in(simulation, "TestLeasesOfSeveralShards|TestRevokedLeasesTakeTheirKeysAlong")},
	{planted.ReadSlotUnchecked, "R17", 0, in(node, "TestSlotsAreCheckedWhereRequestsAreExecuted")},
	{planted.PageBeyondItsParts, "R17", seedsMost, nil},
	{planted.PastIsPresent, "R22", 0, in(node, "TestPastReads|TestReadAfterWrite")},
	{planted.AnsweredByIndex, "TAX", seedsMost, nil},
	{planted.ProposedCalledRefused, "TAX", seedsMost, nil},
	{planted.ForwardedTwice, "TAX", seedsMost, nil},
	{planted.SnapshotIsDefinite, "TAX", 0, in(node, "TestASnapshotLeavesOutcomesUnknown")},

	{planted.WatchGap, "R22", seedsMost, in(watch, "TestAWatcherThatDoesNotRead|TestEveryWatcherSeesItsSlice")},
	{planted.WatchBelowFloor, "R22", seedsMost, in(watch, "TestCompacted")},
	{planted.WatchSplitUnmarked, "R22", seedsMost, in(state, "TestChangesAreTheDifferences")},
	{planted.WatchTokenRunsAhead, "R22", seedsMost, in(node, "TestALargeRevisionIsMarked")},
}

func in(pkg, tests string) []suite { return []suite{{pkg, tests}} }
