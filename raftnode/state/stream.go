package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cespare/xxhash/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// A snapshot stream is
//
//	01                                    the version of the format
//	chunk*                                a header, any number of chunks of pairs, a trailer
//
//	chunk: kind(1) length(4) payload crc(4)
//	pairs: (uvarint key length, uvarint value length, key, value)*
//
// where the CRC-32C is over kind, length and payload, and keys are those of the store without the shard's prefix, ascending. Chunks are cut by
// size alone, so that equal states make equal streams.
const (
	streamVersion = 1

	chunkHeader  = 1
	chunkPairs   = 2
	chunkTrailer = 3

	chunkHeadLen = 1 + 4
	chunkCRCLen  = 4

	// pairsChunkBytes is what a chunk of pairs is cut at; the last pair in it may go beyond.
	pairsChunkBytes = 256 << 10
	// chunkBytesMax bounds what a reader accepts: no pair comes near to it.
	chunkBytesMax = 512 << 20
	// readStepBytes is how far a reader trusts a length that it has not seen the bytes of.
	readStepBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// streamWriter writes a snapshot stream.
type streamWriter struct {
	w       io.Writer
	chunk   []byte // room for the head, then the payload
	trailer storev1.SnapshotTrailer
	sum     *xxhash.Digest
}

func newStreamWriter(w io.Writer, h *storev1.SnapshotHeader) (*streamWriter, error) {
	sw := &streamWriter{w: w, chunk: make([]byte, chunkHeadLen, pairsChunkBytes+readStepBytes), sum: xxhash.New()}
	if _, err := w.Write([]byte{streamVersion}); err != nil {
		return nil, err
	}
	return sw, sw.message(chunkHeader, h)
}

func (sw *streamWriter) message(kind byte, m encoder) error {
	n := m.SizeVT()
	sw.chunk = append(sw.chunk, make([]byte, n)...)
	if _, err := m.MarshalToSizedBufferVT(sw.chunk[chunkHeadLen:]); err != nil {
		return err
	}
	return sw.flush(kind)
}

func (sw *streamWriter) flush(kind byte) error {
	sw.chunk[0] = kind
	binary.BigEndian.PutUint32(sw.chunk[1:], uint32(len(sw.chunk)-chunkHeadLen))
	sw.chunk = binary.BigEndian.AppendUint32(sw.chunk, crc32.Checksum(sw.chunk, castagnoli))
	_, err := sw.w.Write(sw.chunk)
	sw.chunk = sw.chunk[:chunkHeadLen]
	return err
}

func (sw *streamWriter) pair(key, value []byte) error {
	start := len(sw.chunk)
	sw.chunk = binary.AppendUvarint(sw.chunk, uint64(len(key)))
	sw.chunk = binary.AppendUvarint(sw.chunk, uint64(len(value)))
	sw.chunk = append(append(sw.chunk, key...), value...)
	_, _ = sw.sum.Write(sw.chunk[start:])
	sw.trailer.Pairs++
	sw.trailer.Bytes += uint64(len(key) + len(value))
	if len(sw.chunk) < pairsChunkBytes {
		return nil
	}
	return sw.flush(chunkPairs)
}

func (sw *streamWriter) close() error {
	if len(sw.chunk) > chunkHeadLen {
		if err := sw.flush(chunkPairs); err != nil {
			return err
		}
	}
	sw.trailer.Checksum = sw.sum.Sum64()
	return sw.message(chunkTrailer, &sw.trailer)
}

// readStream reads a snapshot stream and calls header once, then pair for every pair. It returns an ErrBadSnapshot for every stream that was
// not written whole by streamWriter. What pair is given is good for the call only.
func readStream(r io.Reader, header func(*storev1.SnapshotHeader) error, pair func(key, value []byte) error) error {
	sr := &streamReader{r: r, sum: xxhash.New(), pair: pair}
	var version [1]byte
	if _, err := io.ReadFull(r, version[:]); err != nil {
		return badStream("no version", err)
	}
	if version[0] != streamVersion {
		return &FormatError{What: "snapshot", Found: version[:], Want: streamVersion}
	}
	kind, payload, err := sr.next()
	if err != nil {
		return err
	}
	h := new(storev1.SnapshotHeader)
	if kind != chunkHeader {
		return badStream("no header", nil)
	}
	if err := h.UnmarshalVT(payload); err != nil {
		return badStream("header", err)
	}
	if err := header(h); err != nil {
		return err
	}
	return sr.body()
}

func badStream(what string, err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s", ErrBadSnapshot, what)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %s: %w", ErrBadSnapshot, what, err)
}

