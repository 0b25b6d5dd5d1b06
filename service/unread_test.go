package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode"
)

// feed gives a watch 200 KiB whenever it asks, until it has ended; then it says how often.
func (s *fakeStream) feed() <-chan int {
	events := &raftnode.WatchBatch{Shard: 1, Events: []raftnode.WatchEvent{{Revision: 1, Key: strings.Repeat("k", 200<<10)}}}
	fed := make(chan int, 1)
	go func() {
		for sent := 0; ; sent++ {
			select {
			case s.batches <- events:
			case <-s.closed:
				fed <- sent
				return
			}
		}
	}()
	return fed
}

// read reads until something comes on one stream. It returns true if the other has been reset, or the connection closed.
func (m *mutedConn) read(stream, other uint32) (ended bool) {
	for {
		frame, err := m.framer.ReadFrame()
		if err != nil {
			return true
		}
		switch f := frame.(type) {
		case *http2.RSTStreamFrame:
			if f.StreamID == other {
				return true
			}
		case *http2.DataFrame:
			if f.StreamID == stream {
				return false
			}
		}
	}
}

// unreadCall is a call whose answer the client leaves where it is.
type unreadCall struct {
	name, path, kind string
	body             []byte
	native           bool
	headers          []string
}

// An answer that the client leaves where it is ends in time although another stream of the same connection is read all along. What it
// held is in the budget again, and clients with other connections notice nothing.
func TestUnreadBesideWhatIsRead(t *testing.T) {
	const watch, get, scan, exec = raftkvv1connect.WatchServiceWatchProcedure, kvPath + "Get", kvPath + "Scan", kvPath + "Exec"
	run, err := (&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execGet(1, "k")}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("\x0a\x01k")
	for _, call := range []unreadCall{
		{"watch over grpc", watch, "application/grpc", key, true, nil},
		{"get over grpc", get, "application/grpc", key, true, nil},
		{"get over grpc, compressed", get, "application/grpc", key, true, []string{"grpc-encoding", "gzip", "grpc-accept-encoding", "gzip"}},
		{"scan over grpc", scan, "application/grpc", nil, true, nil},
		{"exec over grpc", exec, "application/grpc", run, true, nil},
		{"watch over grpc on http", watch, "application/grpc", key, false, nil},
		{"watch over grpc-web", watch, "application/grpc-web", key, false, nil},
		{"watch over connect", watch, "application/connect+proto", key, false, nil},
		{"scan over connect", scan, "application/connect+proto", nil, false, nil},
		{"exec over connect", exec, "application/connect+proto", run, false, nil},
	} {
		t.Run(call.name, call.check)
	}
}

func (u unreadCall) check(t *testing.T) {
	const watch = raftkvv1connect.WatchServiceWatchProcedure
	f := newFixture(t)
	f.service.transferTimeout = 500 * time.Millisecond
	value := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(value) // It cannot be compressed.
	f.node.records["k"], f.node.records["n"] = recordOf(string(value)), recordOf("")
	unread, read := f.fakeWatch(nil), f.fakeWatch(nil)
	f.service.watch = func(_ context.Context, r raftnode.WatchRequest) (watchStream, error) {
		if r.Key == "k" {
			return unread, nil
		}
		return read, nil
	}
	fed := unread.feed()
	m := dialMuted(t, map[bool]string{true: f.grpc, false: f.address}[u.native])
	m.must(m.framer.WriteWindowUpdate(0, 1<<30))
	m.call(watch, u.kind, enveloped(nil), true)
	m.must(m.framer.WriteWindowUpdate(1, 1<<30))
	m.call(u.path, u.kind, enveloped(u.body), true, u.headers...)
	late := time.After(30 * time.Second)
	for ended := false; !ended; ended = m.read(1, 3) {
		select {
		case read.batches <- createdBatch:
		case <-read.closed: // The test was slow itself.
		case <-late:
			t.Fatalf("%d bytes are held for ever", f.service.budget.used.Load())
		}
		if code, b := f.rest(t, "GET", "/v1/kv/n", nil); code != 200 {
			t.Fatalf("%d %s", code, b)
		}
	}
	if u.path != watch {
		close(unread.closed)
	} else if sent := <-fed; sent == 0 || sent > 2 {
		t.Errorf("%d batches of 200 KiB were taken", sent)
	}
	// Over HTTP/2 the connection goes on, and the stream that is read has its base.
	retry(t, func() bool { return f.service.budget.used.Load() <= 2*exchangeBytes })
	if u.native {
		_, _ = io.Copy(io.Discard, m.conn) // until it is closed
	} else {
		m.ping()
	}
}

