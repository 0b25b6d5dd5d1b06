package logstore

import (
	"go.etcd.io/raft/v3/raftpb"
)

// batchBufferBytes bounds the buffer that is kept between appends.
const batchBufferBytes = 8 << 20

// batch is one append in the making: its bytes, and what is to be done in memory when they are written.
type batch struct {
	buf     []byte
	start   int   // of the batch header in buf
	base    int64 // of buf in the segment
	seed    uint32
	seq     uint64
	records uint32
	ops     []op
	heads   []head
	// scratch is for payloads.
	scratch []byte
}

// op is what a record does to the log of its shard.
type op struct {
	shard *shardLog
	// head is the position in heads of a state, -1 for an entry.
	head        int
	ref         ref
	index, term uint64
}

// begin starts a batch at an offset, behind the header of a segment if one is given.
func (b *batch) begin(seed uint32, seq uint64, base int64, h *segmentHeader) {
	if cap(b.buf) > batchBufferBytes {
		b.buf = nil
	}
	clear(b.ops)
	clear(b.heads)
	*b = batch{buf: b.buf[:0], base: base, seed: seed, seq: seq, ops: b.ops[:0], heads: b.heads[:0], scratch: b.scratch}
	if h != nil {
		b.buf = appendSegmentHeader(b.buf, *h)
	}
	b.start = len(b.buf)
	b.buf = append(b.buf, zeros[:batchHeaderBytes]...)
}

// off is the offset of the next record in the segment.
func (b *batch) off() uint32 { return uint32(b.base) + uint32(len(b.buf)) }

// entry adds an entry.
func (b *batch) entry(s *shardLog, e *raftpb.Entry) {
	o := op{
		shard: s, head: -1,
		ref:   ref{off: b.off(), bytes: uint32(len(e.GetData()))},
		index: e.GetIndex(), term: e.GetTerm(),
	}
	b.ops = append(b.ops, o)
	b.records++
	b.buf = appendRecord(b.buf, b.seed, recordHeader{
		shard: s.id, kind: kindEntry, entryType: uint8(e.GetType()), off: o.ref.off, index: o.index, term: o.term,
	}, e.GetData())
}

// state adds the state of a shard.
func (b *batch) state(s *shardLog, h head) {
	b.ops = append(b.ops, op{shard: s, head: len(b.heads)})
	b.heads = append(b.heads, h)
	b.records++
	b.scratch = appendState(b.scratch[:0], &h)
	b.buf = appendRecord(b.buf, b.seed, recordHeader{
		shard: s.id, kind: kindState, off: b.off(), index: h.truncated, term: h.truncatedTerm,
	}, b.scratch)
}

// sealed adds the list of older segments.
func (b *batch) sealed(list []sealed) {
	b.records++
	b.scratch = appendSealed(b.scratch[:0], list)
	b.buf = appendRecord(b.buf, b.seed, recordHeader{kind: kindSegments, off: b.off()}, b.scratch)
}

// finish fills in the batch header and pads to a block.
func (b *batch) finish(synced uint64) []byte {
	putBatchHeader(b.buf[b.start:], b.seed, batchHeader{
		seq:     b.seq,
		synced:  synced,
		bytes:   uint32(len(b.buf) - b.start - batchHeaderBytes),
		records: b.records,
	})
	b.buf = pad(b.buf, b.start)
	return b.buf
}

// publish shows readers what was written to a segment. Log.mu is held.
func (b *batch) publish(s *segment) {
	for i := range b.ops {
		o := &b.ops[i]
		o.shard.known = true
		if o.head >= 0 {
			o.shard.set(b.heads[o.head])
			continue
		}
		o.shard.put(o.index, o.term, s.number, o.ref)
	}
}
