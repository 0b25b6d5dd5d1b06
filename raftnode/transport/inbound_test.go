package transport

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

func batchFrame(t testing.TB, texts ...string) []byte {
	t.Helper()
	var batch peerv1.MessageBatch
	for _, text := range texts {
		batch.Messages = append(batch.Messages, raftMessage(1, text))
	}
	var b bytes.Buffer
	if err := writeMessage(&b, kindMessages, &batch); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func changed(frame []byte, at int, to byte) []byte {
	frame = bytes.Clone(frame)
	frame[at] = to
	return frame
}

func TestGarbageInsteadOfHello(t *testing.T) {
	var hello bytes.Buffer
	if err := writeMessage(&hello, kindHello, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES)); err != nil {
		t.Fatal(err)
	}
	o := newOwner()
	tr := start(t, options("b"), o)
	for i, garbage := range [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03},
		make([]byte, 100),
		frameOf(kindHello, make([]byte, helloBytesMax+1)),
		frameOf(kindHello, []byte("\xff\xff\xff")),
		batchFrame(t, "before Hello"),
		changed(hello.Bytes(), headerBytes, 0x7f),
		changed(hello.Bytes(), 9, 2),
	} {
		s := stranger(t, tr)
		if _, err := s.Write(garbage); err != nil {
			t.Fatal(err)
		}
		waitClosed(t, s)
		if got := tr.Metrics().ConnectionsRefused; got != uint64(i+1) {
			t.Fatalf("garbage %d: %d refused", i, got)
		}
	}
}

func TestTruncatedHello(t *testing.T) {
	tr := start(t, options("b"), newOwner())
	s := stranger(t, tr)
	var hello bytes.Buffer
	if err := writeMessage(&hello, kindHello, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(hello.Bytes()[:hello.Len()-1]); err != nil {
		t.Fatal(err)
	}
	if err := s.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, s)
	if tr.Metrics().ConnectionsRefused != 1 {
		t.Fatal("not counted")
	}
}

func TestGarbageAfterHello(t *testing.T) {
	good := batchFrame(t, "good")
	for name, garbage := range map[string][]byte{
		"noise":       []byte(strings.Repeat("noise", 100)),
		"wrong kind":  frameOf(kindSnapshotChunk, []byte("x")),
		"second":      frameOf(kindHello, nil),
		"bit flip":    changed(good, len(good)-1, 'D'),
		"kind flip":   changed(good, 8, byte(kindHello)),
		"version":     changed(good, 9, 2),
		"no message":  frameOf(kindMessages, []byte("\x0a\xff\xff\xff\xff\x0f")),
		"cut":         good[:len(good)-1],
		"cut header":  good[:headerBytes-1],
		"huge length": {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, byte(kindMessages), frameVersion},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOwner()
			tr := start(t, options("b"), o)
			s := introduced(t, tr, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES))
			if _, err := s.Write(append(bytes.Clone(good), garbage...)); err != nil {
				t.Fatal(err)
			}
			if err := s.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			waitClosed(t, s)
			if got := payloads(o.collect(t, 1)); got[0] != "good" {
				t.Fatal(got)
			}
			if len(o.batches) != 0 {
				t.Fatal("garbage was handed on")
			}
			if tr.Metrics().ConnectionsBroken != 1 {
				t.Fatal("not counted")
			}
		})
	}
}

func TestEndBetweenFramesIsNoFault(t *testing.T) {
	o := newOwner()
	tr := start(t, options("b"), o)
	s := introduced(t, tr, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES))
	if _, err := s.Write(batchFrame(t, "last")); err != nil {
		t.Fatal(err)
	}
	if err := s.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, s)
	o.collect(t, 1)
	if tr.Metrics().ConnectionsBroken != 0 {
		t.Fatal("counted as broken")
	}
}

func TestSilentStrangersAreClosed(t *testing.T) {
	o := options("b")
	o.HandshakeTimeout = 50 * time.Millisecond
	tr := start(t, o, newOwner())
	for _, sent := range []string{"", "\x00", "\x00\x00\x00\x10\x00\x00\x00\x00\x01\x01half"} {
		s := stranger(t, tr)
		if _, err := s.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		waitClosed(t, s)
	}
	if got := tr.Metrics().ConnectionsRefused; got != 3 {
		t.Fatalf("%d refused", got)
	}
}

func TestSilentPeersAreClosed(t *testing.T) {
	o := options("b")
	o.IdleTimeout, o.SnapshotTimeout, o.HandshakeTimeout = 50*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond
	tr := start(t, o, newOwner())
	for _, p := range []peerv1.Purpose{peerv1.Purpose_PURPOSE_MESSAGES, peerv1.Purpose_PURPOSE_SNAPSHOT, peerv1.Purpose_PURPOSE_CALL} {
		waitClosed(t, introduced(t, tr, helloOf("a", "b", p)))
	}
	if got := tr.Metrics().ConnectionsBroken; got != 3 {
		t.Fatalf("%d broken", got)
	}
}

