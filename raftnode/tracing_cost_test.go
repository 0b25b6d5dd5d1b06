package raftnode

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

// A request that is not sampled costs no allocation on any stage of a node that traces.
func TestNotSampledAllocatesNothing(t *testing.T) {
	n := &Node{runtime: NewRuntime()}
	defer n.runtime.Close()
	n.tracing = newTracing(trace.NewTracerProvider())
	w := &worker{n: n}
	m := &member{shard: DataShard, worker: w, replica: &replica.Replica{}}
	batch := make([]*Request, 100)
	entry := &storev1.Entry{}
	for i := range batch {
		batch[i] = &Request{Command: &storev1.Command{Body: &storev1.Command_Opaque{Opaque: make([]byte, 100)}}}
		entry.Commands = append(entry.Commands, batch[i].Command)
	}
	data, err := state.EncodeEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	a := &replica.Append{Entries: []*raftpb.Entry{{Index: new(uint64(5)), Term: new(uint64(2)), Data: data}}}
	events := []WatchEvent{{Revision: 7}}
	m.writers.add(3, oteltrace.SpanContext{})
	now := time.Now()
	for stage, f := range map[string]func(){
		"propose": func() {
			if n.beginCourse(batch, entry, now) != nil {
				t.Error("there is a course of requests that are not sampled")
			}
		},
		"follow": func() { w.followAppend(m, a) },
		"watch": func() {
			if m.writers.of(events) != nil {
				t.Error("there are writers that were not sampled")
			}
		},
	} {
		if allocs := testing.AllocsPerRun(100, f); allocs != 0 {
			t.Errorf("%s: %v allocations", stage, allocs)
		}
	}
	if len(m.tracedAppends) != 0 {
		t.Error("an append without traces is followed")
	}
}

// What a node keeps of sampled requests has bounds.
func TestTracingIsBounded(t *testing.T) {
	n := &Node{runtime: NewRuntime()}
	defer n.runtime.Close()
	n.tracing = newTracing(trace.NewTracerProvider())
	const many = 1000
	var batch []*Request
	entry := &storev1.Entry{}
	for i := range many {
		r := &Request{Trace: TraceOf(oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
			TraceID: oteltrace.TraceID{1}, SpanID: oteltrace.SpanID{byte(i), byte(i >> 8), 1}, TraceFlags: oteltrace.FlagsSampled,
		}))}
		n.beginJourney(r)
		batch = append(batch, r)
	}
	if c := n.beginCourse(batch, entry, n.runtime.Now()); len(c.traced) != tracedWritesMax {
		t.Errorf("%d sampled writes have spans, at most %d", len(c.traced), tracedWritesMax)
	}
	if len(entry.GetTraces()) != entryTracesMax {
		t.Errorf("the entry tells of %d writes, at most %d", len(entry.GetTraces()), entryTracesMax)
	}
	w := &worker{n: n}
	m := &member{shard: DataShard, worker: w, replica: &replica.Replica{}}
	data, err := state.EncodeEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(many) {
		w.followAppend(m, &replica.Append{Entries: []*raftpb.Entry{{Index: new(i + 1), Term: new(uint64(1)), Data: data}}})
		m.writers.add(i, spanContext(entry.GetTraces()[0], true))
	}
	if len(m.tracedAppends) > tracedAppendsMax {
		t.Errorf("%d appends are followed, at most %d", len(m.tracedAppends), tracedAppendsMax)
	}
}

// discard is an exporter that takes all and keeps nothing.
type discard struct{}

func (discard) ExportSpans(context.Context, []trace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                          { return nil }

// What the spans of a sampled put cost on all nodes together, up to the queue of the exporter.
func BenchmarkSpansOfAPut(b *testing.B) {
	n := &Node{runtime: NewRuntime()}
	defer n.runtime.Close()
	provider := trace.NewTracerProvider(trace.WithBatcher(discard{}))
	defer provider.Shutdown(b.Context()) //nolint:errcheck // discard has no errors
	n.tracing = newTracing(provider)
	parent := TraceOf(oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID{1}, SpanID: oteltrace.SpanID{1}, TraceFlags: oteltrace.FlagsSampled,
	}))
	command := &storev1.Command{Body: &storev1.Command_Opaque{Opaque: make([]byte, 256)}}
	j := &applyJob{shard: DataShard}
	b.ReportAllocs()
	for b.Loop() {
		r := &Request{Command: command, Trace: parent}
		n.beginJourney(r)
		batch, entry := []*Request{r}, &storev1.Entry{Commands: []*storev1.Command{command}}
		c := n.beginCourse(batch, entry, n.runtime.Now())
		c.index, c.sent = 5, n.runtime.Now()
		c.committed, c.fsyncBegan, c.durable = c.sent, c.sent, c.sent
		n.endCourse(j, &proposal{index: 5, term: 2, requests: batch, course: c})
		r.journey.end(r, &Result{})
		data, err := state.EncodeEntry(entry)
		if err != nil {
			b.Fatal(err)
		}
		for range 2 {
			a := tracedAppend{index: 5, term: 2, contexts: tracesOf(&raftpb.Entry{Data: data}), received: c.sent}
			n.tracing.followed(DataShard, &a, c.sent)
		}
	}
}

// A context that makes no sense is none.
func TestSpanContextOfDamage(t *testing.T) {
	good := storev1.TraceContext{TraceId: make([]byte, 16), SpanId: make([]byte, 8), Flags: 1}
	good.TraceId[3], good.SpanId[3] = 1, 1
	for name, c := range map[string]*storev1.TraceContext{
		"none": nil, "short": {TraceId: good.TraceId[:15], SpanId: good.SpanId, Flags: 1}, "long": {TraceId: good.TraceId, SpanId: make([]byte, 9), Flags: 1},
		"zero": {TraceId: make([]byte, 16), SpanId: good.SpanId, Flags: 1}, "not sampled": {TraceId: good.TraceId, SpanId: good.SpanId},
	} {
		if spanContext(c, true).IsValid() {
			t.Errorf("%s: is valid", name)
		}
	}
	if c := spanContext(&good, true); !c.IsValid() || TraceOf(c).GetTraceId()[3] != 1 {
		t.Error("a good context is lost")
	}
}
