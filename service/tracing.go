package service

import (
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// scope names this package to the provider of tracers.
const scope = "github.com/raftkv/raftkv/service"

// traceHeader is the header of W3C Trace Context, as net/http writes it.
const traceHeader = "Traceparent"

// tracing decides which requests are sampled, before anything is made for their spans, and makes those of the service. nil: no request is.
type tracing struct {
	tracer trace.Tracer
	// below: a request without a trace begins one if a random number is below it.
	below uint64
	all   bool
}

func newTracing(p trace.TracerProvider, ratio float64) *tracing {
	if p == nil {
		return nil
	}
	return &tracing{tracer: p.Tracer(scope), below: uint64(min(max(ratio, 0), 1) * math.MaxInt64), all: ratio >= 1}
}

// span is that of a sampled request. Methods of a nil one do nothing.
type span struct {
	tracing *tracing
	span    trace.Span
	// trace is its context for the node.
	trace *storev1.TraceContext
	// answered is when the node had its answer; zero if it had none.
	answered time.Time
}

// begin begins the span of a request that carries traceparent; nil if the request is not sampled, which costs nothing but the look.
func (t *tracing) begin(name, traceparent string, start time.Time) *span {
	if t == nil {
		return nil
	}
	parent, sampled := t.sampled(traceparent)
	if !sampled {
		return nil
	}
	_, s := t.tracer.Start(parent, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("db.system.name", "raftkv"), attribute.String("db.operation.name", name)))
	context := raftnode.TraceOf(s.SpanContext())
	if context == nil {
		return nil // The provider has its own mind.
	}
	return &span{tracing: t, span: s, trace: context}
}

// sampled is parent-based sampling: who sends a context has decided, else the ratio does.
func (t *tracing) sampled(traceparent string) (context.Context, bool) {
	if parent, known := parentOf(traceparent); known {
		return parent, parent != nil
	}
	return context.Background(), t.all || rand.Uint64()>>1 < t.below
}

// parentOf reads a traceparent: known is false if it is none. The parent is nil if it is not sampled.
func parentOf(traceparent string) (parent context.Context, known bool) {
	const length, flags = 55, 54 // 00-<trace>-<span>-<flags>
	if len(traceparent) < length {
		return nil, false
	}
	switch traceparent[flags] {
	case '0', '2', '4', '6', '8', 'a', 'c', 'e':
		return nil, true
	}
	parent = propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
	if !trace.SpanContextFromContext(parent).IsValid() {
		return nil, false
	}
	return parent, true
}

// traceparentOf is the header of a call that is no stream of operations.
func (t *tracing) traceparentOf(ctx context.Context) string {
	if t == nil {
		return ""
	}
	if x, ok := ctx.Value(holderKey{}).(*exchange); ok {
		return x.traceparent
	}
	if values := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(values) == 1 { // of native gRPC
		return values[0]
	}
	return ""
}

// spanKey is the key of a context's value for the span of the request.
type spanKey struct{}

func (s *span) in(ctx context.Context) context.Context {
	if s == nil {
		return ctx
	}
	return trace.ContextWithSpan(context.WithValue(ctx, spanKey{}, s), s.span) // logs show its ids
}

func (t *tracing) spanOf(ctx context.Context) *span {
	if t == nil {
		return nil
	}
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// context is that of the span for the node; nil if there is none.
func (s *span) context() *storev1.TraceContext {
	if s == nil {
		return nil
	}
	return s.trace
}

// timed takes note of what the node says of its answer.
func (s *span) timed(t *raftnode.Timing) {
	if s != nil && t != nil {
		s.answered = t.Answered
	}
}

// end ends the span, with the way of the answer from the node to where its transport takes it. f is nil if nothing has failed.
func (s *span) end(f *failure) {
	if s == nil {
		return
	}
	now := time.Now()
	if !s.answered.IsZero() {
		_, reply := s.tracing.tracer.Start(trace.ContextWithSpan(context.Background(), s.span), "reply", trace.WithTimestamp(s.answered))
		reply.End(trace.WithTimestamp(now))
	}
	if f != nil {
		s.span.SetAttributes(attribute.String("error.type", f.reason), attribute.String("raftkv.code", f.code.String()))
		if f.http >= http.StatusInternalServerError {
			s.span.SetStatus(codes.Error, f.reason) // The message may name keys.
		}
	}
	s.span.End(trace.WithTimestamp(now))
}

// delivered tells that a watch has been sent the events of sampled writes. It is a span of the watch, if that is sampled, linked to those of the writes: one event goes to many
// watches, long after its writer was answered.
func (t *tracing) delivered(ctx context.Context, b *raftnode.WatchBatch, began time.Time, err error) {
	parent, sampled := t.sampled(t.traceparentOf(ctx))
	if !sampled {
		return // or one sampled write would make a trace for each of a thousand watches
	}
	links := make([]trace.Link, len(b.Writers))
	for i, w := range b.Writers {
		links[i].SpanContext = w
	}
	_, s := t.tracer.Start(parent, "watch deliver", trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindProducer), trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int64("raftkv.shard", int64(b.Shard)), attribute.Int64("raftkv.revision", int64(b.Revision)), attribute.Int("raftkv.events", len(b.Events)))) //nolint:gosec // far below
	if err != nil {
		s.SetStatus(codes.Error, "not sent")
	}
	s.End()
}

// serverTiming is the header Server-Timing: where the time of a write went at the leader of its shard, in milliseconds.
func serverTiming(t *raftnode.Timing) string {
	b := make([]byte, 0, 80)
	for i, part := range [...]struct {
		name string
		took time.Duration
	}{{"queue;dur=", t.Queue}, {"fsync;dur=", t.Fsync}, {"quorum;dur=", t.Quorum}, {"apply;dur=", t.Apply}} {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, part.name...)
		b = strconv.AppendFloat(b, max(0, part.took.Seconds()*1000), 'f', 3, 64)
	}
	return string(b)
}

// timesWrites says whether the answer to a request has a header that its client sees: that of an exchange.
func timesWrites(ctx context.Context) bool {
	_, ok := ctx.Value(holderKey{}).(*exchange)
	return ok
}

// tellTiming sets the header of an answer. The handler has written nothing yet.
func tellTiming(ctx context.Context, t *raftnode.Timing) {
	if t == nil || !t.Applied {
		return
	}
	if x, ok := ctx.Value(holderKey{}).(*exchange); ok {
		x.writer.Header().Set("Server-Timing", serverTiming(t))
	}
}
