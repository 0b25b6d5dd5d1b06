package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode"
)

// newNodeFixture is a service over a real node of its own.
func newNodeFixture(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	n := openNode(t, nil)
	return newFixture(t, append([]func(*Options){func(o *Options) { o.Node = n }}, change...)...)
}

func (f *fixture) mustPut(t testing.TB, key, value string) {
	t.Helper()
	if code, b := f.rest(t, "PUT", "/v1/kv/"+key, []byte(value)); code != 200 {
		t.Fatalf("%d %s", code, b)
	}
}

func (f *fixture) mustDelete(t testing.TB, key string) {
	t.Helper()
	if code, b := f.rest(t, "DELETE", "/v1/kv/"+key, nil); code != 200 {
		t.Fatalf("%d %s", code, b)
	}
}

// receiver is a watch on some protocol.
type receiver func() (*raftkvv1.WatchResponse, error)

// watchClients open a watch on every protocol but REST.
func (f *fixture) watchClients(t testing.TB) map[string]func(context.Context, *raftkvv1.WatchRequest) receiver {
	on := func(client *http.Client, options ...connect.ClientOption) func(context.Context, *raftkvv1.WatchRequest) receiver {
		return func(ctx context.Context, req *raftkvv1.WatchRequest) receiver {
			stream, err := raftkvv1connect.NewWatchServiceClient(client, f.url, options...).Watch(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = stream.Close() })
			return func() (*raftkvv1.WatchResponse, error) {
				if !stream.Receive() {
					return nil, stream.Err()
				}
				return proto.Clone(stream.Msg()).(*raftkvv1.WatchResponse), nil
			}
		}
	}
	conn := f.dial(t)
	return map[string]func(context.Context, *raftkvv1.WatchRequest) receiver{
		"connect":      on(f.http),
		"connect json": on(f.http, connect.WithProtoJSON()),
		"connect h2":   on(f.h2c),
		"grpc-web":     on(f.http, connect.WithGRPCWeb()),
		"grpc on http": on(f.h2c, connect.WithGRPC()),
		"grpc": func(ctx context.Context, req *raftkvv1.WatchRequest) receiver {
			stream, err := raftkvv1.NewWatchServiceClient(conn).Watch(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			return stream.Recv
		},
	}
}

// eventText is an event as the tests write it.
func eventText(e *raftkvv1.Event) string {
	sign := map[bool]string{true: "=", false: "+"}[e.GetInitial()]
	if e.GetType() == raftkvv1.EventType_EVENT_TYPE_DELETE {
		sign = "-"
	}
	text := sign + e.GetKv().GetKey() + " " + string(e.GetKv().GetValue())
	if e.GetPrevKv() != nil {
		text += "(" + string(e.GetPrevKv().GetValue()) + ")"
	}
	return text
}

// events receives n events, and returns them with the last token.
func (r receiver) events(t testing.TB, n int) (got []string, token string) {
	t.Helper()
	for len(got) < n {
		res, err := r()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range res.GetEvents() {
			got = append(got, eventText(e))
		}
		token = res.GetToken()
	}
	return got, token
}

func TestWatchOnEveryProtocol(t *testing.T) {
	f := newNodeFixture(t)
	f.mustPut(t, "a", "0")
	for name, open := range f.watchClients(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f.mustPut(t, "a", "0")
			f.mustDelete(t, "b")
			next := open(ctx, &raftkvv1.WatchRequest{Prefix: "", IncludeInitial: true, PrevKv: true})
			first, err := next()
			if err != nil || !first.GetCreated() || len(first.GetProgress()) != 1 || first.GetHeader().GetNodeId() != "n1" || first.GetHeader().GetClusterId() == "" {
				t.Fatal(first, err)
			}
			got, _ := next.events(t, 1)
			f.mustPut(t, "a", "1")
			f.mustDelete(t, "a")
			f.mustPut(t, "b", "2")
			more, token := next.events(t, 3)
			if got, want := append(got, more...), []string{"=a 0", "+a 1(0)", "-a (1)", "+b 2"}; !slices.Equal(got, want) {
				t.Fatalf("%q, want %q", got, want)
			}
			f.mustPut(t, "b", "3")
			if got, _ := open(ctx, &raftkvv1.WatchRequest{Token: token}).events(t, 1); !slices.Equal(got, []string{"+b 3"}) {
				t.Fatalf("behind the token: %q", got)
			}
		})
	}
}

