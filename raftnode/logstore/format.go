package logstore

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// formatVersion is the version of segments that this build writes and reads.
	formatVersion = 1
	// blockBytes aligns batches. No block is written twice: what is synced cannot be torn by a later write, a recycled file is
	// overwritten without being read first, and recovery finds batches behind a damaged one.
	blockBytes = 4 << 10

	segmentMagic = "raftkvlg"
	batchMagic   = 0x31626b72

	segmentHeaderBytes = 48
	batchHeaderBytes   = 32
	recordHeaderBytes  = 40

	// batchBytesMax keeps every offset within 32 bits, with segments of at most segmentBytesMax.
	batchBytesMax = 1 << 30
)

// castagnoli has hardware support.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum continues a CRC32C. Every checksum of a segment starts from the seed of its generation, so that what an earlier use
// of a recycled file left behind never matches (V6), nor does anything that a client can put into a value.
func checksum(seed uint32, b []byte) uint32 { return crc32.Update(seed, castagnoli, b) }

// seedOf is where checksums of a generation start.
func seedOf(generation uint64) uint32 {
	return checksum(0, binary.LittleEndian.AppendUint64(nil, generation))
}

// align rounds up to a block.
func align(n int64) int64 { return (n + blockBytes - 1) &^ (blockBytes - 1) }

// segmentHeader is the first block of a segment. The first 16 bytes keep their meaning in every format version.
type segmentHeader struct {
	version    uint32
	number     uint32
	generation uint64 // random: unlike the number it cannot be guessed
	firstSeq   uint64 // of the opening batch
}

// appendSegmentHeader appends the header, padded to a block.
func appendSegmentHeader(b []byte, h segmentHeader) []byte {
	at := len(b)
	b = append(b, segmentMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, h.version)
	b = binary.LittleEndian.AppendUint32(b, h.number)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, h.generation)
	b = binary.LittleEndian.AppendUint64(b, h.firstSeq)
	b = binary.LittleEndian.AppendUint64(b, 0)
	binary.LittleEndian.PutUint32(b[at+8:], checksum(0, b[at+12:]))
	return pad(b, at)
}

// parseSegmentHeader reads what appendSegmentHeader wrote. ok is false if it is not that.
func parseSegmentHeader(b []byte) (h segmentHeader, ok bool) {
	if len(b) < segmentHeaderBytes || string(b[:8]) != segmentMagic {
		return h, false
	}
	b = b[:segmentHeaderBytes]
	if binary.LittleEndian.Uint32(b[8:]) != checksum(0, b[12:]) {
		return h, false
	}
	return segmentHeader{
		version:    binary.LittleEndian.Uint32(b[12:]),
		number:     binary.LittleEndian.Uint32(b[16:]),
		generation: binary.LittleEndian.Uint64(b[24:]),
		firstSeq:   binary.LittleEndian.Uint64(b[32:]),
	}, true
}

// batchHeader precedes the records of one append.
type batchHeader struct {
	// seq counts batches, through all segments and restarts, without a gap.
	seq uint64
	// synced is the last batch that was known to be on disk when this one was written: the proof that a bad batch up to there is
	// damage, not a torn write (R15).
	synced uint64
	// bytes is what follows this header, without padding.
	bytes uint32
	// records is how many there are.
	records uint32
}

func putBatchHeader(b []byte, seed uint32, h batchHeader) {
	binary.LittleEndian.PutUint32(b[4:], batchMagic)
	binary.LittleEndian.PutUint64(b[8:], h.seq)
	binary.LittleEndian.PutUint64(b[16:], h.synced)
	binary.LittleEndian.PutUint32(b[24:], h.bytes)
	binary.LittleEndian.PutUint32(b[28:], h.records)
	binary.LittleEndian.PutUint32(b, checksum(seed, b[4:batchHeaderBytes]))
}

func parseBatchHeader(b []byte, seed uint32) (h batchHeader, ok bool) {
	if len(b) < batchHeaderBytes || binary.LittleEndian.Uint32(b[4:]) != batchMagic ||
		binary.LittleEndian.Uint32(b) != checksum(seed, b[4:batchHeaderBytes]) {
		return h, false
	}
	return batchHeader{
		seq:     binary.LittleEndian.Uint64(b[8:]),
		synced:  binary.LittleEndian.Uint64(b[16:]),
		bytes:   binary.LittleEndian.Uint32(b[24:]),
		records: binary.LittleEndian.Uint32(b[28:]),
	}, true
}

// recordKind says what a record holds.
type recordKind uint8

const (
	// kindEntry is a Raft entry; the payload is its data. It replaces whatever its shard's log has at and above its index.
	kindEntry recordKind = 1
	// kindState is all that a shard's log is besides its entries (see head).
	kindState recordKind = 2
	// kindSegments opens a segment and lists the older ones that are still part of the log.
	kindSegments recordKind = 3
)

// recordHeader precedes a payload. It has a checksum of its own, so that a damaged payload can be blamed on its shard.
type recordHeader struct {
	payloadSum uint32
	shard      placement.ShardID
	kind       recordKind
	entryType  uint8
	off        uint32 // of the record in its segment: a record belongs to one place
	index      uint64 // of the entry; of a state: TruncatedIndex
	term       uint64 // of the entry; of a state: TruncatedTerm
	bytes      uint32
}

// appendRecord appends header and payload and fills in both checksums.
func appendRecord(b []byte, seed uint32, h recordHeader, payload []byte) []byte {
	b = append(b, 0, 0, 0, 0)
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, checksum(seed, payload))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.shard))
	b = append(b, byte(h.kind), h.entryType, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, h.off)
	b = binary.LittleEndian.AppendUint64(b, h.index)
	b = binary.LittleEndian.AppendUint64(b, h.term)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[at-4:], checksum(seed, b[at:]))
	return append(b, payload...)
}

func parseRecordHeader(b []byte, seed uint32) (h recordHeader, ok bool) {
	if len(b) < recordHeaderBytes || binary.LittleEndian.Uint32(b) != checksum(seed, b[4:recordHeaderBytes]) {
		return h, false
	}
	return recordHeader{
		payloadSum: binary.LittleEndian.Uint32(b[4:]),
		shard:      placement.ShardID(binary.LittleEndian.Uint32(b[8:])),
		kind:       recordKind(b[12]),
		entryType:  b[13],
		off:        binary.LittleEndian.Uint32(b[16:]),
		index:      binary.LittleEndian.Uint64(b[20:]),
		term:       binary.LittleEndian.Uint64(b[28:]),
		bytes:      binary.LittleEndian.Uint32(b[36:]),
	}, true
}

// pad extends b with zeros until what lies behind from fills whole blocks.
func pad(b []byte, from int) []byte {
	n := int(align(int64(len(b)-from))) - (len(b) - from)
	return append(b, zeros[:n]...)
}

var zeros [blockBytes]byte
