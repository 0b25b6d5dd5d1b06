package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode"
)

// execClient is a client's side of Exec on any protocol.
type execClient interface {
	Send(m *raftkvv1.ExecRequest) error
	Receive() (*raftkvv1.ExecResponse, error)
	CloseSend() error
}

type connectExec struct {
	*connect.BidiStreamForClientSimple[raftkvv1.ExecRequest, raftkvv1.ExecResponse]
}

func (c connectExec) CloseSend() error { return c.CloseRequest() }

type grpcExec struct{ raftkvv1.KvService_ExecClient }

func (c grpcExec) Receive() (*raftkvv1.ExecResponse, error) { return c.Recv() }

// execClients open a stream on every protocol that has streams in both directions.
func (f *fixture) execClients(t testing.TB) map[string]func(context.Context) execClient {
	conn := f.dial(t)
	over := func(options ...connect.ClientOption) func(context.Context) execClient {
		return func(ctx context.Context) execClient {
			stream, err := raftkvv1connect.NewKvServiceClient(f.h2c, f.url, options...).Exec(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return connectExec{stream}
		}
	}
	return map[string]func(context.Context) execClient{
		"connect":      over(),
		"connect json": over(connect.WithProtoJSON()),
		"connect gzip": over(connect.WithSendGzip()),
		"grpc on http": over(connect.WithGRPC()),
		"grpc-web":     over(connect.WithGRPCWeb()),
		"grpc": func(ctx context.Context) execClient {
			stream, err := raftkvv1.NewKvServiceClient(conn).Exec(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return grpcExec{stream}
		},
	}
}

func execGet(id uint64, key string) *raftkvv1.ExecOperation {
	return &raftkvv1.ExecOperation{Id: id, Operation: &raftkvv1.ExecOperation_Get{Get: &raftkvv1.GetRequest{Key: key}}}
}

func execPut(id uint64, key, value string) *raftkvv1.ExecOperation {
	return &raftkvv1.ExecOperation{Id: id, Operation: &raftkvv1.ExecOperation_Put{Put: &raftkvv1.PutRequest{Key: key, Value: []byte(value)}}}
}

// execCaller makes single calls by Exec.
func (f *fixture) execCaller(t testing.TB) caller {
	open := f.execClients(t)["connect"]
	return func(t testing.TB, _ string, req, res proto.Message) *spb.Status {
		t.Helper()
		stream := open(t.Context())
		if err := stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execOf(req)}}); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Receive()
		if err != nil {
			t.Fatal(err)
		}
		finish(t, stream)
		if res == nil {
			res = new(raftkvv1.GetResponse) // nobody looks at it
		}
		switch r := answer.GetResults()[0].GetResult().(type) {
		case *raftkvv1.ExecResult_Error:
			return r.Error
		case *raftkvv1.ExecResult_Put:
			proto.Merge(res, r.Put)
		case *raftkvv1.ExecResult_Delete:
			proto.Merge(res, r.Delete)
		case *raftkvv1.ExecResult_Get:
			proto.Merge(res, r.Get)
		case *raftkvv1.ExecResult_Txn:
			proto.Merge(res, r.Txn)
		}
		return nil
	}
}

// execOf is a request as an operation of Exec.
func execOf(m proto.Message) *raftkvv1.ExecOperation {
	op := &raftkvv1.ExecOperation{}
	switch m := m.(type) {
	case *raftkvv1.GetRequest:
		op.Operation = &raftkvv1.ExecOperation_Get{Get: m}
	case *raftkvv1.PutRequest:
		op.Operation = &raftkvv1.ExecOperation_Put{Put: m}
	case *raftkvv1.DeleteRequest:
		op.Operation = &raftkvv1.ExecOperation_Delete{Delete: m}
	case *raftkvv1.TxnRequest:
		op.Operation = &raftkvv1.ExecOperation_Txn{Txn: m}
	case *raftkvv1.BatchRequest:
		op.Operation = &raftkvv1.ExecOperation_Batch{Batch: m}
	}
	return op
}

// finish ends a stream from the client's side and expects nothing more.
func finish(t testing.TB, stream execClient) {
	t.Helper()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Fatalf("the stream ended with %v", err)
	}
}