type streamReader struct {
	r       io.Reader
	buffer  bytes.Buffer
	trailer storev1.SnapshotTrailer
	sum     *xxhash.Digest
	pair    func(key, value []byte) error
}

// body reads what follows the header.
func (sr *streamReader) body() error {
	for {
		kind, payload, err := sr.next()
		if err != nil {
			return err
		}
		switch kind {
		case chunkPairs:
			if err := sr.pairs(payload); err != nil {
				return err
			}
		case chunkTrailer:
			return sr.end(payload)
		default:
			return badStream(fmt.Sprintf("chunk of kind %d", kind), nil)
		}
	}
}

// next reads a chunk. Memory grows with the bytes that come, not with the length that is claimed.
func (sr *streamReader) next() (kind byte, payload []byte, err error) {
	sr.buffer.Reset()
	if _, err := io.CopyN(&sr.buffer, sr.r, chunkHeadLen); err != nil {
		return 0, nil, badStream("chunk", err)
	}
	n := int64(binary.BigEndian.Uint32(sr.buffer.Bytes()[1:]))
	if n > chunkBytesMax {
		return 0, nil, badStream(fmt.Sprintf("chunk of %d bytes", n), nil)
	}
	for left := n + chunkCRCLen; left > 0; {
		step := min(left, readStepBytes)
		if _, err := io.CopyN(&sr.buffer, sr.r, step); err != nil {
			return 0, nil, badStream("chunk", err)
		}
		left -= step
	}
	b := sr.buffer.Bytes()
	body := b[:chunkHeadLen+n]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[chunkHeadLen+n:]) {
		return 0, nil, badStream("checksum of a chunk", nil)
	}
	return b[0], body[chunkHeadLen:], nil
}

func (sr *streamReader) pairs(payload []byte) error {
	_, _ = sr.sum.Write(payload)
	for len(payload) > 0 {
		keyLen, n := binary.Uvarint(payload)
		if n <= 0 {
			return badStream("length of a key", nil)
		}
		payload = payload[n:]
		valueLen, n := binary.Uvarint(payload)
		if n <= 0 {
			return badStream("length of a value", nil)
		}
		payload = payload[n:]
		if keyLen > uint64(len(payload)) || valueLen > uint64(len(payload))-keyLen {
			return badStream("a pair goes beyond its chunk", nil)
		}
		key, value := payload[:keyLen], payload[keyLen:keyLen+valueLen]
		payload = payload[keyLen+valueLen:]
		sr.trailer.Pairs++
		sr.trailer.Bytes += keyLen + valueLen
		if err := sr.pair(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (sr *streamReader) end(payload []byte) error {
	var t storev1.SnapshotTrailer
	if err := t.UnmarshalVT(payload); err != nil {
		return badStream("trailer", err)
	}
	if t.Pairs != sr.trailer.Pairs || t.Bytes != sr.trailer.Bytes || t.Checksum != sr.sum.Sum64() {
		return badStream("the trailer does not fit what came", nil)
	}
	if n, err := io.CopyN(io.Discard, sr.r, 1); n != 0 || !errors.Is(err, io.EOF) {
		return badStream("something follows the trailer", err)
	}
	return nil
}
