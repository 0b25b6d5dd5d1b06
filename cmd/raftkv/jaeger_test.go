//go:build jaeger

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// jaeger is a real Jaeger in a process of its own: make test-jaeger.
type jaeger struct {
	t                 *testing.T
	query, grpc, http int
	client            *http.Client
}

func startJaeger(t *testing.T) *jaeger {
	t.Helper()
	binary := os.Getenv("JAEGER")
	if binary == "" {
		t.Fatal("JAEGER does not name a binary of Jaeger; run make test-jaeger")
	}
	j := &jaeger{t: t, query: freePort(t), grpc: freePort(t), http: freePort(t), client: &http.Client{Timeout: 5 * time.Second}}
	on := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	cmd := exec.Command(binary,
		"--collector.otlp.grpc.host-port", on(j.grpc), "--collector.otlp.http.host-port", on(j.http),
		"--query.http-server.host-port", on(j.query), "--query.grpc-server.host-port", on(freePort(t)),
		"--collector.grpc-server.host-port", on(freePort(t)), "--collector.http-server.host-port", on(freePort(t)),
		"--admin.http.host-port", on(freePort(t)))
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // It may have ended by itself; Wait tells.
		_ = cmd.Wait()
		j.client.CloseIdleConnections()
		if t.Failed() {
			t.Logf("log of Jaeger:\n%s", log)
		}
	})
	j.await("Jaeger to answer", func() bool { return j.get("/api/services", &struct{}{}) })
	return j
}

// await waits until something is so.
func (j *jaeger) await(what string, so func() bool) {
	j.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline.C:
			j.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// get asks the HTTP API, and says whether it has answered.
func (j *jaeger) get(path string, into any) bool {
	res, err := j.client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", j.query, path))
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK && json.NewDecoder(res.Body).Decode(into) == nil
}

// jaegerTrace is a trace as the HTTP API tells it.
type jaegerTrace struct {
	TraceID   string
	Spans     []jaegerSpan
	Processes map[string]struct {
		ServiceName string
		Tags        []jaegerTag
	}
}

type jaegerSpan struct {
	SpanID, OperationName, ProcessID string
	StartTime, Duration              int64 // microseconds
	References                       []struct{ RefType, TraceID, SpanID string }
	Tags                             []jaegerTag
}

type jaegerTag struct {
	Key   string
	Value any
}

// where is the node of a span, or the service of a client.
func (x *jaegerTrace) where(s *jaegerSpan) string {
	p := x.Processes[s.ProcessID]
	for _, t := range p.Tags {
		if t.Key == "service.instance.id" && p.ServiceName == "raftkv" {
			return fmt.Sprint(t.Value)
		}
	}
	return p.ServiceName
}

func (x *jaegerTrace) parent(s *jaegerSpan) string {
	for _, r := range s.References {
		if r.RefType == "CHILD_OF" && r.TraceID == x.TraceID {
			return r.SpanID
		}
	}
	return ""
}

// walk visits the spans below a parent that the trace has, in an order.
func (x *jaegerTrace) walk(order func(a, b jaegerSpan) int, visit func(depth int, s *jaegerSpan)) {
	known := make(map[string]bool)
	for _, s := range x.Spans {
		known[s.SpanID] = true
	}
	spans := slices.SortedFunc(slices.Values(x.Spans), order)
	var below func(parent string, depth int)
	below = func(parent string, depth int) {
		for i := range spans {
			p := x.parent(&spans[i])
			if p == parent || depth == 0 && !known[p] {
				visit(depth, &spans[i])
				below(spans[i].SpanID, depth+1)
			}
		}
	}
	below("", 0)
}

// tree is a line for each span, siblings by name.
func (x *jaegerTrace) tree() string {
	var b strings.Builder
	x.walk(func(a, b jaegerSpan) int {
		return cmp.Or(cmp.Compare(a.OperationName, b.OperationName), cmp.Compare(x.where(&a), x.where(&b)))
	}, func(depth int, s *jaegerSpan) {
		fmt.Fprintf(&b, "%s%s %s\n", strings.Repeat("  ", depth), s.OperationName, x.where(s))
	})
	return b.String()
}

// timeline is the same by time, to be read.
func (x *jaegerTrace) timeline() string {
	var b strings.Builder
	began := slices.MinFunc(x.Spans, func(a, b jaegerSpan) int { return cmp.Compare(a.StartTime, b.StartTime) }).StartTime
	x.walk(func(a, b jaegerSpan) int {
		return cmp.Or(cmp.Compare(a.StartTime, b.StartTime), cmp.Compare(b.Duration, a.Duration))
	}, func(depth int, s *jaegerSpan) {
		fmt.Fprintf(&b, "  %-34s %-8s %8.3f ms at %8.3f\n", strings.Repeat("  ", depth)+s.OperationName, x.where(s), float64(s.Duration)/1000, float64(s.StartTime-began)/1000)
	})
	return b.String()
}

// sees waits until Jaeger shows a tree.
func (j *jaeger) sees(traceID, want string) {
	j.t.Helper()
	var got jaegerTrace
	defer func() {
		if j.t.Failed() {
			j.t.Logf("the trace is\n%s", got.tree())
		}
	}()
	j.await("the tree\n"+want, func() bool {
		var answer struct{ Data []jaegerTrace }
		if !j.get("/api/traces/"+traceID, &answer) || len(answer.Data) != 1 {
			return false
		}
		got = answer.Data[0]
		return got.tree() == want
	})
	j.t.Logf("trace %s\n%s", traceID, got.timeline())
}

// commitTree is what a put goes through at the leader, below depth.
func commitTree(depth int, leader string, followers []string, reply bool) string {
	lines := []string{
		"apply " + leader, "commit " + leader, "  follower append " + followers[0], "  follower append " + followers[1], "  leader fsync " + leader,
		"  propose " + leader, "queue wait " + leader,
	}
	if reply {
		lines = append(lines, "reply "+leader)
	}
	indent := strings.Repeat("  ", depth)
	return indent + strings.Join(lines, "\n"+indent) + "\n"
}

// One put is one trace over client and nodes in a real Jaeger, whichever node is asked, by either exporter.
func TestJaeger(t *testing.T) {
	j := startJaeger(t)
	c := newProcesses(t, t.TempDir(), 3)
	for i, p := range c.nodes {
		p.env = []string{"RAFTKV_TRACE_SAMPLE_RATIO=0", "OTEL_BSP_SCHEDULE_DELAY=100"}
		if i == 0 {
			p.env = append(p.env, "RAFTKV_TRACE_PROTOCOL=http", fmt.Sprintf("RAFTKV_TRACE_ENDPOINT=http://127.0.0.1:%d", j.http))
		} else {
			p.env = append(p.env, fmt.Sprintf("RAFTKV_TRACE_ENDPOINT=http://127.0.0.1:%d", j.grpc))
		}
		c.start(p)
	}
	var endpoints []string
	for _, p := range c.nodes {
		c.ready(p)
		endpoints = append(endpoints, fmt.Sprintf("127.0.0.1:%d", p.port))
	}
	leader := c.leader()
	var followers []string
	var other *process
	for _, p := range c.nodes {
		if p != leader {
			followers, other = append(followers, p.id), p
		}
	}

	// A put of the Go SDK, which asks the leader.
	tracers := j.tracers("shop")
	client, err := raftkv.Open(t.Context(), endpoints, raftkv.WithTracerProvider(tracers))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(t.Context(), "basket/1", []byte("apples")); err != nil { // It may be the first to learn who leads.
		t.Fatal(err)
	}
	following, follow := tracers.Tracer("shop").Start(t.Context(), "follow")
	watched := j.watch(following, client)
	ctx, span := tracers.Tracer("shop").Start(t.Context(), "buy")
	if _, err := client.Put(ctx, "basket/2", []byte("pears")); err != nil {
		t.Fatal(err)
	}
	span.End()
	<-watched
	follow.End()
	if err := tracers.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	bought := span.SpanContext().TraceID().String()
	j.sees(bought, fmt.Sprintf("buy shop\n  raftkv put shop\n    put %s\n", leader.id)+commitTree(3, leader.id, followers, false)+fmt.Sprintf("      reply %s\n", leader.id))
	j.delivered(bought, follow.SpanContext().TraceID().String())

	// A put of curl with a context of its own, at another node.
	traceID, spanID := randomHex(16), randomHex(8)
	out, err := exec.Command("curl", "-sS", "-i", "-X", "PUT", "--data-binary", "plums", "-H", "traceparent: 00-"+traceID+"-"+spanID+"-01", c.url(other, "basket/3")).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(" 200 ")) || !bytes.Contains(out, []byte("Server-Timing: queue;dur=")) {
		t.Fatalf("curl: %v\n%s", err, out)
	}
	t.Logf("curl -i -X PUT at %s:\n%s", other.id, out)
	j.sees(traceID, fmt.Sprintf("put %[1]s\n  forward %[1]s\n", other.id)+commitTree(2, leader.id, followers, true)+fmt.Sprintf("  reply %s\n", other.id))
}

