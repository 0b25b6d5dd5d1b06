package state

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// Digest is a commutative 128-bit sum of record hashes: it says whether two sets of records are equal, whatever the order in which they
// came to be (R25).
type Digest struct {
	Low, High uint64
}

// add and remove are inverse and commute.
func (d *Digest) add(h Digest) {
	var carry uint64
	d.Low, carry = bits.Add64(d.Low, h.Low, 0)
	d.High, _ = bits.Add64(d.High, h.High, carry)
}

func (d *Digest) remove(h Digest) {
	var borrow uint64
	d.Low, borrow = bits.Sub64(d.Low, h.Low, 0)
	d.High, _ = bits.Sub64(d.High, h.High, borrow)
}

// hashRecord hashes a key and its stored record. The two hashes are mixed, not added: sums of sums could not tell which value belongs to
// which key.
func hashRecord(key string, stored []byte) Digest {
	k, r := xxhash.Sum64String(key), xxhash.Sum64(stored)
	return Digest{
		Low:  scramble(k ^ bits.RotateLeft64(scramble(r), 29)),
		High: scramble(r ^ bits.RotateLeft64(scramble(k^0x9e3779b97f4a7c15), 31)),
	}
}

// checkpointEntries is after how many entries a shard notes its digest. All replicas do so at the same indexes.
const checkpointEntries = 64

// Checkpoint is the digest of all records of a shard as an entry has left them. Replicas compare theirs (R25).
type Checkpoint struct {
	// Index is that of the entry; 0 if there is no checkpoint yet.
	Index  uint64
	Digest Digest
}

// note makes a checkpoint of the image before the next entry, if its time has come.
func (sh *Shard) note() {
	last := sh.meta.AppliedIndex
	if last == 0 || last%checkpointEntries != 0 {
		return
	}
	sh.checkpoint = Checkpoint{Index: last}
	for i := range sh.summaries {
		sh.checkpoint.Digest.add(sh.summaries[i].digest)
	}
}

// scramble is the finaliser of MurmurHash3.
func scramble(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Digests are those of all slots of a shard.
type Digests [placement.SlotCount]Digest

// Sum is the digest of all records of the shard.
func (d *Digests) Sum() Digest {
	var sum Digest
	for i := range d {
		sum.add(d[i])
	}
	return sum
}
