package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode"
)

const (
	testTrace     = "4bf92f3577b34da6a3ce929d0e0e4736"
	testParent    = "00f067aa0ba902b7"
	sampledHeader = "00-" + testTrace + "-" + testParent + "-01"
	ignoredHeader = "00-" + testTrace + "-" + testParent + "-00"
)

// newTracedFixture is a service over a real node, both of which record spans.
func newTracedFixture(t testing.TB, ratio float64) (*fixture, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	n := openNode(t, func(o *raftnode.Options) { o.Tracers = tracers })
	return newFixture(t, func(o *Options) { o.Node, o.Tracers, o.TraceRatio = n, tracers, ratio }), spans
}

// awaitSpan waits for the span of a name, which is told after the answer.
func awaitSpan(t testing.TB, spans *tracetest.InMemoryExporter, name string) tracetest.SpanStub {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10_000 {
		for _, s := range spans.GetSpans() {
			if s.Name == name {
				return s
			}
		}
		<-tick.C
	}
	t.Fatalf("no span %q", name)
	return tracetest.SpanStub{}
}

// traceparentCallers put a key by every protocol, with a traceparent.
func (f *fixture) traceparentCallers(t testing.TB) map[string]func(traceparent string) {
	put := &raftkvv1.PutRequest{Key: "k", Value: []byte("v")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	by := func(client *http.Client, options ...connect.ClientOption) func(string) {
		return func(traceparent string) {
			ctx, info := connect.NewClientContext(t.Context())
			info.RequestHeader().Set("traceparent", traceparent)
			_, err := raftkvv1connect.NewKvServiceClient(client, f.url, options...).Put(ctx, put)
			must(err)
		}
	}
	conn := f.dial(t)
	return map[string]func(string){
		"connect":      by(f.http),
		"connect json": by(f.http, connect.WithProtoJSON()),
		"connect h2":   by(f.h2c),
		"grpc-web":     by(f.http, connect.WithGRPCWeb()),
		"grpc on http": by(f.h2c, connect.WithGRPC()),
		"grpc": func(traceparent string) {
			_, err := raftkvv1.NewKvServiceClient(conn).Put(metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent), put)
			must(err)
		},
		"rest raw": func(traceparent string) {
			if code, b := f.rest(t, "PUT", "/v1/kv/k", []byte("v"), "traceparent", traceparent); code != 200 {
				t.Fatalf("%d %s", code, b)
			}
		},
		"rest json": func(traceparent string) {
			if code, b := f.rest(t, "POST", "/v1/kv", asJSON(t, put), "traceparent", traceparent); code != 200 {
				t.Fatalf("%d %s", code, b)
			}
		},
		"exec": func(traceparent string) {
			stream, err := raftkvv1connect.NewKvServiceClient(f.h2c, f.url).Exec(t.Context())
			must(err)
			must(stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{{
				Id: 1, Traceparent: traceparent, Operation: &raftkvv1.ExecOperation_Put{Put: put},
			}}}))
			res, err := stream.Receive()
			must(err)
			if res.GetResults()[0].GetPut() == nil {
				t.Fatal(res)
			}
			must(stream.CloseRequest())
			must(stream.CloseResponse())
		},
	}
}

// deafStream sends operations once, and takes no answer.
type deafStream struct {
	ctx context.Context
	ops []*raftkvv1.ExecOperation
}

