package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// liar is a node that answers as it is told, right or wrong.
type liar struct {
	raftkvv1connect.UnimplementedKvServiceHandler
	raftkvv1connect.UnimplementedLeaseServiceHandler
	raftkvv1connect.UnimplementedWatchServiceHandler
	// puts are what puts get, one after another; nil is success. mu guards them.
	mu   sync.Mutex
	puts []error

	// outcomes are what questions are told, one after another, keyed the idempotency keys of puts, by where they stood. mu guards them.
	outcomes []*raftkvv1.GetOutcomeResponse
	keyed    map[string]string

	keys   []*raftkvv1.KeyValue
	leases []*raftkvv1.Lease
	// told are the responses of a watch, and end the error with which it ends.
	told []*raftkvv1.WatchResponse
	end  error
}

func (l *liar) Put(ctx context.Context, req *raftkvv1.PutRequest) (*raftkvv1.PutResponse, error) {
	if l.keyed != nil {
		l.mu.Lock()
		info, _ := connect.CallInfoForHandlerContext(ctx)
		l.keyed["header"] += info.RequestHeader().Get("Idempotency-Key")
		l.keyed["field"] += req.GetIdempotencyKey()
		l.mu.Unlock()
	}
	return &raftkvv1.PutResponse{}, l.put()
}

func (l *liar) Batch(context.Context, *raftkvv1.BatchRequest) (*raftkvv1.BatchResponse, error) {
	return &raftkvv1.BatchResponse{}, l.put()
}

func (l *liar) Txn(context.Context, *raftkvv1.TxnRequest) (*raftkvv1.TxnResponse, error) {
	return &raftkvv1.TxnResponse{}, l.put()
}

func (l *liar) Exec(_ context.Context, s *connect.BidiStream[raftkvv1.ExecRequest, raftkvv1.ExecResponse]) error {
	in, err := s.Receive()
	if err != nil {
		return err
	}
	out := &raftkvv1.ExecResult{Id: in.GetOperations()[0].GetId(), Result: &raftkvv1.ExecResult_Put{Put: &raftkvv1.PutResponse{}}}
	if refused := (*connect.Error)(nil); errors.As(l.put(), &refused) {
		said := &status.Status{Code: int32(refused.Code())} //nolint:gosec // small
		for _, d := range refused.Details() {
			said.Details = append(said.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
		}
		out.Result = &raftkvv1.ExecResult_Error{Error: said}
	}
	return s.Send(&raftkvv1.ExecResponse{Results: []*raftkvv1.ExecResult{out}})
}

func (l *liar) GetOutcome(context.Context, *raftkvv1.GetOutcomeRequest) (out *raftkvv1.GetOutcomeResponse, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.outcomes) > 1 {
		out, l.outcomes = l.outcomes[0], l.outcomes[1:]
		return out, nil
	}
	return l.outcomes[0], nil
}

func (l *liar) put() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err, l.puts = l.puts[0], l.puts[1:]
	return err
}

func (l *liar) Scan(_ context.Context, _ *raftkvv1.ScanRequest, s *connect.ServerStream[raftkvv1.ScanResponse]) error {
	return s.Send(&raftkvv1.ScanResponse{Kvs: l.keys})
}

func (l *liar) ListLeases(context.Context, *raftkvv1.ListLeasesRequest) (*raftkvv1.ListLeasesResponse, error) {
	return &raftkvv1.ListLeasesResponse{Leases: l.leases}, nil
}

func (l *liar) Watch(_ context.Context, _ *raftkvv1.WatchRequest, s *connect.ServerStream[raftkvv1.WatchResponse]) error {
	for _, res := range l.told {
		if err := s.Send(res); err != nil {
			return err
		}
	}
	return l.end
}

// loadOn is a load whose every node is the liar.
func loadOn(t *testing.T, l *liar) *load {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(raftkvv1connect.NewKvServiceHandler(l))
	mux.Handle(raftkvv1connect.NewLeaseServiceHandler(l))
	mux.Handle(raftkvv1connect.NewWatchServiceHandler(l))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	h2 := &http.Transport{Protocols: &http.Protocols{}}
	h2.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2.CloseIdleConnections)
	at, plain, streams := func(int) string { return server.URL }, server.Client(), &http.Client{Transport: h2}
	e := &endpoint{
		connect: raftkvv1connect.NewKvServiceClient(plain, server.URL), grpc: raftkvv1connect.NewKvServiceClient(streams, server.URL, connect.WithGRPC()),
		lease: leaseClients(at, plain, streams), watch: watchClients(at, plain, streams),
	}
	out := &load{rec: newRecorder(), keys: &keyspace{}, values: &values{}}
	for i := range out.endpoints {
		out.endpoints[i] = e
	}
	return out
}