func TestFloodOfStrangers(t *testing.T) {
	const limit, flood = 4, 40
	p := newPair(t, func(o *Options) { o.MaxInbound, o.HandshakeTimeout = limit, time.Minute })
	var open []net.Conn
	for range flood {
		open = append(open, stranger(t, p.b))
	}
	for _, s := range open[limit:] {
		waitClosed(t, s)
	}
	if got := p.b.Metrics().ConnectionsRefused; got != flood-limit {
		t.Fatalf("%d refused", got)
	}
	if !p.a.Send("b", raftMessage(1, "unmoved")) {
		t.Fatal("refused")
	}
	p.ob.collect(t, 1)
	p.oa.quiet(t)
}

func TestBoundOfKnownConnections(t *testing.T) {
	o := options("b")
	o.MaxInbound = 3
	tr := start(t, o, newOwner())
	var open []net.Conn
	for i := range 3 {
		open = append(open, introduced(t, tr, helloOf(NodeID(fmt.Sprint("n", i)), "b", peerv1.Purpose_PURPOSE_MESSAGES)))
	}
	s := stranger(t, tr)
	if err := writeMessage(s, kindHello, helloOf("late", "b", peerv1.Purpose_PURPOSE_MESSAGES)); err != nil {
		t.Fatal(err)
	}
	if answer, err := readHello(s); err != nil || !strings.Contains(answer.GetRefusal(), "too many") {
		t.Fatalf("answer %v, %v", answer, err)
	}
	if err := open[0].(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, open[0])
	if err := retry(contextFor(t), func() bool { // the place is free a moment after the connection is closed
		s := stranger(t, tr)
		if writeMessage(s, kindHello, helloOf("late", "b", peerv1.Purpose_PURPOSE_MESSAGES)) != nil {
			return false
		}
		answer, err := readHello(s)
		return err == nil && answer.GetRefusal() == ""
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPiecesAreHeard has a peer whose frame comes slowly: each piece of it is heard, and a byte now and then is not.
func TestPiecesAreHeard(t *testing.T) {
	const count = 10
	o := newOwner()
	tr := start(t, options("b"), o)
	s := introduced(t, tr, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES))
	frame := batchFrame(t, strings.Repeat("x", count*PieceBytes))
	for sent := 0; sent < count*PieceBytes; sent += PieceBytes {
		if _, err := s.Write(frame[sent : sent+PieceBytes]); err != nil {
			t.Fatal(err)
		}
		if err := retry(contextFor(t), func() bool { return o.pieces.Load() == int64(1+sent/PieceBytes) }); err != nil {
			t.Fatalf("%d pieces are heard of %d", o.pieces.Load(), 1+sent/PieceBytes)
		}
	}
	if len(o.batches) != 0 {
		t.Fatal("half a frame was handed on")
	}
	if _, err := s.Write(frame[count*PieceBytes:]); err != nil {
		t.Fatal(err)
	}
	o.collect(t, 1)

	heard := 0
	r := &pieces{Reader: iotest.OneByteReader(bytes.NewReader(frame)), left: PieceBytes, heard: func() { heard++ }}
	for read := 1; read < PieceBytes; read++ {
		if _, err := r.Read(make([]byte, 10)); err != nil || heard != 0 {
			t.Fatalf("heard %d times after %d bytes: %v", heard, read, err)
		}
	}
}

func TestNewerConnectionReplacesOlder(t *testing.T) {
	o := newOwner()
	tr := start(t, options("b"), o)
	h := helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES)
	first := introduced(t, tr, h)
	second := introduced(t, tr, h)
	waitClosed(t, first)
	if _, err := second.Write(batchFrame(t, "second")); err != nil {
		t.Fatal(err)
	}
	o.collect(t, 1)
	if tr.Metrics().ConnectionsBroken != 0 {
		t.Fatal("counted as broken")
	}
}

func TestMessagesKeepTheirOrderAcrossConnections(t *testing.T) {
	o := &stuck{newOwner(), make(chan struct{})}
	tr := start(t, options("b"), o)
	h := helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES)
	first := introduced(t, tr, h)
	if _, err := first.Write(append(batchFrame(t, "1"), batchFrame(t, "2")...)); err != nil {
		t.Fatal(err)
	}
	o.release <- struct{}{} // the handler has the first batch, and the reader both
	for i := range 3 {
		s := introduced(t, tr, h)
		if _, err := s.Write(batchFrame(t, fmt.Sprint("superseded ", i))); err != nil {
			t.Fatal(err)
		}
	}
	last := introduced(t, tr, h)
	if _, err := last.Write(batchFrame(t, "3")); err != nil {
		t.Fatal(err)
	}
	close(o.release)
	got := payloads(o.collect(t, 3))
	if !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Fatal(got)
	}
}

func TestComplaintsAreRationed(t *testing.T) {
	var c complaint
	now := time.Unix(100, 0)
	if kept, ok := c.due(now); !ok || kept != 0 {
		t.Fatal("the first must be logged")
	}
	for range 5 {
		if _, ok := c.due(now.Add(complaintInterval - 1)); ok {
			t.Fatal("too early")
		}
	}
	if kept, ok := c.due(now.Add(complaintInterval)); !ok || kept != 5 {
		t.Fatalf("kept %d", kept)
	}
}

// exhausted is a listener that has no descriptors for a while.
type exhausted struct {
	net.Listener
	failures int
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}

func TestAcceptSurvivesFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := options("b")
	o.Listener = &exhausted{l, 3}
	tr := start(t, o, newOwner())
	introduced(t, tr, helloOf("a", "b", peerv1.Purpose_PURPOSE_MESSAGES))
}