func (s *deafStream) Receive() (*raftkvv1.ExecRequest, error) {
	if ops := s.ops; ops != nil {
		s.ops = nil
		return &raftkvv1.ExecRequest{Operations: ops}, nil
	}
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

func (s *deafStream) Send(*raftkvv1.ExecResponse) error { return io.ErrClosedPipe }

// Every operation that is sampled has a span in the end, however its stream has ended: before the node has answered, or with an answer that
// cannot be sent, in a response or behind it.
func TestSpansOfABrokenStreamEnd(t *testing.T) {
	for name, c := range map[string]struct {
		operations uint64
		hang       bool
	}{"no answer yet": {1, true}, "an answer": {1, false}, "more than a response": {execOperationsMax, false}} {
		t.Run(name, func(t *testing.T) {
			spans := tracetest.NewInMemoryExporter()
			tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
			f := newFixture(t, func(o *Options) { o.Tracers, o.TraceRatio = tracers, 1 })
			f.node.hold = true
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream := &deafStream{ctx: ctx}
			for i := range c.operations {
				stream.ops = append(stream.ops, execPut(i, "k", "v"))
			}
			done := make(chan error, 1)
			go func() { done <- f.service.exec(ctx, stream) }()
			for range c.operations {
				<-f.node.heldNote
			}
			if c.hang {
				cancel()
			} else {
				f.node.release(nil)
			}
			if err := <-done; err == nil {
				t.Error("the stream ends without an error")
			}
			cancel()
			f.service.receivers.Wait()
			if c.hang {
				f.node.release(nil)
			}
			unsent := 0
			for _, s := range spans.GetSpans() {
				if s.Name == "put" && slices.Contains(s.Attributes, attribute.String("error.type", "CANCELED")) {
					unsent++
				}
			}
			if unsent != int(c.operations) {
				t.Errorf("%d spans of %d operations", unsent, c.operations)
			}
		})
	}
}

// The span of a request is a child of what its traceparent names, on every protocol, and the node's spans are children of it.
func TestTraceparentOnEveryProtocol(t *testing.T) {
	f, spans := newTracedFixture(t, 0)
	for name, call := range f.traceparentCallers(t) {
		t.Run(name, func(t *testing.T) {
			spans.Reset()
			call(sampledHeader)
			put := awaitSpan(t, spans, "put")
			if got := put.Parent; got.TraceID().String() != testTrace || got.SpanID().String() != testParent {
				t.Errorf("the parent of the span is %s in %s", got.SpanID(), got.TraceID())
			}
			for _, child := range []string{"queue wait", "commit", "apply", "reply"} {
				if s := awaitSpan(t, spans, child); s.Parent.SpanID() != put.SpanContext.SpanID() {
					t.Errorf("%q is no child of the handler", child)
				}
			}
			spans.Reset()
			call(ignoredHeader)
			call("")
			call("nonsense, and long enough to be read as a trace context")
			if left := spans.GetSpans(); len(left) > 0 {
				t.Errorf("%d spans of requests that are not sampled, the first %q", len(left), left[0].Name)
			}
		})
	}
}

// A request without a trace begins one as often as the ratio says.
func TestTraceRatio(t *testing.T) {
	f, spans := newTracedFixture(t, 1)
	f.mustPut(t, "k", "v")
	if s := awaitSpan(t, spans, "put"); s.Parent.IsValid() {
		t.Error("the first span of a trace has a parent")
	}
	tracing := newTracing(sdktrace.NewTracerProvider(), 0.25)
	n := 0
	for range 10_000 {
		if _, sampled := tracing.sampled(""); sampled {
			n++
		}
	}
	if n < 2000 || n > 3000 {
		t.Errorf("%d of 10,000 requests are sampled at a ratio of 0.25", n)
	}
}

// A failure is told with its reason, and without the words of its message, which may be a key.
func TestTraceOfAFailure(t *testing.T) {
	f, spans := newTracedFixture(t, 0)
	if code, _ := f.rest(t, "GET", "/v1/kv/secret", nil, "traceparent", sampledHeader); code != 404 {
		t.Fatal(code)
	}
	s := awaitSpan(t, spans, "get")
	if text := fmt.Sprint(s.Attributes, s.Status, s.Events); !strings.Contains(text, "KEY_NOT_FOUND") || strings.Contains(text, "secret") {
		t.Error(text)
	}
}

// What a watch is sent is linked to the trace of its writer.
func TestWatchDeliveryIsLinked(t *testing.T) {
	f, spans := newTracedFixture(t, 1)
	for name, watch := range f.watchClients(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			next := watch(ctx, &raftkvv1.WatchRequest{Key: "k"})
			if _, err := next(); err != nil { // Created.
				t.Fatal(err)
			}
			spans.Reset()
			if code, b := f.rest(t, "PUT", "/v1/kv/k", []byte("v"), "traceparent", sampledHeader); code != 200 {
				t.Fatalf("%d %s", code, b)
			}
			next.events(t, 1)
			s := awaitSpan(t, spans, "watch deliver")
			if len(s.Links) != 1 || s.Links[0].SpanContext.TraceID().String() != testTrace || s.SpanContext.TraceID().String() == testTrace {
				t.Errorf("trace %s, links %v", s.SpanContext.TraceID(), s.Links)
			}
		})
	}
}

