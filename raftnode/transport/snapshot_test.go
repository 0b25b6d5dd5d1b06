package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

const snapshotBytes = 50 << 20

// noise is a stream of n bytes that costs no memory.
func noise(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

func sumOf(t testing.TB, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func startOf(shard uint32) *peerv1.SnapshotStart {
	return &peerv1.SnapshotStart{Shard: shard, Message: []byte("MsgSnap"), ToIncarnation: 7}
}

func TestSnapshotStreamsInBoundedMemory(t *testing.T) {
	p := newPair(t)
	var got [32]byte
	p.ob.snapshot = func(from Peer, s *peerv1.SnapshotStart, body io.Reader) error {
		if from != (Peer{"a", 7}) || s.GetShard() != 5 || string(s.GetMessage()) != "MsgSnap" {
			t.Errorf("start %+v of %+v", s, from)
		}
		got = sumOf(t, body)
		return nil
	}
	want := sumOf(t, noise(snapshotBytes))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := p.a.SendSnapshot(contextFor(t), "b", startOf(5), noise(snapshotBytes)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got != want {
		t.Fatal("contents differ")
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 8*chunkBytes {
		t.Fatalf("%d bytes allocated for both sides", allocated)
	}
}

func TestSnapshotSizes(t *testing.T) {
	p := newPair(t)
	var got []byte
	p.ob.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) (err error) {
		got, err = io.ReadAll(iotest.HalfReader(body))
		return err
	}
	for _, n := range []int64{0, 1, chunkBytes - 1, chunkBytes, chunkBytes + 1, 3 * chunkBytes} {
		want, _ := io.ReadAll(noise(n))
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
		} {
			if err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), wrap(noise(n))); err != nil {
				t.Fatal(n, name, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatal(n, name, "contents differ")
			}
		}
	}
}

func TestReceiverThatFailsSaysWhy(t *testing.T) {
	p := newPair(t)
	for name, readBefore := range map[string]int64{"at once": 0, "midway": snapshotBytes / 2, "at the end": snapshotBytes} {
		t.Run(name, func(t *testing.T) {
			p.ob.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) error {
				if _, err := io.CopyN(io.Discard, body, readBefore); err != nil {
					t.Error(err)
				}
				return errors.New("no space for it")
			}
			err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), noise(snapshotBytes))
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Reason != "no space for it" || refused.Node != "b" {
				t.Fatalf("error %v", err)
			}
		})
	}
	p.oa.quiet(t) // messages have a connection of their own
}

func TestSnapshotForAnotherIncarnation(t *testing.T) {
	p := newPair(t)
	s := startOf(1)
	s.ToIncarnation = 8
	err := p.a.SendSnapshot(contextFor(t), "b", s, noise(snapshotBytes))
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "incarnation 8") {
		t.Fatalf("error %v", err)
	}
}

// Whatever goes wrong with the body, the receiver must not take what arrived for the whole.
func TestBodyThatFails(t *testing.T) {
	p := newPair(t)
	result := make(chan error, 1)
	p.ob.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		result <- err
		return err
	}
	for _, cause := range []error{
		errors.New("disk"), io.ErrUnexpectedEOF, fmt.Errorf("read: %w", io.EOF),
	} {
		body := io.MultiReader(noise(3*chunkBytes+5), iotest.ErrReader(cause))
		err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), body)
		if !errors.Is(err, cause) {
			t.Fatalf("error %v", err)
		}
		if got := receive(t, result); !errors.Is(got, io.ErrUnexpectedEOF) && !errors.As(got, new(net.Error)) {
			t.Fatalf("the receiver saw %v", got)
		}
	}
	err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), stalled{})
	if !errors.Is(err, io.ErrNoProgress) {
		t.Fatalf("error %v", err)
	}
	if got := receive(t, result); got == nil {
		t.Fatal("the receiver took it")
	}
}

type stalled struct{}

func (stalled) Read([]byte) (int, error) { return 0, nil }

// A handler that stops reading early and is content cannot know that all has arrived; the transport checks for it.
func TestHandlerThatDoesNotReadToTheEnd(t *testing.T) {
	p := newPair(t)
	p.ob.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) error { return nil }
	if err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), noise(snapshotBytes)); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("disk")
	err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), io.MultiReader(noise(chunkBytes), iotest.ErrReader(cause)))
	if !errors.Is(err, cause) {
		t.Fatalf("error %v", err)
	}
}

func TestSnapshotHasThreeExits(t *testing.T) {
	p := newPair(t)
	entered := make(chan struct{})
	ended := make(chan error, 1)
	p.ob.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) error {
		entered <- struct{}{}
		_, err := io.Copy(io.Discard, body)
		ended <- err
		return err
	}
	result := make(chan error, 1)
	send := func(ctx context.Context) {
		go func() { result <- p.a.SendSnapshot(ctx, "b", startOf(1), rand.NewChaCha8([32]byte{})) }()
		receive(t, entered)
	}
	ctx, cancel := context.WithCancel(context.Background())
	send(ctx)
	cancel()
	if err := receive(t, result); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if receive(t, ended) == nil {
		t.Fatal("the receiver took it")
	}
	send(context.Background())
	p.b.Close()
	if err := receive(t, result); err == nil {
		t.Fatal("the other side is gone")
	}
	<-ended
	o := options("b")
	o.Listen = p.b.Addr().String()
	p.b = start(t, o, p.ob)
	send(context.Background())
	p.a.Close()
	if err := receive(t, result); !errors.Is(err, ErrClosed) {
		t.Fatalf("closed: %v", err)
	}
	if receive(t, ended) == nil {
		t.Fatal("the receiver took it")
	}
	if err := p.a.SendSnapshot(context.Background(), "b", startOf(1), noise(1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("closed before: %v", err)
	}
}

func TestSnapshotToAnUnknownPeer(t *testing.T) {
	tr := start(t, options("a"), newOwner())
	if err := tr.SendSnapshot(context.Background(), "b", startOf(1), noise(1)); !errors.Is(err, ErrUnknownPeer) {
		t.Fatalf("error %v", err)
	}
}

func TestDamagedSnapshotIsNotTaken(t *testing.T) {
	o := newOwner()
	ended := make(chan error, 1)
	o.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		ended <- err
		return nil // even if the handler does not look
	}
	tr := start(t, options("b"), o)
	chunk := frameOf(kindSnapshotChunk, []byte("contents"))
	for name, sent := range map[string][]byte{
		"bit flip":   changed(chunk, headerBytes, 'X'),
		"wrong kind": frameOf(kindMessages, nil),
		"cut chunk":  chunk[:len(chunk)-1],
		"no end":     chunk,
	} {
		t.Run(name, func(t *testing.T) {
			s := introduced(t, tr, helloOf("a", "b", peerv1.Purpose_PURPOSE_SNAPSHOT))
			if err := writeMessage(s, kindSnapshotStart, startOf(1)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(append(bytes.Clone(chunk), sent...)); err != nil {
				t.Fatal(err)
			}
			if err := s.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if receive(t, ended) == nil {
				t.Fatal("taken")
			}
			if rest, err := io.ReadAll(s); len(rest) != 0 {
				t.Fatalf("answered %q, %v", rest, err)
			}
		})
	}
}
