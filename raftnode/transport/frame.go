package transport

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame on the wire, all numbers big-endian:
//
//	u32 length of the payload
//	u32 CRC-32C of the length, kind, version and payload
//	u8  kind
//	u8  version of the frame format
//	    payload
const (
	headerBytes  = 10
	frameVersion = 1
)

// kind says what the payload of a frame is.
type kind uint8

const (
	kindHello         kind = 1 // peerv1.Hello
	kindMessages      kind = 2 // peerv1.MessageBatch
	kindSnapshotStart kind = 3 // peerv1.SnapshotStart
	kindSnapshotChunk kind = 4 // bytes of a snapshot; none: its end
	kindSnapshotDone  kind = 5 // peerv1.SnapshotDone
	kindCallRequest   kind = 6 // peerv1.CallRequest
	kindCallResponse  kind = 7 // peerv1.CallResponse
	kindCallFailure   kind = 8 // text: why there is no CallResponse
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what stands before a payload.
type header struct {
	length int
	crc    uint32
	kind   kind
}

// parseHeader reads the header at the start of b. The limit is checked before anything is allocated for the payload.
func parseHeader(b []byte, limit int) (header, error) {
	h := header{crc: binary.BigEndian.Uint32(b[4:8]), kind: kind(b[8])}
	if v := b[9]; v != frameVersion {
		return h, fmt.Errorf("%w: format version %d, but this node reads version %d", ErrBadFrame, v, frameVersion)
	}
	length := binary.BigEndian.Uint32(b[0:4])
	if uint64(length) > uint64(limit) {
		return h, fmt.Errorf("%w: %d bytes, but at most %d are allowed here", ErrBadFrame, length, limit)
	}
	h.length = int(length)
	return h, nil
}

// verify compares the checksum in a header with that of what arrived.
func (h header) verify(head, payload []byte) error {
	if got := checksum(head, payload); got != h.crc {
		return fmt.Errorf("%w: checksum %08x of %d bytes of kind %d, but the header says %08x", ErrBadFrame, got, h.length, h.kind, h.crc)
	}
	return nil
}

func checksum(head, payload []byte) uint32 {
	c := crc32.Update(0, castagnoli, head[0:4])
	c = crc32.Update(c, castagnoli, head[8:10])
	return crc32.Update(c, castagnoli, payload)
}

// seal writes the header of a frame whose payload stands behind headerBytes free bytes.
func seal(frame []byte, k kind) {
	binary.BigEndian.PutUint32(frame[0:4], uint32(len(frame)-headerBytes))
	frame[8] = byte(k)
	frame[9] = frameVersion
	binary.BigEndian.PutUint32(frame[4:8], checksum(frame, frame[headerBytes:]))
}

// wireMessage is what generated messages can do.
type wireMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// writeMessage sends one message as one frame in one write; for what is not sent often.
func writeMessage(w io.Writer, k kind, m wireMessage) error {
	frame := make([]byte, headerBytes+m.SizeVT())
	if _, err := m.MarshalToSizedBufferVT(frame[headerBytes:]); err != nil {
		return fmt.Errorf("encode a frame of kind %d: %w", k, err)
	}
	seal(frame, k)
	_, err := w.Write(frame)
	return err
}
