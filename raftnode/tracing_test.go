package raftnode_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// recording collects the spans of all nodes, each of which is known by its resource.
type recording struct{ *tracetest.InMemoryExporter }

func newRecording() recording { return recording{tracetest.NewInMemoryExporter()} }

func (r recording) provider(id placement.NodeID) trace.TracerProvider {
	return sdktrace.NewTracerProvider(sdktrace.WithSyncer(r), sdktrace.WithResource(resource.NewSchemaless(attribute.String("node", string(id)))))
}

// adjust lets a cluster record.
func (r recording) adjust(o *raftnode.Options) { o.Tracers = r.provider(o.NodeID) }

func nodeOf(s *tracetest.SpanStub) string {
	v, _ := s.Resource.Set().Value("node")
	return v.AsString()
}

// tree is the trace of a root, a line for each span in the order of the tree, siblings by name and node: indentation, name, node.
func (r recording) tree(root trace.SpanContext) string {
	var b strings.Builder
	spans := r.GetSpans()
	var below func(parent trace.SpanID, indent string)
	below = func(parent trace.SpanID, indent string) {
		var children []tracetest.SpanStub
		for _, s := range spans {
			if s.SpanContext.TraceID() == root.TraceID() && s.Parent.SpanID() == parent {
				children = append(children, s)
			}
		}
		slices.SortFunc(children, func(a, b tracetest.SpanStub) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(nodeOf(&a), nodeOf(&b)))
		})
		for _, s := range children {
			fmt.Fprintf(&b, "%s%s %s\n", indent, s.Name, nodeOf(&s))
			below(s.SpanContext.SpanID(), indent+"  ")
		}
	}
	below(root.SpanID(), "")
	return b.String()
}

// root is the span of a client, which is not recorded.
func root(i byte) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: i}, SpanID: trace.SpanID{7: i}, TraceFlags: trace.FlagsSampled})
}

func putRequest(key string, of trace.SpanContext) *raftnode.Request {
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte("v")}
	return &raftnode.Request{
		AutoShard: true, Trace: raftnode.TraceOf(of), Timed: true,
		Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}}},
	}
}

// mustDo executes a request and checks that the leader has said where its time went.
func (c *cluster) mustDo(id placement.NodeID, r *raftnode.Request) raftnode.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), longTimeout)
	defer cancel()
	res := c.nodes[id].Do(ctx, r)
	if res.Err != nil {
		c.t.Fatal(res.Err)
	}
	if r.Command != nil && (res.Timing == nil || !res.Timing.Applied || res.Timing.Fsync <= 0 || res.Timing.Quorum <= 0 || res.Timing.Apply <= 0) {
		c.t.Errorf("timing of a put through %s: %+v", id, res.Timing)
	}
	return res
}

// others are the nodes that do not lead the first data shard, in order, and the one that does.
func (c *cluster) others() (leader placement.NodeID, others []placement.NodeID) {
	waitFor(c.t, "a leader that all know", func() bool {
		seen := make(map[placement.NodeID]bool)
		for _, n := range c.nodes {
			leader = n.Locate("k").Leader
			seen[leader] = true
		}
		return len(seen) == 1 && leader != ""
	})
	for _, m := range c.members {
		if m.ID != leader {
			others = append(others, m.ID)
		}
	}
	return leader, others
}

// One put is one trace over all nodes, whichever of them is asked.
func TestTraceOfOnePut(t *testing.T) {
	r := newRecording()
	c := newCluster(t, 3, r.adjust)
	leader, followers := c.others()
	below := func(indent string) string {
		return strings.ReplaceAll(fmt.Sprintf(`apply %[1]s
commit %[1]s
  follower append %[2]s
  follower append %[3]s
  leader fsync %[1]s
  propose %[1]s
queue wait %[1]s
`, leader, followers[0], followers[1]), "\n", "\n"+indent)
	}
	c.mustDo(leader, putRequest("k", root(1)))
	want := below("")
	waitFor(t, "the trace of a put at the leader", func() bool { return r.tree(root(1)) == want })

	c.mustDo(followers[0], putRequest("k", root(2)))
	want = fmt.Sprintf("forward %s\n  ", followers[0]) + strings.Replace(below("  "), "queue wait "+string(leader)+"\n  ", fmt.Sprintf("queue wait %s\n  reply %[1]s\n", leader), 1)
	waitFor(t, "the trace of a put that is passed on:\n"+want, func() bool { return r.tree(root(2)) == want })
	for _, s := range r.GetSpans() {
		if s.EndTime.Before(s.StartTime) {
			t.Errorf("%s ends before it starts", s.Name)
		}
	}
}

// A read is traced, too, and keeps its trace on the way to a node that has the shard.
func TestTraceOfARead(t *testing.T) {
	r := newRecording()
	c := newCluster(t, 1, r.adjust)
	c.mustDo("n1", readRequest("k", root(1)))
	waitFor(t, "the trace of a read", func() bool { return r.tree(root(1)) == "read n1\n" })
}