func TestExecEveryOperation(t *testing.T) {
	f := newFixture(t)
	for name, open := range f.execClients(t) {
		t.Run(name, func(t *testing.T) {
			stream := open(t.Context())
			ask := func(op *raftkvv1.ExecOperation) *raftkvv1.ExecResult {
				t.Helper()
				if err := stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{op}, TimeoutMs: 5000}); err != nil {
					t.Fatal(err)
				}
				res, err := stream.Receive()
				if err != nil {
					t.Fatal(err)
				}
				if len(res.GetResults()) != 1 || res.GetResults()[0].GetId() != op.GetId() {
					t.Fatalf("results %v", res.GetResults())
				}
				return res.GetResults()[0]
			}
			put := ask(execPut(7, name, "v")).GetPut()
			if put.GetVersion() != 1 || put.GetHeader().GetClusterId() != fakeCluster {
				t.Errorf("put: %v", put)
			}
			if get := ask(execGet(8, name)).GetGet(); string(get.GetKv().GetValue()) != "v" || get.GetKv().GetModRevision() != put.GetHeader().GetRevision() {
				t.Errorf("get: %v", get)
			}
			batch := func(atomic bool) *raftkvv1.ExecOperation {
				return &raftkvv1.ExecOperation{Id: 9, Operation: &raftkvv1.ExecOperation_Batch{Batch: &raftkvv1.BatchRequest{
					Atomic: proto.Bool(atomic), Operations: []*raftkvv1.BatchOperation{putOp(name+"1", "1"), deleteOp(name + "1x")},
				}}}
			}
			for _, atomic := range []bool{true, false} {
				if r := ask(batch(atomic)).GetBatch().GetResults(); len(r) != 2 || r[0].GetPut() == nil || r[1].GetDelete() == nil {
					t.Errorf("batch: %v", r)
				}
			}
			remove := &raftkvv1.ExecOperation{Id: 10, Operation: &raftkvv1.ExecOperation_Delete{Delete: &raftkvv1.DeleteRequest{Key: name}}}
			if del := ask(remove).GetDelete(); !del.GetDeleted() {
				t.Errorf("delete: %v", del)
			}
			checkStatus(t, ask(execGet(11, name)).GetError(), codes.NotFound, "KEY_NOT_FOUND",
				&raftkvv1.KeyNotFound{Key: name, Revision: f.node.revision, Shard: fakeShard}, 0)
			checkStatus(t, ask(execGet(12, "")).GetError(), codes.InvalidArgument, "INVALID", badRequest("key", "must not be empty"), 0)
			checkStatus(t, ask(&raftkvv1.ExecOperation{Id: 13}).GetError(), codes.InvalidArgument, "INVALID",
				badRequest("operation", "must be get, put, delete, batch or txn"), 0)
			finish(t, stream)
		})
	}
}

// TestExecOutOfOrder has thousands of operations in flight and answers them in random order.
func TestExecOutOfOrder(t *testing.T) {
	f := newFixture(t)
	const messages, perMessage = 8, 1000
	for name, open := range f.execClients(t) {
		t.Run(name, func(t *testing.T) {
			f.node.mu.Lock()
			f.node.hold = true
			f.node.mu.Unlock()
			stream := open(t.Context())
			id := uint64(0)
			for range messages {
				m := &raftkvv1.ExecRequest{}
				for range perMessage {
					id++
					m.Operations = append(m.Operations, execPut(id, fmt.Sprintf("%s/%d", name, id), fmt.Sprint(id)))
				}
				if err := stream.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			for range messages * perMessage {
				<-f.node.heldNote
			}
			goroutines := runtime.NumGoroutine()
			if goroutines > 200 {
				t.Errorf("%d goroutines for %d operations", goroutines, id)
			}
			f.node.release(func(held []*raftnode.Request) {
				rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
			})
			seen := map[uint64]bool{}
			responses := 0
			for len(seen) < messages*perMessage {
				res, err := stream.Receive()
				if err != nil {
					t.Fatal(err)
				}
				responses++
				for _, r := range res.GetResults() {
					if seen[r.GetId()] || r.GetPut().GetVersion() != 1 {
						t.Fatalf("result %v, seen before: %t", r, seen[r.GetId()])
					}
					seen[r.GetId()] = true
				}
			}
			if responses > messages*perMessage/4 {
				t.Errorf("%d responses for %d results: nothing was merged", responses, len(seen))
			}
			finish(t, stream)
		})
	}
}

// TestExecSlowReader has a client that reads nothing until it has sent everything. What the server holds stays bounded,
// and everything is answered once the client reads.
func TestExecSlowReader(t *testing.T) {
	const total, limit = 500, 64
	f := newFixture(t, func(o *Options) { o.Limits.StreamOperations, o.Limits.StreamBytes = limit, 128<<10 })
	value := strings.Repeat("v", 8<<10)
	f.node.records["k"] = recordOf(value)
	for name, open := range f.execClients(t) {
		t.Run(name, func(t *testing.T) {
			stream := open(t.Context())
			for id := range uint64(total) {
				if err := stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execGet(id, "k")}}); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			answered, overloaded := 0, 0
			for answered < total {
				res, err := stream.Receive()
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range res.GetResults() {
					answered++
					if r.GetError() != nil {
						overloaded++
						if r.GetError().GetCode() != int32(codes.ResourceExhausted) {
							t.Fatal(r.GetError())
						}
					} else if len(r.GetGet().GetKv().GetValue()) != len(value) {
						t.Fatal("a value was changed")
					}
				}
			}
			if overloaded > limit {
				t.Errorf("%d of %d reads were refused: the charge does not adapt", overloaded, total)
			}
			if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	}
}

// blockedStream is a stream whose client reads nothing, and sends as fast as it is read.
type blockedStream struct {
	ctx      context.Context
	next     func() *raftkvv1.ExecRequest
	received chan int
	n        int
}

func (s *blockedStream) Receive() (*raftkvv1.ExecRequest, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	s.n++
	s.received <- s.n
	return s.next(), nil
}

func (s *blockedStream) Send(*raftkvv1.ExecResponse) error {
	<-s.ctx.Done()
	return s.ctx.Err()
}

func TestExecStopsReadingWhenFull(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.StreamOperations = 100 })
	ctx, cancel := context.WithCancel(t.Context())
	stream := &blockedStream{ctx: ctx, received: make(chan int, 1<<16), next: func() *raftkvv1.ExecRequest {
		m := &raftkvv1.ExecRequest{}
		for i := range uint64(30) {
			m.Operations = append(m.Operations, execPut(i, "k", "v"))
		}
		return m
	}}
	done := make(chan error, 1)
	go func() { done <- f.service.exec(ctx, stream) }()
	for range 4 { // 120 operations; the fourth message cannot be admitted whole, so nothing more is read
		<-stream.received
	}
	cancel()
	if err := <-done; failureOf(err).reason != "OUTCOME_UNKNOWN" {
		t.Error(err)
	}
	f.service.receivers.Wait()
	if n := len(stream.received); n > 1 {
		t.Errorf("%d messages were read beyond the bound", n)
	}
}

