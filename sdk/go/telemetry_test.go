package raftkv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// Every call is a span with its attempts as events, and its context goes along with the operation.
func TestSpans(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	cluster, client := open(t, 1, 1, raftkv.WithTracerProvider(tracers))
	parents := make(chan string, 10)
	drop := times(1, raftkvtest.Action{DropAfter: true})
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		parents <- o.Request.GetTraceparent()
		return drop(o)
	})
	ctx, outer := tracers.Tracer("test").Start(within(t, time.Minute), "outer")
	if _, err := client.Put(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	span := spans.GetSpans()[0]
	if span.Name != "raftkv put" || span.Parent.SpanID() != outer.SpanContext().SpanID() || span.Status.Code != codes.Unset {
		t.Errorf("%+v", span)
	}
	if e := span.Events; len(e) != 2 || !has(e[0].Attributes, "raftkv.outcome", "unknown") || !has(e[1].Attributes, "raftkv.outcome", "ok") ||
		!has(e[1].Attributes, "server.address", cluster.Endpoints()[0]) {
		t.Errorf("%+v", e)
	}
	want := fmt.Sprintf("00-%s-%s-01", span.SpanContext.TraceID(), span.SpanContext.SpanID())
	if first, second := <-parents, <-parents; first != want || second != want {
		t.Errorf("the attempts carried %q and %q, want %q", first, second, want)
	}
	spans.Reset()
	if _, err := client.Async().Get(ctx, "none").Wait(ctx); err == nil {
		t.Error("no error")
	}
	if _, err := client.Cluster().Nodes(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Batch(ctx, raftkv.PutOp("k", nil)); err != nil {
		t.Fatal(err)
	}
	cluster.SetHook(times(1, raftkvtest.Action{Refuse: raftkvtest.TooLarge("value", 1, 2)}))
	if _, err := client.Put(ctx, "k", nil); err == nil {
		t.Error("no error")
	}
	var names []string
	for _, s := range spans.GetSpans() {
		names = append(names, s.Name+" "+s.Status.Code.String())
	}
	if got := strings.Join(names, ", "); got != "raftkv get Unset, raftkv list nodes Unset, raftkv batch Unset, raftkv put Error" {
		t.Error(got)
	}
}

// Nothing is sent along with the operations of a client without a tracer.
func TestNoSpans(t *testing.T) {
	tracers := sdktrace.NewTracerProvider()
	cluster, client := open(t, 1, 1)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		if p := o.Request.GetTraceparent(); p != "" {
			t.Errorf("the operation carries %q", p)
		}
		return raftkvtest.Action{}
	})
	ctx, _ := tracers.Tracer("test").Start(within(t, time.Minute), "outer")
	if _, err := client.Put(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
}

// Calls and attempts are counted by operation and outcome; of a watch, its attempts to begin and to go on.
func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	cluster, client := open(t, 1, 1, raftkv.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	ctx := within(t, time.Minute)
	cluster.SetHook(times(2, raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Millisecond)}))
	for range 3 {
		if _, err := client.Put(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = client.Get(ctx, "none")
	cluster.SetHook(times(1, raftkvtest.Action{Wait: make(chan struct{})}))
	_, _ = client.Put(within(t, 20*time.Millisecond), "k", nil)
	// A watch that is refused once and then begins, ends and begins again.
	refused := false
	cluster.SetCallHook(func(raftkvtest.Call) raftkvtest.Action {
		if refused {
			return raftkvtest.Action{}
		}
		refused = true
		return raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Millisecond)}
	})
	begun := 0
	for _, err := range client.Watch(ctx, raftkv.Key("k"), raftkv.WithProgress(0)) {
		if begun++; err != nil {
			t.Fatal(err)
		}
		if begun == 2 {
			break
		}
		cluster.EndWatches(0, nil)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, m := range all.ScopeMetrics[0].Metrics {
		var points []string
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				points = append(points, fmt.Sprintf("%s %d", labels(p.Attributes), p.Value))
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				points = append(points, fmt.Sprintf("%s %d", labels(p.Attributes), p.Count))
			}
		}
		slices.Sort(points)
		got[m.Name] = strings.Join(points, ", ")
	}
	for name, want := range map[string]string{
		"raftkv.client.calls":    "get not_found 1, put ok 3, put unknown 1",
		"raftkv.client.duration": "get not_found 1, put ok 3, put unknown 1",
		"raftkv.client.attempts": "get not_found 1, put failed 2, put ok 3, put unknown 1, watch failed 1, watch ok 2",
	} {
		if got[name] != want {
			t.Errorf("%s: %s; want %s", name, got[name], want)
		}
	}
}

func has(attributes []attribute.KeyValue, key, value string) bool {
	return slices.Contains(attributes, attribute.String(key, value))
}

func labels(s attribute.Set) string {
	operation, _ := s.Value("db.operation.name")
	outcome, _ := s.Value("raftkv.outcome")
	return operation.AsString() + " " + outcome.AsString()
}
