package service

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/protobuf/encoding/protojson"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode"
)

// panickingNode panics in the goroutine of its caller.
type panickingNode struct{ *fakeNode }

func (panickingNode) Submit(*raftnode.Request) { panic("submit") }

func (panickingNode) Page(context.Context, *peerv1.RangeRead, *peerv1.Stale) (*raftnode.Page, error) {
	panic("page")
}

// TestPanicInStreams checks that a panic ends its stream only, and leaves one line in the log.
func TestPanicInStreams(t *testing.T) {
	var log syncBuffer
	f := newFixture(t, func(o *Options) {
		o.Node, o.Logger = panickingNode{newFakeNode()}, slog.New(slog.NewTextHandler(&log, nil))
	})
	check := func(name string, err error) {
		t.Helper()
		got := protojson.Format(wireStatus(t, err))
		if !strings.Contains(got, "INTERNAL") || !strings.Contains(got, "OutcomeUnknown") {
			t.Errorf("%s: %s", name, got)
		}
		if n := strings.Count(log.take(), "level=ERROR"); n != 1 {
			t.Errorf("%s: %d lines in the log", name, n)
		}
	}
	for name, open := range f.execClients(t) {
		stream := open(t.Context())
		if err := stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execPut(1, "k", "v")}}); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Receive()
		check(name, err)
	}
	scan, err := raftkvv1.NewKvServiceClient(f.dial(t)).Scan(t.Context(), &raftkvv1.ScanRequest{})
	if err == nil {
		_, err = scan.Recv()
	}
	check("grpc scan", err)
	stream, err := raftkvv1connect.NewKvServiceClient(f.http, f.url).Scan(t.Context(), &raftkvv1.ScanRequest{})
	if err == nil {
		stream.Receive()
		err = errors.Join(stream.Err(), stream.Close())
	}
	check("connect scan", err)
}

// TestSmallStreamMessages: a client that asks for gzip does not get streams that it makes longer.
func TestSmallStreamMessages(t *testing.T) {
	f := newFixture(t)
	f.node.records["k"] = recordOf("v")
	var answer encodingRecorder
	client := raftkvv1.NewKvServiceClient(f.dial(t, grpc.WithStatsHandler(&answer)))
	stream, err := client.Scan(t.Context(), &raftkvv1.ScanRequest{}, grpc.UseCompressor(gzip.Name))
	if err != nil {
		t.Fatal(err)
	}
	if page, err := stream.Recv(); err != nil || len(page.GetKvs()) != 1 || answer.compressed() {
		t.Errorf("%v, %v, compressed: %t", page, err, answer.compressed())
	}
}

// waitingNode answers when the deadline of a request has passed, as a node does that waits for a leader.
type waitingNode struct{ *fakeNode }

func (n waitingNode) Submit(r *raftnode.Request) {
	time.AfterFunc(time.Until(r.Deadline), func() {
		r.Done(raftnode.Result{Shard: fakeShard, Err: &raftnode.NotLeaderError{Shard: fakeShard}})
	})
}

func (n waitingNode) Do(ctx context.Context, r *raftnode.Request) raftnode.Result {
	done := make(chan raftnode.Result, 1)
	r.Done = func(res raftnode.Result) { done <- res }
	n.Submit(r)
	select {
	case res := <-done:
		return res
	case <-ctx.Done():
		return raftnode.Result{Err: &raftnode.UnknownOutcomeError{Cause: "nobody waits"}}
	}
}

// TestNodeAnswersFirst: what the node says at its deadline reaches the caller before the caller's time is over.
func TestNodeAnswersFirst(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Node = waitingNode{newFakeNode()} })
	for _, path := range []string{"/v1/kv/k", "/v1/kv", "/v1/batch"} {
		method, body := "POST", `{"operations":[{"delete":{"key":"k"}}]}`
		switch path {
		case "/v1/kv/k":
			method = "PUT"
		case "/v1/kv":
			body = `{"key":"k"}`
		}
		code, b := f.rest(t, method, path, []byte(body), "Connect-Timeout-Ms", "2000")
		if code != 503 || !strings.Contains(string(b), "NOT_LEADER") {
			t.Errorf("%s: %d %s", path, code, b)
		}
	}
}

// TestUnknownWhenStreamEnds: an Exec stream whose time ends with writes under way leaves their outcome open.
func TestUnknownWhenStreamEnds(t *testing.T) {
	f := newFixture(t)
	f.node.hold = true
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	stream := &scriptedStream{ctx: ctx, messages: make(chan *raftkvv1.ExecRequest, 2)}
	done := make(chan error, 1)
	go func() { done <- f.service.exec(ctx, stream) }()
	stream.messages <- &raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execPut(1, "k", "v")}}
	<-f.node.heldNote
	cancel()
	checkStatus(t, failureOf(<-done).status(), codes.Unknown, "OUTCOME_UNKNOWN",
		&raftkvv1.OutcomeUnknown{Cause: "the stream ended with 1 writes under way: context canceled"}, 0)
	f.service.receivers.Wait()
	f.node.release(nil)
}

// scriptedStream receives what a test sends, until ctx ends.
type scriptedStream struct {
	ctx      context.Context
	messages chan *raftkvv1.ExecRequest
}

func (s *scriptedStream) Receive() (*raftkvv1.ExecRequest, error) {
	select {
	case m := <-s.messages:
		return m, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *scriptedStream) Send(*raftkvv1.ExecResponse) error { return s.ctx.Err() }

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what has been written since the last call.
func (b *syncBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	b.text.Reset()
	return text
}