// tracers are those of a client.
func (j *jaeger) tracers(service string) *sdktrace.TracerProvider {
	exporter, err := otlptracegrpc.New(j.t.Context(), otlptracegrpc.WithEndpointURL(fmt.Sprintf("http://127.0.0.1:%d", j.grpc)))
	if err != nil {
		j.t.Fatal(err)
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", service))))
	j.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			j.t.Error(err)
		}
	})
	return p
}

// watch closes a channel once a watch has seen the next put, and ends.
func (j *jaeger) watch(ctx context.Context, client *raftkv.Client) <-chan struct{} {
	began, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		first := true
		for e, err := range client.Watch(ctx, raftkv.Prefix("basket/"), raftkv.WithProgress(100*time.Millisecond)) {
			if err != nil {
				j.t.Error(err)
			}
			if first {
				close(began)
				first = false
			}
			if err != nil || e.Type == raftkv.EventPut {
				return
			}
		}
	}()
	<-began
	return done
}

// delivered waits until Jaeger shows a delivery to a watch, in the trace of that, which is linked to the trace of the writer.
func (j *jaeger) delivered(traceID, watchID string) {
	j.t.Helper()
	j.await("a delivery that is linked to trace "+traceID, func() bool {
		var answer struct{ Data []jaegerTrace }
		if !j.get("/api/traces/"+watchID, &answer) {
			return false
		}
		for _, x := range answer.Data {
			for _, s := range x.Spans {
				for _, r := range s.References {
					if s.OperationName == "watch deliver" && r.TraceID == traceID && r.RefType == "FOLLOWS_FROM" {
						j.t.Logf("linked to it, trace %s\n%s", x.TraceID, x.timeline())
						return true
					}
				}
			}
		}
		return false
	})
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // which never fails
	return hex.EncodeToString(b)
}
