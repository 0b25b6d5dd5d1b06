package logstore

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// windowBytes is how much of a segment recovery reads at once.
const windowBytes = 1 << 20

// scanner walks the batches of a segment from the front.
type scanner struct {
	segment *segment
	size    int64
	// off is where the next batch is expected, seq its number.
	off int64
	seq uint64

	window    []byte
	windowOff int64
}

// scanned is what was found where a batch is expected.
type scanned struct {
	off     int64
	header  batchHeader
	records []scannedRecord
	// problem says what is wrong with the batch as a whole; nothing in it can be relied on then.
	problem string
}

// intact says whether the batch is what was written.
func (b *scanned) intact() bool {
	if b.problem != "" {
		return false
	}
	for i := range b.records {
		if b.records[i].damaged {
			return false
		}
	}
	return true
}

// end is the offset of the next batch.
func (b *scanned) end() int64 { return b.off + align(batchHeaderBytes+int64(b.header.bytes)) }

// scannedRecord is a record whose header is sound.
type scannedRecord struct {
	off     int64
	header  recordHeader
	payload []byte // valid until the next batch is read
	// damaged is set if the payload does not match its checksum.
	damaged bool
}

// openSegment opens a segment and checks its header.
func openSegment(path string, number uint32, file vfs.File) (*scanner, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	sc := &scanner{segment: &segment{number: number, path: path, file: file, refs: 1}, size: info.Size(), off: blockBytes}
	b, err := sc.read(0, segmentHeaderBytes)
	if err != nil {
		return nil, err
	}
	h, ok := parseSegmentHeader(b)
	switch {
	case !ok:
		return nil, sc.corrupt(0, "the header does not match its checksum")
	case h.version != formatVersion:
		return nil, fmt.Errorf("%w: %s has version %d, this build of raftkv knows %d; use the build that wrote it or a newer one",
			ErrVersion, path, h.version, formatVersion)
	case h.number != number:
		return nil, sc.corrupt(0, fmt.Sprintf("the header belongs to segment %d", h.number))
	}
	sc.segment.seed, sc.seq = seedOf(h.generation), h.firstSeq
	return sc, nil
}

// corrupt is damage that cannot be blamed on a shard.
func (sc *scanner) corrupt(off int64, reason string) error {
	return &CorruptionError{Path: sc.segment.path, Offset: off, Reason: reason}
}

// read returns n bytes at an offset, or fewer at the end of the file. They are valid until the next call.
func (sc *scanner) read(off, n int64) ([]byte, error) {
	n = min(n, sc.size-off)
	if n <= 0 {
		return nil, nil
	}
	if off < sc.windowOff || off+n > sc.windowOff+int64(len(sc.window)) {
		want := min(max(n, windowBytes), sc.size-off)
		if int64(cap(sc.window)) < want {
			sc.window = make([]byte, want)
		}
		sc.window, sc.windowOff = sc.window[:want], off
		if got, err := sc.segment.file.ReadAt(sc.window, off); err != nil && !(errors.Is(err, io.EOF) && int64(got) == want) {
			return nil, fmt.Errorf("read %s at offset %d: %w", sc.segment.path, off, err)
		}
	}
	return sc.window[off-sc.windowOff:][:n], nil
}

// next reads what is where the next batch is expected. It does not move on.
func (sc *scanner) next() (scanned, error) {
	found := scanned{off: sc.off}
	b, err := sc.read(sc.off, batchHeaderBytes)
	if err != nil {
		return found, err
	}
	h, ok := parseBatchHeader(b, sc.segment.seed)
	if !ok {
		found.problem = "the header of a batch does not match its checksum"
		return found, nil
	}
	found.header = h
	if h.seq != sc.seq {
		found.problem = fmt.Sprintf("batch %d is where batch %d belongs", h.seq, sc.seq)
		return found, nil
	}
	b, err = sc.read(sc.off+batchHeaderBytes, int64(h.bytes))
	if err != nil {
		return found, err
	}
	if len(b) < int(h.bytes) {
		found.problem = "the file ends within a batch"
		return found, nil
	}
	found.parse(b, sc.segment.seed)
	return found, nil
}

// parse finds the records of the batch.
func (b *scanned) parse(payload []byte, seed uint32) {
	off := b.off + batchHeaderBytes
	for len(payload) > 0 {
		h, ok := parseRecordHeader(payload, seed)
		if !ok || int64(h.off) != off || int64(h.bytes) > int64(len(payload)-recordHeaderBytes) {
			b.problem = fmt.Sprintf("the header of a record at offset %d does not match its checksum or its place", off)
			return
		}
		n := recordHeaderBytes + int(h.bytes)
		r := scannedRecord{off: off, header: h, payload: payload[recordHeaderBytes:n]}
		r.damaged = h.payloadSum != checksum(seed, r.payload)
		b.records = append(b.records, r)
		payload, off = payload[n:], off+int64(n)
	}
	if len(b.records) != int(b.header.records) {
		b.problem = fmt.Sprintf("a batch has %d records instead of %d", len(b.records), b.header.records)
	}
}

// accept moves on behind a batch.
func (sc *scanner) accept(b *scanned) { sc.off, sc.seq = b.end(), sc.seq+1 }

// proof returns the last batch that any batch of the file says was synced before it. A header is proof even if what follows it is
// torn: its writer knew.
func (sc *scanner) proof() (uint64, error) {
	var synced uint64
	for off := int64(blockBytes); off < sc.size; off += blockBytes {
		b, err := sc.read(off, batchHeaderBytes)
		if err != nil {
			return 0, err
		}
		if h, ok := parseBatchHeader(b, sc.segment.seed); ok {
			synced = max(synced, h.synced)
		}
	}
	return synced, nil
}
