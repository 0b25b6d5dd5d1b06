package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// All keys of the store are made and read here. DESIGN.md has the table.
//
//	00 "raftkv-state"                 the format mark: one byte, formatVersion
//	01 shard(4) section(1) rest       everything of a shard
//
// Numbers are big-endian, so that bytes and numbers have the same order.
const (
	formatVersion = 1

	markSpace  = 0x00
	shardSpace = 0x01

	shardPrefixLen = 1 + 4
	sectionLen     = shardPrefixLen + 1
)

var formatKey = append([]byte{markSpace}, "raftkv-state"...)

// section is a part of a shard.
type section byte

const (
	sectionLeased        section = 'a' // lease(8) key → nothing; the key hangs on the lease
	sectionConfiguration section = 'c' // → Configuration
	sectionDedup         section = 'd' // index(8) ordinal(4) → DedupResult
	sectionDue           section = 'e' // deadline(8) key → nothing; the time of the key passes at that clock
	sectionLeaseDue      section = 'f' // deadline(8) lease(8) → nothing; the time of the lease does
	sectionHistory       section = 'h' // revision(8) → History
	sectionKeyed         section = 'i' // idempotency key → KeyedResult
	sectionKeyedDue      section = 'j' // deadline(8) idempotency key → nothing; the result under the key is forgotten at that clock
	sectionRecord        section = 'k' // key → Record
	sectionLease         section = 'l' // lease(8) → Lease
	sectionMeta          section = 'm' // → ShardMeta
	sectionSlotTable     section = 's' // → SlotTable
	sectionSlotSummary   section = 't' // slot(2) → SlotSummary
	sectionValue         section = 'v' // revision(8) key → a value that was separated from its record
	sectionReplaced      section = 'w' // revision(8) key → revision(8) hash(8) of the separated value that this revision replaced
	sectionTombstone     section = 'x' // revision(8) key → nothing; the key's record is a tombstone of that revision
)

const clientIDLen = 16

// dedupID identifies a request across its attempts.
type dedupID struct {
	client   [clientIDLen]byte
	sequence uint64
}

// appendKey begins the keys of a section; for sections of one key it is the whole.
func appendKey(b []byte, shard placement.ShardID, s section) []byte {
	b = append(b, shardSpace)
	b = binary.BigEndian.AppendUint32(b, uint32(shard))
	return append(b, byte(s))
}

func appendRecordKey(b []byte, shard placement.ShardID, key string) []byte {
	return append(appendKey(b, shard, sectionRecord), key...)
}

func appendHistoryKey(b []byte, shard placement.ShardID, revision uint64) []byte {
	return binary.BigEndian.AppendUint64(appendKey(b, shard, sectionHistory), revision)
}

// appendKeyedKey takes an idempotency key.
func appendKeyedKey(b []byte, shard placement.ShardID, key string) []byte {
	return append(appendKey(b, shard, sectionKeyed), key...)
}

// appendRevisionKey makes the keys of the sections v, w and x, and those of a, e and j with a lease or a deadline for the revision.
func appendRevisionKey(b []byte, shard placement.ShardID, s section, revision uint64, key string) []byte {
	return append(binary.BigEndian.AppendUint64(appendKey(b, shard, s), revision), key...)
}

func appendLeaseKey(b []byte, shard placement.ShardID, id uint64) []byte {
	return binary.BigEndian.AppendUint64(appendKey(b, shard, sectionLease), id)
}

func appendLeaseDueKey(b []byte, shard placement.ShardID, deadline, id uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(appendKey(b, shard, sectionLeaseDue), deadline), id)
}

// appendDedupKey takes the index of the entry that carried a request, and the position of the request's command in it.
func appendDedupKey(b []byte, shard placement.ShardID, index uint64, ordinal uint32) []byte {
	b = binary.BigEndian.AppendUint64(appendKey(b, shard, sectionDedup), index)
	return binary.BigEndian.AppendUint32(b, ordinal)
}

func appendSlotSummaryKey(b []byte, shard placement.ShardID, slot placement.Slot) []byte {
	return binary.BigEndian.AppendUint16(appendKey(b, shard, sectionSlotSummary), uint16(slot))
}

// shardSpan returns the bounds of all keys of a shard, the upper one excluded.
func shardSpan(shard placement.ShardID) (start, end []byte) {
	start = binary.BigEndian.AppendUint32([]byte{shardSpace}, uint32(shard))
	if shard == ^placement.ShardID(0) {
		return start, []byte{shardSpace + 1}
	}
	return start, binary.BigEndian.AppendUint32([]byte{shardSpace}, uint32(shard)+1)
}

// sectionSpan returns the bounds of the keys of a section, the upper one excluded.
func sectionSpan(shard placement.ShardID, s section) (start, end []byte) {
	return appendKey(nil, shard, s), appendKey(nil, shard, s+1)
}

func shardOfKey(key []byte) (placement.ShardID, bool) {
	if len(key) < sectionLen || key[0] != shardSpace {
		return 0, false
	}
	return placement.ShardID(binary.BigEndian.Uint32(key[1:])), true
}

var errBadKey = errors.New("no key of this store")

// The parsers below take what stands behind the section byte.

func parseSlot(rest []byte) (placement.Slot, error) {
	if len(rest) != 2 || binary.BigEndian.Uint16(rest) >= placement.SlotCount {
		return 0, fmt.Errorf("%w: slot %x", errBadKey, rest)
	}
	return placement.Slot(binary.BigEndian.Uint16(rest)), nil
}

func parseRevision(rest []byte) (uint64, error) {
	if len(rest) != 8 {
		return 0, fmt.Errorf("%w: revision %x", errBadKey, rest)
	}
	return binary.BigEndian.Uint64(rest), nil
}

func parseRevisionKey(rest []byte) (revision uint64, key []byte, err error) {
	if len(rest) < 9 {
		return 0, nil, fmt.Errorf("%w: revision and key %x", errBadKey, rest)
	}
	return binary.BigEndian.Uint64(rest), rest[8:], nil
}

func parseLease(rest []byte) (uint64, error) {
	if len(rest) != 8 {
		return 0, fmt.Errorf("%w: lease %x", errBadKey, rest)
	}
	return binary.BigEndian.Uint64(rest), nil
}

func parseLeaseDue(rest []byte) (deadline, id uint64, err error) {
	if len(rest) != 16 {
		return 0, 0, fmt.Errorf("%w: deadline and lease %x", errBadKey, rest)
	}
	return binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:]), nil
}

func parseDedup(rest []byte) (index uint64, ordinal uint32, err error) {
	if len(rest) != 12 {
		return 0, 0, fmt.Errorf("%w: dedup result %x", errBadKey, rest)
	}
	return binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:]), nil
}
