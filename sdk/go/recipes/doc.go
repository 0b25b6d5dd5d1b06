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
// Waiting is by a watch on the key, without polling. It is not fair: when a lock becomes free, those who wait try all at once.
package recipes
