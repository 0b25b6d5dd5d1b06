package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// The bytes of a frame are a contract between releases.
func TestFrameFormat(t *testing.T) {
	want := []byte{0, 0, 0, 3, 0xe4, 0x76, 0x2b, 0xbc, 4, 1, 'a', 'b', 'c'}
	if got := frameOf(kindSnapshotChunk, []byte("abc")); !bytes.Equal(got, want) {
		t.Fatalf("frame %#v", got)
	}
}

func TestFramesOfAllSizes(t *testing.T) {
	const buffer = 64
	var stream bytes.Buffer
	sizes := []int{0, 1, buffer - headerBytes, buffer - 1, buffer, buffer + 1, 10 * buffer, growBytes, growBytes + 1, keepBytesMax + 1, 5}
	for i, n := range sizes {
		stream.Write(frameOf(kind(i), bytes.Repeat([]byte{byte(i)}, n)))
	}
	r := newFrameReader(&stream, 8<<20, buffer)
	for i, n := range sizes {
		k, payload, err := r.next()
		if err != nil || k != kind(i) || !bytes.Equal(payload, bytes.Repeat([]byte{byte(i)}, n)) {
			t.Fatalf("frame %d: kind %d, %d bytes, %v", i, k, len(payload), err)
		}
	}
	if _, _, err := r.next(); err != io.EOF {
		t.Fatalf("error %v", err)
	}
	if cap(r.large) > keepBytesMax {
		t.Fatal("a huge buffer is kept")
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	frame := frameOf(kindMessages, []byte("payload"))
	for bit := range 8 * len(frame) {
		damaged := bytes.Clone(frame)
		damaged[bit/8] ^= 1 << (bit % 8)
		_, _, err := newFrameReader(bytes.NewReader(damaged), 1<<10, 64).next()
		if err == nil {
			t.Fatalf("bit %d was not noticed", bit)
		}
	}
}

func TestEveryCutIsNoticed(t *testing.T) {
	frame := frameOf(kindMessages, bytes.Repeat([]byte("payload"), 30))
	for n := 1; n < len(frame); n++ {
		for _, buffer := range []int{16, 1024} {
			_, _, err := newFrameReader(bytes.NewReader(frame[:n]), 1<<10, buffer).next()
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("cut at %d: %v", n, err)
			}
		}
	}
}

func TestPromisedLengthCostsNoMemory(t *testing.T) {
	head := make([]byte, headerBytes)
	binary.BigEndian.PutUint32(head, 1<<30)
	head[9] = frameVersion
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := newFrameReader(bytes.NewReader(head), 1<<30, 64).next()
	runtime.ReadMemStats(&after)
	if err != io.ErrUnexpectedEOF {
		t.Fatalf("error %v", err)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 4*growBytes {
		t.Fatalf("%d bytes allocated", allocated)
	}
}

// FuzzFrames reads anything as a stream of frames: no panic, no more memory than input, and whatever is accepted is exactly what
// was written.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, 16)
	f.Add(frameOf(kindHello, nil), 16)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), 4096)
	f.Add(append(batchFrame(f, "one", "two"), batchFrame(f, "three")...), 64)
	f.Add(batchFrame(f, "cut")[:20], 16)
	f.Add(changed(batchFrame(f, "flipped"), headerBytes+2, 0xff), 16)
	f.Add(changed(batchFrame(f, "newer"), 9, 2), 16)
	var hello, start bytes.Buffer
	if err := errors.Join(
		writeMessage(&hello, kindHello, helloOf("a", "b", peerv1.Purpose_PURPOSE_SNAPSHOT)),
		writeMessage(&start, kindSnapshotStart, startOf(1)),
	); err != nil {
		f.Fatal(err)
	}
	f.Add(append(hello.Bytes(), append(start.Bytes(), frameOf(kindSnapshotChunk, nil)...)...), 32)
	const limit = 1 << 16
	f.Fuzz(func(t *testing.T, stream []byte, buffer int) {
		r := newFrameReader(bytes.NewReader(stream), limit, min(max(buffer, 16), limit))
		rest := stream
		for {
			k, payload, err := r.next()
			if err != nil {
				if err == io.EOF && len(rest) != 0 {
					t.Fatalf("%d bytes were passed over", len(rest))
				}
				break
			}
			frame := frameOf(k, payload)
			if !bytes.HasPrefix(rest, frame) {
				t.Fatal("what was read is not what was written")
			}
			rest = rest[len(frame):]
			decode(k, payload)
		}
		if h, err := readHello(bytes.NewReader(stream)); err == nil && h == nil {
			t.Fatal("neither a Hello nor an error")
		}
		body := &chunkReader{frames: newFrameReader(bytes.NewReader(stream), limit, 64)}
		if n, _ := io.Copy(io.Discard, body); n > int64(len(stream)) {
			t.Fatal("more came out than went in")
		}
	})
}

// decode does with a payload what the transport does.
func decode(k kind, payload []byte) {
	var m interface{ UnmarshalVT([]byte) error }
	switch k {
	case kindHello:
		m = new(peerv1.Hello)
	case kindMessages:
		m = new(peerv1.MessageBatch)
	case kindSnapshotStart:
		m = new(peerv1.SnapshotStart)
	case kindSnapshotDone:
		m = new(peerv1.SnapshotDone)
	case kindCallRequest:
		m = new(peerv1.CallRequest)
	case kindCallResponse:
		m = new(peerv1.CallResponse)
	default:
		return
	}
	if m.UnmarshalVT(payload) != nil {
		return
	}
	if batch, ok := m.(*peerv1.MessageBatch); ok {
		tr := &Transport{}
		for _, kept := range tr.addressed(batch.GetMessages()) {
			if kept.GetBody() == nil {
				panic("a message without a body was kept")
			}
		}
	}
}