// TestExecLargeReads checks the bound on bytes while every read brings more than the one before made expect.
func TestExecLargeReads(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.StreamBytes = 1 << 20 })
	x := &execution{service: f.service, ctx: t.Context(), wake: make(chan struct{}, 1), room: make(chan struct{}, 1), readCharge: chargeReadFirst}
	var ops []*raftkvv1.ExecOperation
	for i := range uint64(200) {
		ops = append(ops, execGet(i, "k"))
	}
	admitted, _ := x.tryAdmit(ops, time.Now(), time.Now().Add(time.Minute))
	if len(admitted) != 200 {
		t.Fatalf("%d admitted", len(admitted))
	}
	res := raftnode.Result{Read: readOf("k", recordOf(strings.Repeat("v", 1<<20)))}
	kept := 0
	for _, o := range admitted {
		o.done(res)
		if o.result.Err == nil {
			kept++
		}
	}
	if kept > 1 || x.inFlightBytes > 2<<20 {
		t.Errorf("%d values of 1 MiB are kept, %d bytes charged", kept, x.inFlightBytes)
	}
	if again, _ := x.tryAdmit(ops, time.Now(), time.Now()); len(again) != 0 {
		t.Errorf("%d more reads are admitted though large values are expected", len(again))
	}
	var charges uint64
	for _, o := range admitted {
		charges += o.charge
	}
	if charges != x.inFlightBytes || int64(charges) != f.service.budget.used.Load() {
		t.Errorf("charges sum to %d, %d are in flight, %d in the budget", charges, x.inFlightBytes, f.service.budget.used.Load())
	}
	x.abandon()
}

func TestExecTooManyOperations(t *testing.T) {
	f := newFixture(t)
	for name, open := range f.execClients(t) {
		t.Run(name, func(t *testing.T) {
			stream := open(t.Context())
			if err := stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execPut(1, "k", "v")}}); err != nil {
				t.Fatal(err)
			}
			m := &raftkvv1.ExecRequest{Operations: make([]*raftkvv1.ExecOperation, execOperationsMax+1)}
			for i := range m.Operations {
				m.Operations[i] = execGet(uint64(i), "k")
			}
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
			res, err := stream.Receive() // what came before is answered
			if err != nil || res.GetResults()[0].GetPut() == nil {
				t.Fatal(res, err)
			}
			_, err = stream.Receive()
			checkStatus(t, wireStatus(t, err), codes.InvalidArgument, "LIMIT_EXCEEDED",
				&raftkvv1.LimitExceeded{Field: "operations", Limit: execOperationsMax, Actual: execOperationsMax + 1}, 0)
		})
	}
}

// TestDrain ends streams after what is in flight has been answered.
func TestDrain(t *testing.T) {
	for name := range newFixture(t).execClients(t) {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			stream := f.execClients(t)[name](t.Context())
			f.node.hold = true
			if err := stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execPut(1, "k", "v")}}); err != nil {
				t.Fatal(err)
			}
			<-f.node.heldNote
			f.service.Drain()
			f.node.release(nil)
			res, err := stream.Receive()
			if err != nil || res.GetResults()[0].GetPut() == nil {
				t.Fatal(res, err)
			}
			_, err = stream.Receive()
			checkStatus(t, wireStatus(t, err), codes.Unavailable, "STOPPING", nil, 100*time.Millisecond)
		})
	}
}