func TestWatchErrorsOnEveryProtocol(t *testing.T) {
	f := newNodeFixture(t)
	for name, open := range f.watchClients(t) {
		for _, row := range []struct {
			req    *raftkvv1.WatchRequest
			reason string
		}{
			{&raftkvv1.WatchRequest{Key: "a", Revision: 1000}, "FUTURE_REVISION"},
			{&raftkvv1.WatchRequest{Key: "a", Prefix: "b"}, "INVALID"},
			{&raftkvv1.WatchRequest{NoPuts: true, NoDeletes: true}, "INVALID"},
			{&raftkvv1.WatchRequest{Token: "x"}, "INVALID"},
			{&raftkvv1.WatchRequest{Shards: []uint32{7}}, "INVALID"},
			{&raftkvv1.WatchRequest{Key: strings.Repeat("k", 5000)}, "LIMIT_EXCEEDED"},
			{&raftkvv1.WatchRequest{ProgressIntervalMs: 1}, "INVALID"},
		} {
			_, err := open(t.Context(), row.req)()
			if err == nil {
				t.Fatalf("%s: %v is taken", name, row.req)
			}
			if got := protojson.Format(wireStatus(t, err)); !strings.Contains(got, row.reason) {
				t.Errorf("%s: %v: %s", name, row.req, got)
			}
		}
	}
}

// sse is one server-sent event.
type sse struct{ id, event, data, comment string }

// sseReader reads a stream of events as a browser would.
type sseReader struct {
	t     testing.TB
	lines *bufio.Scanner
}

// watchSSE opens /v1/watch; headers are pairs.
func (f *fixture) watchSSE(t testing.TB, query string, headers ...string) (*http.Response, *sseReader) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+watchPath+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := f.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	s := &sseReader{t, bufio.NewScanner(res.Body)}
	s.lines.Buffer(nil, 4<<20)
	return res, s
}

func (s *sseReader) next() (e sse) {
	s.t.Helper()
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.event = value
		case "data":
			e.data = value
		case "":
			if e != (sse{}) || value != "" {
				e.comment += value
			}
			if value == "" && e != (sse{}) {
				return e
			}
		}
	}
	s.t.Fatalf("the stream ends: %v", s.lines.Err())
	return e
}

// named reads up to and including the next event of a name.
func (s *sseReader) named(name string) sse {
	s.t.Helper()
	for {
		if e := s.next(); e.event == name {
			return e
		}
	}
}

func TestServerSentEvents(t *testing.T) {
	f := newNodeFixture(t)
	f.mustPut(t, "a/1", "one")
	res, s := f.watchSSE(t, "?prefix=a/&initial=true&prev=true&progress_interval_ms=100")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatal(res.StatusCode, res.Header)
	}
	created := s.next()
	if created.event != "created" || created.id == "" || !json.Valid([]byte(created.data)) {
		t.Fatalf("%+v", created)
	}
	initial := s.named("put")
	event := new(raftkvv1.Event)
	if err := protojson.Unmarshal([]byte(initial.data), event); err != nil || eventText(event) != "=a/1 one" {
		t.Fatalf("%+v %v", initial, err)
	}
	s.named("initial_done")
	f.mustPut(t, "a/1", "two")
	put := s.named("put")
	if err := protojson.Unmarshal([]byte(put.data), event); err != nil || eventText(event) != "+a/1 two(one)" || put.id == "" {
		t.Fatalf("%+v %v", put, err)
	}
	f.mustDelete(t, "a/1")
	if err := protojson.Unmarshal([]byte(s.named("delete").data), event); err != nil || eventText(event) != "-a/1 (two)" {
		t.Fatal(event, err)
	}
	if e := s.named("progress"); !strings.Contains(e.data, `"progress":[{`) || e.id == "" {
		t.Fatalf("%+v", e)
	}
	// A browser comes again with what it has seen last, and with the same address.
	_, again := f.watchSSE(t, "?prefix=a/&initial=true&prev=true", "Last-Event-ID", put.id)
	if err := protojson.Unmarshal([]byte(again.named("delete").data), event); err != nil || eventText(event) != "-a/1 (two)" {
		t.Fatal(event, err)
	}
}

