package raftnode

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

// scope names this package to the provider of tracers.
const scope = "github.com/raftkv/raftkv/raftnode"

const (
	// entryTracesMax is how many sampled writes an entry tells the other nodes of: the first has its appends as children, the others as links.
	entryTracesMax = 32
	// tracedWritesMax is how many sampled writes of an entry have spans on the node that proposes it: they are held until the entry is applied.
	tracedWritesMax = 256
	// tracedAppendsMax bounds what a follower keeps of sampled entries that are on their way to its log.
	tracedAppendsMax = 64
)

// tracing makes the spans of sampled requests, out of times that the stages have noted. DESIGN.md has the tree. No span is needed for anything but to be told.
type tracing struct{ tracer trace.Tracer }

func newTracing(p trace.TracerProvider) *tracing {
	if p == nil {
		return nil
	}
	return &tracing{p.Tracer(scope)}
}

// tracedWrite is a sampled write of an entry.
type tracedWrite struct {
	parent trace.SpanContext
	begun  time.Time
	commit trace.Span
}

// tracedAppend is an entry with sampled writes that a follower makes durable.
type tracedAppend struct {
	append      *replica.Append
	index, term uint64
	contexts    []trace.SpanContext
	received    time.Time
}

// spanContext is a context as the SDK has it; not valid if it is not sampled or makes no sense.
func spanContext(t *storev1.TraceContext, remote bool) trace.SpanContext {
	c := trace.SpanContextConfig{TraceFlags: trace.TraceFlags(t.GetFlags()), Remote: remote} //nolint:gosec // the low byte
	if len(t.GetTraceId()) != len(c.TraceID) || len(t.GetSpanId()) != len(c.SpanID) || !c.TraceFlags.IsSampled() {
		return trace.SpanContext{}
	}
	copy(c.TraceID[:], t.GetTraceId())
	copy(c.SpanID[:], t.GetSpanId())
	return trace.NewSpanContext(c)
}

// TraceOf is the context of a span for Request.Trace; nil if it is not sampled.
func TraceOf(c trace.SpanContext) *storev1.TraceContext {
	if !c.IsValid() || !c.IsSampled() {
		return nil
	}
	traceID, spanID := c.TraceID(), c.SpanID()
	return &storev1.TraceContext{TraceId: traceID[:], SpanId: spanID[:], Flags: uint32(c.TraceFlags())}
}

func contextOf(command int, t *storev1.TraceContext) *storev1.TraceContext {
	return &storev1.TraceContext{Command: uint32(command), TraceId: t.GetTraceId(), SpanId: t.GetSpanId(), Flags: t.GetFlags()} //nolint:gosec // below entryCommandsMax
}

// tracesOf are the sampled writes of an entry.
func tracesOf(e *raftpb.Entry) (out []trace.SpanContext) {
	if e.GetType() != raftpb.EntryNormal {
		return nil
	}
	for _, t := range state.EntryTraces(e.GetData(), entryTracesMax) {
		if c := spanContext(t, true); c.IsValid() {
			out = append(out, c)
		}
	}
	return out
}

// span tells of something that is over.
func (t *tracing) span(parent trace.SpanContext, name string, from, to time.Time, options ...trace.SpanStartOption) {
	_, s := t.tracer.Start(under(parent), name, append(options, trace.WithTimestamp(from))...)
	s.End(trace.WithTimestamp(to))
}

func under(parent trace.SpanContext) context.Context {
	return trace.ContextWithSpanContext(context.Background(), parent)
}

// take opens the span commit of a write that goes into an entry, the ith of it, and gives the entry its context. The spans of what is done once for the whole entry are children of that
// of the first sampled write; the others link to it, and it to them.
func (t *tracing) take(c *course, r *Request, i int, entry *storev1.Entry) {
	j := r.journey
	options := []trace.SpanStartOption{trace.WithTimestamp(c.gathered)}
	if len(c.traced) > 0 {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: c.traced[0].commit.SpanContext()}))
	}
	// A write that raft did not take the last time has one already, which is never told.
	_, j.commit = t.tracer.Start(under(j.parent), "commit", options...)
	c.traced = append(c.traced, tracedWrite{parent: j.parent, begun: j.begun, commit: j.commit})
	if own := TraceOf(j.commit.SpanContext()); own != nil && len(entry.Traces) < entryTracesMax {
		entry.Traces = append(entry.Traces, contextOf(i, own))
	}
}

// applied tells what an entry has gone through.
func (t *tracing) applied(shard placement.ShardID, p *proposal, now time.Time) {
	c := p.course
	about := trace.WithAttributes(attribute.Int64("raftkv.shard", int64(shard)), attribute.Int64("raftkv.term", int64(p.term)), //nolint:gosec // far below
		attribute.Int64("raftkv.index", int64(p.index)), attribute.Int64("raftkv.commands", int64(c.commands))) //nolint:gosec // far below
	first := c.traced[0].commit.SpanContext()
	var others []trace.Link
	for _, w := range c.traced[1:min(len(c.traced), entryTracesMax)] {
		others = append(others, trace.Link{SpanContext: w.commit.SpanContext()})
	}
	t.span(first, "propose", c.gathered, c.sent, about, trace.WithLinks(others...))
	t.span(first, "leader fsync", c.fsyncBegan, c.durable, about, trace.WithLinks(others...))
	for _, w := range c.traced {
		t.span(w.parent, "queue wait", w.begun, c.gathered)
		w.commit.End(trace.WithTimestamp(c.committed))
		t.span(w.parent, "apply", c.committed, now, about)
	}
}

// answered tells how a request ended, as far as that was not told.
func (t *tracing) answered(r *Request, err error) {
	j := r.journey
	switch {
	case err != nil && j.commit != nil:
		j.commit.SetStatus(codes.Error, fmt.Sprintf("%T", err)) // its text may name keys
		j.commit.End(trace.WithTimestamp(j.timing.Answered))
	case r.Read != nil && err == nil:
		t.span(j.parent, "read", j.begun, j.timing.Answered, trace.WithAttributes(attribute.Int64("raftkv.shard", int64(r.Shard))))
	}
}

// forward opens the span of a request that is passed on, and returns its context for the other node.
func (t *tracing) forward(r *Request, to placement.NodeID) (trace.Span, *storev1.TraceContext) {
	_, s := t.tracer.Start(under(r.journey.parent), "forward", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("raftkv.to", string(to)), attribute.Int64("raftkv.shard", int64(r.Shard))))
	return s, TraceOf(s.SpanContext())
}

// replied tells that the answer to a request that was passed on is on its way.
func (t *tracing) replied(r *Request, timing *Timing, to placement.NodeID) {
	if timing != nil {
		t.span(r.journey.parent, "reply", timing.Answered, r.journey.n.runtime.Now(), trace.WithAttributes(attribute.String("raftkv.to", string(to))))
	}
}

// followed tells that a follower has made an entry durable.
func (t *tracing) followed(shard placement.ShardID, a *tracedAppend, durable time.Time) {
	var others []trace.Link
	for _, c := range a.contexts[1:] {
		others = append(others, trace.Link{SpanContext: c})
	}
	t.span(a.contexts[0], "follower append", a.received, durable, trace.WithLinks(others...), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.Int64("raftkv.shard", int64(shard)), attribute.Int64("raftkv.term", int64(a.term)), attribute.Int64("raftkv.index", int64(a.index)))) //nolint:gosec // far below
}
