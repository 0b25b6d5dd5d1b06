package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// liar is a node that answers as it is told, right or wrong.
type liar struct {
	raftkvv1connect.UnimplementedKvServiceHandler
	raftkvv1connect.UnimplementedLeaseServiceHandler
	raftkvv1connect.UnimplementedWatchServiceHandler
	keys   []*raftkvv1.KeyValue
	leases []*raftkvv1.Lease
	// told are the responses of a watch, and end the error with which it ends.
	told []*raftkvv1.WatchResponse
	end  error
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
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	at := func(int) string { return server.URL }
	e := &endpoint{connect: raftkvv1connect.NewKvServiceClient(server.Client(), server.URL)}
	e.lease, e.watch = leaseClients(at, server.Client(), server.Client()), watchClients(at, server.Client(), server.Client())
	e.watch[1], e.lease[1] = e.watch[0], e.lease[0]
	out := &load{rec: newRecorder(), keys: &keyspace{}}
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