// The id of an event is that of its revision, and stands only behind the last event of one.
func TestServerSentEventsOfARevision(t *testing.T) {
	f := newNodeFixture(t)
	batch := func(keys ...string) {
		req := &raftkvv1.BatchRequest{}
		for _, k := range keys {
			req.Operations = append(req.Operations, putOp(k, "v"))
		}
		if code, b := f.rest(t, "POST", "/v1/batch", asJSON(t, req)); code != 200 {
			t.Fatalf("%d %s", code, b)
		}
	}
	batch("a", "b")
	batch("c", "d")
	_, s := f.watchSSE(t, "?revision=1&end=z")
	var events []sse
	for range 4 {
		events = append(events, s.named("put"))
	}
	if events[0].id != "" || events[1].id == "" || events[2].id != "" || events[3].id == "" {
		t.Errorf("ids %q %q %q %q", events[0].id, events[1].id, events[2].id, events[3].id)
	}
	_, s = f.watchSSE(t, "?revision=1&end=z", "Last-Event-ID", events[1].id)
	if e := s.named("put"); !strings.Contains(e.data, `"key":"c"`) {
		t.Errorf("behind the first revision comes %s", e.data)
	}
}

func TestServerSentEventsAreRefused(t *testing.T) {
	f := newNodeFixture(t)
	for _, row := range []struct {
		method, query, reason string
		status                int
	}{
		{"GET", "?key=a&revision=1000", "FUTURE_REVISION", 400},
		{"GET", "?key=a&prefix=b", "INVALID", 400},
		{"GET", "?nonsense=1", "MALFORMED", 400},
		{"GET", "?revision=x", "MALFORMED", 400},
		{"GET", "?prev=true&prev_kv=true", "MALFORMED", 400},
		{"GET", "?token=x", "INVALID", 400},
		{"POST", "", "METHOD_NOT_ALLOWED", 405},
	} {
		code, b := f.rest(t, row.method, watchPath+row.query, nil)
		if code != row.status || !strings.Contains(string(b), row.reason) {
			t.Errorf("%s %s: %d %s", row.method, row.query, code, b)
		}
	}
}

// fakeStream is a watch that a test feeds.
type fakeStream struct {
	batches chan *raftnode.WatchBatch
	err     error // behind them
	closed  chan struct{}
}

