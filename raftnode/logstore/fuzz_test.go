package logstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FuzzOpen puts arbitrary bytes where a segment was. Open must say what is wrong or find what some of the appends left; it must not
// panic, and what it finds must be found again.
func FuzzOpen(f *testing.F) {
	d, steps := fixture(f), bitSteps() // the same bytes in every process
	newest := slices.Max(slices.Collect(maps.Keys(d)))
	whole := d[newest]
	f.Add(uint8(asFile), uint32(0), whole)
	f.Add(uint8(asFile), uint32(0), whole[:segmentHeaderBytes])
	f.Add(uint8(asFile), uint32(0), []byte(nil))
	for _, s := range stretches(f, d) {
		if s.name == newest {
			f.Add(uint8(asFile), uint32(0), whole[:s.to])
			f.Add(uint8(overFile), uint32(s.from), whole[s.from+1:s.to])
			f.Add(uint8(overFile), uint32(s.from+40), []byte{0})
			f.Add(uint8(asRecords), uint32(0), whole[min(s.from+batchHeaderBytes, s.to):s.to])
		}
	}
	f.Fuzz(func(t *testing.T, how uint8, off uint32, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		fs := d.with(newest, place(whole, how%3, off, b)).fs(t)
		l, err := Open("/log", Options{FS: fs, SegmentBytes: small.SegmentBytes})
		if err != nil {
			if c := new(CorruptionError); !errors.As(err, &c) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		if how%3 != asRecords && len(l.Damaged()) == 0 && !slices.ContainsFunc(steps, func(s step) bool { return s.after.diff(l) == nil }) {
			t.Fatal("what is there was never there")
		}
		same(t, l, fs)
	})
}

// Ways to place bytes.
const (
	asFile    = iota // instead of the segment
	overFile         // over a part of it
	asRecords        // as records of its last batch, with their checksums put right
)

func place(whole []byte, how uint8, off uint32, b []byte) []byte {
	switch how {
	case asFile:
		return b
	case overFile:
		file := bytes.Clone(whole)
		copy(file[min(int(off), len(file)):], b)
		return file
	}
	h, _ := parseSegmentHeader(whole)
	return append(bytes.Clone(whole), batchOf(seedOf(h.generation), lastSeq(whole)+1, uint32(len(whole)), b)...)
}

// lastSeq is the last batch of a segment.
func lastSeq(file []byte) uint64 {
	h, _ := parseSegmentHeader(file)
	seq := h.firstSeq
	for off := blockBytes; off < len(file); off += blockBytes {
		if b, ok := parseBatchHeader(file[off:], seedOf(h.generation)); ok {
			seq = b.seq
		}
	}
	return seq
}

// batchOf makes a batch that is sound as far as checksums go, of records that are not.
func batchOf(seed uint32, seq uint64, base uint32, b []byte) []byte {
	out := make([]byte, batchHeaderBytes)
	n := uint32(0)
	for ; len(b) >= recordHeaderBytes; n++ {
		size := int(binary.LittleEndian.Uint32(b[36:])) % (len(b) - recordHeaderBytes + 1)
		h := recordHeader{
			shard: shardIDs[b[8]%4], kind: recordKind(b[12] % 5), entryType: b[13], off: base + uint32(len(out)),
			index: binary.LittleEndian.Uint64(b[20:]), term: binary.LittleEndian.Uint64(b[28:]),
		}
		out = appendRecord(out, seed, h, b[recordHeaderBytes:recordHeaderBytes+size])
		b = b[recordHeaderBytes+size:]
	}
	putBatchHeader(out, seed, batchHeader{seq: seq, synced: seq - 1, bytes: uint32(len(out) - batchHeaderBytes), records: n})
	return pad(out, 0)
}

// same closes a log, opens it again and compares.
func same(t *testing.T, l *Log, fs vfs.FS) {
	t.Helper()
	before := map[any]State{}
	for _, id := range l.Shards() {
		st, _ := l.State(id)
		before[id] = st
		if _, err := l.Entries(id, st.TruncatedIndex+1, st.LastIndex+1, ^uint64(0)); err != nil {
			if c := new(CorruptionError); !errors.As(err, &c) || len(l.Damaged()) == 0 {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, fs, small)
	for _, id := range l.Shards() {
		st, _ := l.State(id)
		was := before[id]
		if st.TruncatedIndex != was.TruncatedIndex || st.LastIndex != was.LastIndex || st.HardState.String() != was.HardState.String() {
			t.Fatalf("shard %d: %+v, and then %+v", id, was, st)
		}
	}
	if len(l.Shards()) != len(before) {
		t.Fatalf("%d shards, and then %d", len(before), len(l.Shards()))
	}
}
