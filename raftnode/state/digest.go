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
