// Package recipes has a lock and a leader election over raftkv, made of leases, transactions and watches.
//
// # What a lock guarantees
//
// At every moment, at most one holder has the key of the lock, and the tokens of the holders grow: that is what the cluster decides, and no clock can
// break it. It is not that at most one process acts. A holder that is held up (a pause of its process, its machine or its network) may go on
// acting after its lease has ended and another holds the lock, before it has looked at a clock or a context, and the clock of a suspended machine may stand still. The context of a lock ends before the
// cluster can have ended the lease, which makes that rare, and not impossible. So a lock alone is good for what may be done twice, but should not: it saves
// work. For what must not be done twice, use one of these:
//
//   - Keys of the same {tag} as the lock: [Lock.Write] writes them only if the lock is still held, decided where the write is applied. This is safe
//     whatever the clocks do.
//   - Anything else: pass [Lock.Token] along, and let what is protected refuse tokens lower than the highest that it has seen.
//
// # Who comes next
//
// Those who wait in [Acquire] have the lock in the order in which they came. Each has a place: a key on its own lease, which goes when it gets the lock, gives up or dies.
// It watches the place before its own, and the first watches the key of the lock. So a release wakes two of them, however many wait: the one that takes the lock, and the one
// that is the first then. Nothing is polled.
//
//   - One who waits and is held up keeps its place until its lease ends, and those behind it wait for that, also while the lock is free. [WithTTL] bounds it.
//   - One who has lost its place, as after a long pause, and still waits, goes to the end.
//   - [TryAcquire] does not queue. In the moment between two holders it may come before those who wait. So may an Acquire that has found nobody waiting when it began.
//
// The places of a lock are of its shard. Those of "{job}/lock" are the keys with the prefix "{job}/lock/waiting/", and those of "job", which has no {tag}, the keys with the
// prefix "{job}/waiting/untagged/". No such name can be made of a key with a } and no {tag}, as "a}b", nor of one of more than 4,060 bytes (4,071 with a {tag}). Such a lock has no queue:
// it excludes as any other, but when it becomes free, all who wait try at once. Leave these keys alone: who loses its place by hand goes to the end, too.
package recipes