// A stream that ends because the client takes nothing of it, or has gone in the middle of a message, is no fault of the node for its operator to look at.
func TestUntakenIsNoError(t *testing.T) {
	lines := "GET /v1/kv HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n"
	connect := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+proto\r\nContent-Length: 5\r\n\r\n%s",
		raftkvv1connect.WatchServiceWatchProcedure, enveloped(nil))
	for _, c := range []struct {
		name, request string
		gone          bool
	}{
		{"watch by sse, not taken", "GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"watch by sse, gone", "GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"watch by connect, not taken", connect, false},
		{"watch by connect, gone", connect, true},
		{"scan by lines, not taken", lines, false},
		{"scan by lines, gone", lines, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &syncBuffer{}
			f := newFixture(t, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
			f.service.transferTimeout = 300 * time.Millisecond
			for i := range 20 {
				f.node.records[fmt.Sprint("k", i)] = recordOf(strings.Repeat("v", 1<<20))
			}
			op := "scan"
			if c.request != lines {
				op = "watch"
				f.fakeWatch(nil).feed()
			}
			conn, err := net.Dial("tcp", f.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.request); err != nil {
				t.Fatal(err)
			}
			if c.gone {
				if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
				_ = conn.Close()
			}
			retry(t, func() bool { return valueOf(t, f.service.metrics.requests.WithLabelValues(op, "canceled")) == 1 })
			if text := log.take(); strings.Contains(text, "level=ERROR") {
				t.Error(text)
			}
		})
	}
}

// The time of each call runs from what its client has last taken of it, or from the first that it has not.
func TestTimesOfAnswers(t *testing.T) {
	const timeout = 10 * time.Second
	for name, test := range map[string]struct {
		do   func(c *answerConn, a, b *answerAccount)
		ends time.Duration // 0: never
	}{
		"nothing is owed": {func(c *answerConn, a, _ *answerAccount) {
			c.take(a, 1)
			c.give(a, 1)
		}, 0},
		"nothing is taken": {func(c *answerConn, a, b *answerAccount) {
			c.take(a, 1)
			time.Sleep(6 * time.Second)
			c.take(a, 1)
			c.take(b, 1)
		}, 10 * time.Second},
		"all is taken but late": {func(c *answerConn, a, b *answerAccount) {
			for range 3 {
				c.take(a, 1)
				c.take(b, 1)
				time.Sleep(9 * time.Second)
				c.give(a, 1)
				c.give(b, 1)
			}
		}, 0},
		"some of each is taken": {func(c *answerConn, a, b *answerAccount) {
			c.take(a, 4)
			c.take(b, 4)
			for range 4 {
				time.Sleep(9 * time.Second)
				c.give(a, 1)
				c.give(b, 1)
			}
		}, 0},
		"only the other is taken": {func(c *answerConn, a, b *answerAccount) {
			c.take(a, 9)
			time.Sleep(3 * time.Second)
			c.take(b, 1)
			for range 9 {
				time.Sleep(2 * time.Second)
				c.give(a, 1)
			}
		}, 13 * time.Second},
		"the other is lost": {func(c *answerConn, a, b *answerAccount) {
			c.take(b, 1)
			c.lose(b)
			c.take(b, 1)
			time.Sleep(3 * time.Second)
			c.take(a, 1)
		}, 13 * time.Second},
		"a large answer is taken part by part": {func(c *answerConn, a, _ *answerAccount) {
			takeParts(t, a, 8)
		}, 0},
		"a large answer is taken up to a part": {func(c *answerConn, a, _ *answerAccount) {
			takeParts(t, a, 7)
		}, 52 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if ended := answersEnd(t, timeout, test.do); ended != test.ends {
					t.Errorf("it was closed at %s, want %s", ended, test.ends)
				}
			})
		})
	}
}

// takeParts makes an answer of 1 MiB and takes parts of it, one every six seconds, as the transport of grpc-go does.
func takeParts(t *testing.T, a *answerAccount, parts int) {
	t.Helper()
	message := &raftkvv1.GetResponse{Kv: &raftkvv1.KeyValue{Value: make([]byte, 1<<20)}}
	data, err := grpcCodec{}.Marshal(&outbound{message: message, pool: &answerPool{account: a}})
	if err != nil || len(data) != answerParts {
		t.Fatalf("%d parts, %v", len(data), err)
	}
	size := data[0].Len()
	var r mem.Reader
	r.Reset(data)
	data.Free()
	for range parts {
		time.Sleep(6 * time.Second)
		_, _ = r.Discard(min(size, r.Remaining()))
	}
}

// answersEnd says when a connection is closed with which something is done; 0: never.
func answersEnd(t *testing.T, timeout time.Duration, do func(c *answerConn, a, b *answerAccount)) (ended time.Duration) {
	near, far := net.Pipe()
	service := &Service{transferTimeout: timeout}
	conn, _, err := answerCredentials{insecure.NewCredentials(), service}.ServerHandshake(near)
	if err != nil {
		t.Fatal(err)
	}
	c, began, closed := conn.(*answerConn), time.Now(), make(chan time.Duration, 1)
	go func() {
		_, _ = far.Read(make([]byte, 1)) // until it is closed
		closed <- time.Since(began)
	}()
	do(c, &answerAccount{conn: c}, &answerAccount{conn: c})
	time.Sleep(2 * timeout)
	synctest.Wait()
	select {
	case ended = <-closed:
	default:
	}
	_ = c.Close()
	if used := service.budget.used.Load(); used != 0 {
		t.Errorf("%d bytes are held", used)
	}
	return ended
}