// A watch that is not sampled has no span, whatever it is sent; one without a context is as likely to be as any request.
func TestWatchDeliveryIsSampled(t *testing.T) {
	for header, ratios := range map[string]map[float64]int{sampledHeader: {0: 1, 1: 1}, ignoredHeader: {0: 0, 1: 0}, "": {0: 0, 1: 1}} {
		for ratio, want := range ratios {
			spans := tracetest.NewInMemoryExporter()
			tracing := newTracing(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)), ratio)
			ctx := t.Context()
			if header != "" {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("traceparent", header))
			}
			tracing.delivered(ctx, &raftnode.WatchBatch{}, time.Now(), nil)
			if got := len(spans.GetSpans()); got != want {
				t.Errorf("%q at %v: %d spans, want %d", header, ratio, got, want)
			}
		}
	}
}

// Whether a request is sampled is found out without an allocation.
func TestNotSampledAllocatesNothing(t *testing.T) {
	tracing := newTracing(sdktrace.NewTracerProvider(), 0) // none by chance
	x := &exchange{Context: t.Context(), traceparent: ignoredHeader}
	native := metadata.NewIncomingContext(t.Context(), metadata.Pairs("user-agent", "grpc"))
	for name, ctx := range map[string]context.Context{"with traceparent": x, "without": &exchange{Context: t.Context()}, "native grpc": native} {
		allocs := testing.AllocsPerRun(100, func() {
			s := tracing.begin("put", tracing.traceparentOf(ctx), time.Time{})
			ctx := s.in(ctx)
			span := tracing.spanOf(ctx)
			if span.context() != nil {
				t.Error("a request that is not sampled has a span")
			}
			span.timed(nil)
			s.end(nil)
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// Answers to writes say where their time went, on the protocols that have headers for it.
func TestServerTiming(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Node = openNode(t, nil) }) // nothing is traced
	const number = `\d+\.\d{3}`
	want := regexp.MustCompile(`^queue;dur=` + number + `, fsync;dur=` + number + `, quorum;dur=` + number + `, apply;dur=` + number + `$`)
	for _, c := range []struct {
		method, path, body string
		timed              bool
	}{
		{"PUT", "/v1/kv/k", "v", true},
		{"PUT", "/v1/kv/k?condition.exists=false", "v", true}, // refused by the log: it went the same way
		{"GET", "/v1/kv/k", "", false},
		{"POST", "/v1/kv", `{"key":"k","value":"dg=="}`, true},
		{"POST", "/v1/batch", `{"operations":[{"put":{"key":"a","value":"dg=="}},{"delete":{"key":"b"}}]}`, true},
		{"POST", "/v1/txn", `{"then":[{"put":{"key":"a","value":"dg=="}}]}`, true},
		{"POST", "/v1/leases", `{"ttlMs":"30000"}`, true},
		{"POST", "/raftkv.v1.KvService/Put", `{"key":"k","value":"dg=="}`, true},
		{"POST", "/raftkv.v1.KvService/Get", `{"key":"k"}`, false},
		{"DELETE", "/v1/kv/k", "", true},
		{"PUT", "/v1/kv/k?nonsense=1", "v", false},
	} {
		res, b := f.restResponse(t, c.method, c.path, []byte(c.body), "Content-Type", "application/json")
		if got := res.Header.Get("Server-Timing"); want.MatchString(got) != c.timed || !c.timed && got != "" {
			t.Errorf("%s %s: Server-Timing %q, %d %s", c.method, c.path, got, res.StatusCode, b)
		}
	}
}

func TestServerTimingText(t *testing.T) {
	got := serverTiming(&raftnode.Timing{Queue: 1500 * time.Microsecond, Fsync: 250 * time.Nanosecond, Quorum: 2 * time.Second, Apply: -1})
	if want := "queue;dur=1.500, fsync;dur=0.000, quorum;dur=2000.000, apply;dur=0.000"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func openNode(t testing.TB, change func(*raftnode.Options)) *raftnode.Node {
	t.Helper()
	o := raftnode.Options{
		NodeID: "n1", Dir: t.TempDir(), CacheBytes: 8 << 20, MemTableBytes: 4 << 20, SegmentBytes: 4 << 20,
		HeartbeatInterval: 10 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	n, err := raftnode.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Formed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}