// A key or a lease that does not go is noticed.
func TestLeft(t *testing.T) {
	for want, l := range map[string]*liar{
		"":        {},
		"1 keys":  {keys: []*raftkvv1.KeyValue{{Key: "mortal-0"}}},
		"1 lease": {leases: []*raftkvv1.Lease{{Id: 7}}},
	} {
		m := newMortals()
		m.load = loadOn(t, l)
		m.life.Keys = []*nodetest.KeyLife{{Name: "mortal-0"}}
		if got := m.left(0); (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%q is left, want %q", got, want)
		}
	}
}

// A put that was refused is never to be seen, also if it was refused at a retry because its lease had ended by then; one in doubt may be.
func TestRefusedPuts(t *testing.T) {
	unknown, full := ending(t, connect.CodeUnknown, &raftkvv1.OutcomeUnknown{}), ending(t, connect.CodeResourceExhausted, &raftkvv1.DiskFull{})
	gone := ending(t, connect.CodeFailedPrecondition, &raftkvv1.LeaseNotFound{LeaseId: 7})
	for name, test := range map[string]struct {
		answers        []error
		refused, ended bool
	}{
		"put":                            {answers: []error{nil}},
		"put at a retry":                 {answers: []error{unknown, nil}},
		"refused":                        {answers: []error{full}, refused: true},
		"refused when it was in doubt":   {answers: []error{unknown, full, nil}},
		"its lease has ended":            {answers: []error{gone}, refused: true, ended: true},
		"its lease has ended at a retry": {answers: []error{unknown, gone}, refused: true, ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMortals()
			m.load = loadOn(t, &liar{puts: test.answers})
			c := &client{load: m.load, random: rand.New(rand.NewPCG(1, 1))} //nolint:gosec // not secret
			lease := &nodetest.LeaseLife{ID: 7, TTL: time.Hour}
			k := m.put(c, lease, 0)
			m.looked(k, m.load.rec.now(), true)
			if k.Refused != test.refused || (len(lease.Gone) > 0) != test.ended || (k.Put > 0) == test.refused {
				t.Errorf("%+v, %+v", k, lease)
			}
			if err := m.check(); (err != nil) != test.refused {
				t.Errorf("it is there: %v", err)
			}
		})
	}
}

// ending is an error of a node.
func ending(t *testing.T, code connect.Code, detail proto.Message) error {
	t.Helper()
	e := connect.NewError(code, errors.New("x"))
	for _, m := range []proto.Message{&errdetails.ErrorInfo{Domain: errorDomain}, detail} {
		d, err := connect.NewErrorDetail(m)
		if err != nil {
			t.Fatal(err)
		}
		e.AddDetail(d)
	}
	return e
}

// A watch goes on from what it may end with, and what it may not is noticed.
func TestWatchEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end               error
		wrong, begunAgain bool
		forgotten, cutOff int
	}{
		"stopping":       {end: ending(t, connect.CodeUnavailable, &raftkvv1.NotLeader{})},
		"cut off":        {end: ending(t, connect.CodeUnavailable, &raftkvv1.CutOff{}), cutOff: 1},
		"compacted":      {end: ending(t, connect.CodeOutOfRange, &raftkvv1.Compacted{}), forgotten: 1, begunAgain: true},
		"the future":     {end: ending(t, connect.CodeOutOfRange, &raftkvv1.FutureRevision{}), wrong: true},
		"invalid":        {end: ending(t, connect.CodeInvalidArgument, &errdetails.BadRequest{}), wrong: true},
		"without a word": {wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watcher{load: loadOn(t, &liar{told: responses(), end: test.end}), now: watchOfGroup()}
			w.random = rand.New(rand.NewPCG(1, 1)) //nolint:gosec // not secret
			over, cancel := context.WithCancel(context.Background())
			cancel() // Nothing is lost on purpose.
			w.follow(context.Background(), over)
			if got := len(w.load.rec.broken()) > 0; got != test.wrong || w.forgotten != test.forgotten || w.cutOff != test.cutOff {
				t.Errorf("wrong: %t, forgotten %d, cut off %d", got, w.forgotten, w.cutOff)
			}
			if token := w.now.begin(time.Second).GetToken(); (token == "") != test.begunAgain {
				t.Errorf("it goes on by %q", token)
			}
		})
	}
}

// A wrong response is noticed when it comes.
func TestWatchLies(t *testing.T) {
	told := responses()
	told[2].Header.Revision = 4
	w := &watcher{load: loadOn(t, &liar{told: told, end: ending(t, connect.CodeUnavailable, &raftkvv1.NotLeader{})}), now: watchOfGroup()}
	w.random = rand.New(rand.NewPCG(1, 1)) //nolint:gosec // not secret
	over, cancel := context.WithCancel(context.Background())
	cancel()
	w.follow(context.Background(), over)
	if len(w.load.rec.broken()) == 0 {
		t.Error("nobody notices")
	}
}