func (s *fakeStream) Next(ctx context.Context, _ uint64) (*raftnode.WatchBatch, error) {
	select {
	case b, ok := <-s.batches:
		if !ok {
			return nil, s.err
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *fakeStream) Token() string { return "token" }

func (s *fakeStream) TokenBehind(*raftnode.WatchBatch, int) string { return "token behind" }

func (s *fakeStream) Close() { close(s.closed) }

// fakeWatch makes the service watch what the test feeds.
func (f *fixture) fakeWatch(err error, batches ...*raftnode.WatchBatch) *fakeStream {
	s := &fakeStream{batches: make(chan *raftnode.WatchBatch, len(batches)), err: err, closed: make(chan struct{})}
	for _, b := range batches {
		s.batches <- b
	}
	if err != nil {
		close(s.batches)
	}
	f.service.watch = func(context.Context, raftnode.WatchRequest) (watchStream, error) { return s, nil }
	return s
}

var createdBatch = &raftnode.WatchBatch{Created: true, Progress: []raftnode.WatchProgress{{Shard: 1, Revision: 4}}}

// What ends a watch comes with its reason, on every protocol, and the node hears that the watch is over.
func TestAWatchEndsWithItsReason(t *testing.T) {
	f := newFixture(t)
	for name, open := range f.watchClients(t) {
		s := f.fakeWatch(&raftnode.CompactedError{Shard: 1, Revision: 3, Oldest: 7}, createdBatch)
		next := open(t.Context(), &raftkvv1.WatchRequest{})
		if res, err := next(); err != nil || res.GetToken() != "token" {
			t.Fatal(name, res, err)
		}
		_, err := next()
		checkStatus(t, wireStatus(t, err), codes.OutOfRange, "COMPACTED", &raftkvv1.Compacted{Shard: 1, Revision: 3, Oldest: 7}, 0)
		<-s.closed
	}
	s := f.fakeWatch(&raftnode.CutOffError{Shard: 1, For: time.Minute}, createdBatch)
	_, events := f.watchSSE(t, "")
	events.named("created")
	if e := events.named("error"); !strings.Contains(e.data, "CUT_OFF") || e.id != "" {
		t.Errorf("%+v", e)
	}
	<-s.closed
}

// Nothing new is a comment, so that nothing between takes the connection for dead.
func TestServerSentEventsKeepAlive(t *testing.T) {
	f := newFixture(t)
	f.service.keepAlive = time.Millisecond
	f.fakeWatch(nil, createdBatch)
	_, events := f.watchSSE(t, "")
	events.next()
	for range 3 {
		if e := events.next(); e.comment == "" || e.event != "" {
			t.Fatalf("%+v", e)
		}
	}
}

// A client that goes, and a service that drains, end their watches.
func TestWatchesEndWithClientAndService(t *testing.T) {
	f := newFixture(t)
	for name, open := range f.watchClients(t) {
		s := f.fakeWatch(nil, createdBatch)
		ctx, cancel := context.WithCancel(t.Context())
		next := open(ctx, &raftkvv1.WatchRequest{})
		if _, err := next(); err != nil {
			t.Fatal(name, err)
		}
		cancel()
		<-s.closed
	}
	s := f.fakeWatch(nil, createdBatch)
	next := f.watchClients(t)["grpc"](t.Context(), &raftkvv1.WatchRequest{})
	if _, err := next(); err != nil {
		t.Fatal(err)
	}
	f.service.Drain()
	_, err := next()
	checkStatus(t, wireStatus(t, err), codes.Unavailable, "STOPPING", nil, 100*time.Millisecond)
	<-s.closed
}

// A client that takes nothing is held by what fits into the connection, and ended; the budget has its bytes back then.
func TestAWatcherThatNeverReads(t *testing.T) {
	for _, request := range []string{
		"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST " + raftkvv1connect.WatchServiceWatchProcedure + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/connect+json\r\n" +
			"Connect-Protocol-Version: 1\r\nContent-Length: 7\r\n\r\n\x00\x00\x00\x00\x02{}",
	} {
		f := newFixture(t)
		f.service.transferTimeout = 100 * time.Millisecond
		s := f.fakeWatch(nil)
		fed := s.feed()
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		if sent := <-fed; sent == 0 || sent > 200 {
			t.Errorf("%d batches of 200 KiB were taken", sent)
		}
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

func TestWatchOverTheBudget(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.MemoryBytes = 40 << 20 })
	f.fakeWatch(nil, createdBatch)
	f.service.budget.add(40<<20 - 2*exchangeBytes)
	defer f.service.budget.give(40<<20 - 2*exchangeBytes)
	s := f.fakeWatch(nil, createdBatch, &raftnode.WatchBatch{Shard: 1, Events: []raftnode.WatchEvent{{Key: strings.Repeat("k", 3*exchangeBytes)}}})
	next := f.watchClients(t)["connect"](t.Context(), &raftkvv1.WatchRequest{})
	if _, err := next(); err != nil {
		t.Fatal(err)
	}
	_, err := next()
	if err == nil || !strings.Contains(protojson.Format(wireStatus(t, err)), "OVERLOADED") {
		t.Error(err)
	}
	<-s.closed
}

// A delete that no client has made says so.
func TestExpiredEvents(t *testing.T) {
	gone, removed := &raftnode.WatchEvent{Revision: 7, Key: "a", Expired: true}, &raftnode.WatchEvent{Revision: 8, Key: "a"}
	if e := watchEvent(1, gone); !e.GetExpired() || e.GetType() != raftkvv1.EventType_EVENT_TYPE_DELETE || e.GetKv().GetModRevision() != 7 {
		t.Errorf("%v", e)
	}
	if e := watchEvent(1, removed); e.GetExpired() || e.GetType() != raftkvv1.EventType_EVENT_TYPE_DELETE {
		t.Errorf("%v", e)
	}
}