// The spans of an entry are those of its first sampled write; the other writes link to it, and it to them.
func TestTraceOfABatch(t *testing.T) {
	r := newRecording()
	c := newCluster(t, 3, r.adjust)
	leader, _ := c.others()
	var others, appends []tracetest.SpanStub
	for len(others) == 0 {
		r.Reset()
		var done sync.WaitGroup
		for i := range byte(100) {
			q := putRequest(fmt.Sprint("k", i), root(i+1))
			q.Deadline = time.Now().Add(longTimeout)
			q.Done = func(raftnode.Result) { done.Done() }
			done.Add(1)
			c.nodes[leader].Submit(q)
		}
		done.Wait()
		for _, s := range r.GetSpans() {
			if s.Name == "commit" && len(s.Links) == 1 {
				others = append(others, s)
			}
		}
	}
	first := others[0].Links[0].SpanContext
	waitFor(t, "the appends of the followers", func() bool {
		appends = appends[:0]
		for _, s := range r.GetSpans() {
			if s.Name == "follower append" && s.Parent.SpanID() == first.SpanID() {
				appends = append(appends, s)
			}
		}
		return len(appends) == 2
	})
	for _, a := range appends {
		if !slices.ContainsFunc(a.Links, func(l sdktrace.Link) bool { return l.SpanContext.SpanID() == others[0].SpanContext.SpanID() }) {
			t.Errorf("the append of %s has no link to the second write of the entry", nodeOf(&a))
		}
	}
}

// A watch on any node knows who has written what it sees, if that is sampled.
func TestWatchKnowsSampledWriters(t *testing.T) {
	r := newRecording()
	c := newCluster(t, 3, r.adjust)
	leader, followers := c.others()
	s, err := c.nodes[followers[0]].Watch(t.Context(), raftnode.WatchRequest{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	next := func() []trace.SpanContext {
		t.Helper()
		for {
			b, err := s.Next(t.Context(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if len(b.Events) > 0 {
				return b.Writers
			}
		}
	}
	c.mustDo(leader, putRequest("k", trace.SpanContext{}))
	if w := next(); len(w) != 0 {
		t.Errorf("a write that is not sampled has writers %v", w)
	}
	c.mustDo(leader, putRequest("k", root(7)))
	if w := next(); len(w) != 1 || w[0].TraceID() != root(7).TraceID() {
		t.Errorf("writers %v, want one of trace %s", w, root(7).TraceID())
	}
}

// A node without tracers passes contexts on to those that have some.
func TestTraceThroughANodeWithoutTracers(t *testing.T) {
	r := newRecording()
	c := newCluster(t, 3, func(o *raftnode.Options) {
		if o.NodeID != "n1" {
			r.adjust(o)
		}
	})
	if _, err := c.put("n1", "k", "v"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "n1 to lead", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.nodes["n1"].TransferLeader(ctx, c.nodes["n1"].Route("k"), "n1")
		return err == nil
	})
	c.mustDo("n1", putRequest("k", root(1)))
	waitFor(t, "the appends of the others", func() bool { return r.tree(root(1)) == "follower append n2\nfollower append n3\n" })
}

// While the lead goes round, every write that is done has been committed and applied in its trace once, however often it was passed on or proposed.
func TestTracesWhileTheLeadGoesRound(t *testing.T) {
	r := newRecording()
	c := newCluster(t, 3, r.adjust)
	c.others()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	done := make([][]trace.TraceID, len(c.members))
	for w, m := range c.members {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				of := trace.NewSpanContext(trace.SpanContextConfig{
					TraceID: trace.TraceID{1, byte(w), byte(i), byte(i >> 8)}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
				})
				within, cancel := context.WithTimeout(context.Background(), longTimeout)
				if res := c.nodes[m.ID].Do(within, putRequest(fmt.Sprint("k", i), of)); res.Err == nil {
					done[w] = append(done[w], of.TraceID())
				}
				cancel()
			}
		})
	}
	for i := range 12 {
		to := c.members[i%len(c.members)].ID
		within, cancel := context.WithTimeout(t.Context(), longTimeout)
		// It may be refused while another is under way; the next goes elsewhere.
		_, _ = c.nodes["n1"].TransferLeader(within, c.nodes["n1"].Route("k"), to)
		cancel()
	}
	stop()
	writers.Wait()
	seen := make(map[trace.TraceID]map[string]int)
	for _, s := range r.GetSpans() {
		if s.Status.Code == codes.Error {
			continue
		}
		if seen[s.SpanContext.TraceID()] == nil {
			seen[s.SpanContext.TraceID()] = make(map[string]int)
		}
		seen[s.SpanContext.TraceID()][s.Name]++
	}
	for w := range done {
		if len(done[w]) == 0 {
			t.Errorf("nothing was written through %s", c.members[w].ID)
		}
		for _, id := range done[w] {
			if n := seen[id]; n["commit"] != 1 || n["apply"] != 1 || n["queue wait"] != 1 {
				t.Errorf("trace %s: %v", id, n)
			}
		}
	}
}

func readRequest(key string, of trace.SpanContext) *raftnode.Request {
	return &raftnode.Request{AutoShard: true, Trace: raftnode.TraceOf(of), Read: &peerv1.ReadRequest{Keys: []string{key}}}
}
