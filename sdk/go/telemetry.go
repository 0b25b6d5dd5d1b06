package raftkv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// scope names this package to the providers.
const scope = "github.com/raftkv/raftkv/sdk/go"

// WithTracerProvider makes a client span of every call, with an event for each attempt, and sends its context along with each operation. A watch
// has no span and no events, as it may last for days; it sends the context of its caller. Without this option, which is the default, there are no spans and nothing is sent.
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(o *options) { o.tracers = p })
}

// WithMeterProvider counts the calls by operation and outcome (raftkv.client.calls), their attempts (raftkv.client.attempts), and measures the time of calls
// (raftkv.client.duration, in seconds). A watch is no call, but its attempts to begin, and to go on when a stream has ended, are counted. Nothing is measured without it,
// which is the default.
func WithMeterProvider(p metric.MeterProvider) Option {
	return optionFunc(func(o *options) { o.meters = p })
}

// Outcomes of calls and attempts, as metrics name them.
const (
	outcomeOK       = "ok"
	outcomeNotFound = "not_found"
	outcomeFailed   = "failed" // and not applied
	outcomeUnknown  = "unknown"
)

// telemetry tells tracers and meters of calls. A client without either has none, and calls then only compare a pointer with nil.
type telemetry struct {
	tracer          trace.Tracer // nil: no spans
	calls, attempts metric.Int64Counter
	duration        metric.Float64Histogram
}

// newTelemetry returns nil if nobody is to be told.
func newTelemetry(o *options) (*telemetry, error) {
	if o.tracers == nil && o.meters == nil {
		return nil, nil
	}
	t := &telemetry{}
	if o.tracers != nil {
		t.tracer = o.tracers.Tracer(scope)
	}
	if o.meters == nil {
		return t, nil
	}
	var errs [3]error
	m := o.meters.Meter(scope)
	t.calls, errs[0] = m.Int64Counter("raftkv.client.calls", metric.WithUnit("{call}"),
		metric.WithDescription("Calls that have ended, by operation and outcome."))
	t.attempts, errs[1] = m.Int64Counter("raftkv.client.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts of calls that have ended, by operation and outcome."))
	t.duration, errs[2] = m.Float64Histogram("raftkv.client.duration", metric.WithUnit("s"),
		metric.WithDescription("How long calls took, with all their attempts."))
	return t, errors.Join(errs[:]...)
}

// observation is one call as tracers and meters see it; nil if nobody looks.
type observation struct {
	telemetry *telemetry
	ctx       context.Context
	operation string
	start     time.Time
	span      trace.Span // nil: none
	attempts  int
}

// observe begins the observation of a call. The context it returns is that of its span.
func (t *telemetry) observe(ctx context.Context, name string) (context.Context, *observation) {
	w := &observation{telemetry: t, operation: operationOf(name), start: time.Now()}
	if t.tracer != nil {
		ctx, w.span = t.tracer.Start(ctx, "raftkv "+w.operation, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("db.system.name", "raftkv"), attribute.String("db.operation.name", w.operation)))
	}
	w.ctx = ctx
	return ctx, w
}

// watching is the observation of a watch, which has no span.
func (t *telemetry) watching(ctx context.Context) *observation {
	if t == nil {
		return nil
	}
	return &observation{telemetry: t, ctx: ctx, operation: "watch"}
}

// operationOf is the name of a call without what differs from call to call: numbers, and what it is done to.
func operationOf(name string) string {
	for _, cut := range []string{" of ", " on", " \""} {
		name, _, _ = strings.Cut(name, cut)
	}
	if !strings.ContainsAny(name, "0123456789") {
		return name
	}
	words := slices.DeleteFunc(strings.Fields(name), func(w string) bool { return strings.Trim(w, "0123456789") == "" })
	return strings.Join(words, " ")
}

// traceparent is the context of the span as W3C Trace Context writes it; empty without one.
func (w *observation) traceparent() string {
	if w == nil || w.span == nil {
		return ""
	}
	return traceparent(w.span.SpanContext())
}

func traceparent(c trace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", c.TraceID(), c.SpanID(), c.TraceFlags())
}

// carry is ctx for a watch, which has no span of its own, that carries the span of the caller, if there is one and spans are asked for.
func (t *telemetry) carry(ctx context.Context) context.Context {
	if t == nil || t.tracer == nil {
		return ctx
	}
	return withTraceparent(ctx, traceparent(trace.SpanContextFromContext(ctx)))
}

// header is ctx for an RPC that carries the context of the span.
func (w *observation) header(ctx context.Context) context.Context {
	return withTraceparent(ctx, w.traceparent())
}

func withTraceparent(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set("traceparent", parent)
	return ctx
}

// attempt notes what came of an attempt.
func (w *observation) attempt(asked *endpoint, f *failure) {
	if w == nil {
		return
	}
	w.attempts++
	outcome := outcomeOK
	if f != nil {
		outcome = outcomeFailed
		switch {
		case errors.Is(f.err, ErrNotFound):
			outcome = outcomeNotFound
		case f.unknown:
			outcome = outcomeUnknown
		}
	}
	if t := w.telemetry; t.attempts != nil {
		t.attempts.Add(w.ctx, 1, w.attributes(outcome))
	}
	if w.span == nil || !w.span.IsRecording() {
		return
	}
	about := []attribute.KeyValue{
		attribute.Int("raftkv.attempt", w.attempts),
		attribute.String("server.address", asked.address),
		attribute.String("raftkv.outcome", outcome),
	}
	if f != nil {
		about = append(about, attribute.String("error.message", f.err.Error()))
	}
	w.span.AddEvent("attempt", trace.WithAttributes(about...))
}

// end notes what came of the call.
func (w *observation) end(err error) {
	if w == nil {
		return
	}
	outcome := outcomeOK
	if err != nil {
		outcome = outcomeFailed
		var unknown *OutcomeUnknownError
		switch {
		case errors.Is(err, ErrNotFound):
			outcome = outcomeNotFound
		case errors.As(err, &unknown):
			outcome = outcomeUnknown
		}
	}
	if t := w.telemetry; t.calls != nil {
		about := w.attributes(outcome)
		t.calls.Add(w.ctx, 1, about)
		t.duration.Record(w.ctx, time.Since(w.start).Seconds(), about)
	}
	if w.span == nil {
		return
	}
	w.span.SetAttributes(attribute.String("raftkv.outcome", outcome), attribute.Int("raftkv.attempts", w.attempts))
	if outcome == outcomeFailed || outcome == outcomeUnknown {
		w.span.SetStatus(codes.Error, err.Error())
	}
	w.span.End()
}

func (w *observation) attributes(outcome string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("db.operation.name", w.operation), attribute.String("raftkv.outcome", outcome))
}
