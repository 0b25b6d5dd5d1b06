package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a service over a fake node on two loopback listeners.
type fixture struct {
	node    *fakeNode
	service *Service
	url     string
	address string
	grpc    string
	http    *http.Client // HTTP/1.1
	h2c     *http.Client
}

func newFixture(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	n := newFakeNode()
	o := Options{Node: n, Version: "test", Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{node: n, service: s}
	web, err := s.NewHTTPServer(ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	native := s.NewGRPCServer(ListenerOptions{})
	f.address = serve(t, web)
	f.url = "http://" + f.address
	f.grpc = serve(t, native)
	f.http = &http.Client{Transport: new(http.Transport)}
	f.h2c = h2cClient()
	t.Cleanup(func() {
		f.http.CloseIdleConnections()
		f.h2c.CloseIdleConnections()
		s.Drain()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := web.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := native.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		s.Close()
		awaitNothingUsed(t, s)
	})
	return f
}

func h2cClient() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13}}}
}

// serve serves on a loopback port and returns its address.
func serve(t testing.TB, s interface{ Serve(net.Listener) error }) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// caller calls unary methods by one protocol. The error is the google.rpc.Status that came, or nil.
type caller func(t testing.TB, procedure string, req, res proto.Message) *spb.Status

// writeCallers are all ways to write, Exec included.
func (f *fixture) writeCallers(t testing.TB) map[string]caller {
	callers := f.protocols(t)
	callers["exec"] = f.execCaller(t)
	return callers
}

// protocols are all ways to call a unary method.
func (f *fixture) protocols(t testing.TB) map[string]caller {
	conn := f.dial(t)
	return map[string]caller{
		"connect":      f.connectCaller(f.http),
		"connect json": f.connectCaller(f.http, connect.WithProtoJSON()),
		"connect get":  f.connectCaller(f.http, connect.WithHTTPGet()),
		"connect h2":   f.connectCaller(f.h2c),
		"grpc-web":     f.connectCaller(f.http, connect.WithGRPCWeb()),
		"grpc on http": f.connectCaller(f.h2c, connect.WithGRPC()),
		"grpc":         grpcCaller(conn),
		"rest":         f.restCaller(),
	}
}

// onEveryProtocol runs a test once for each way to call a unary method, Exec included, on a new service each.
func onEveryProtocol(t *testing.T, test func(t *testing.T, call caller)) {
	names := newFixture(t).protocols(t)
	names["exec"] = nil
	for name := range names {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			call := f.protocols(t)[name]
			if name == "exec" {
				call = f.execCaller(t)
			}
			test(t, call)
		})
	}
}

// dial dials the grpc listener.
func (f *fixture) dial(t testing.TB, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return dialGRPC(t, f.grpc, options...)
}

func dialGRPC(t testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func grpcCaller(conn *grpc.ClientConn) caller {
	return func(t testing.TB, procedure string, req, res proto.Message) *spb.Status {
		if err := conn.Invoke(t.Context(), procedure, req, res); err != nil {
			return status.Convert(err).Proto()
		}
		return nil
	}
}

func (f *fixture) connectCaller(client *http.Client, options ...connect.ClientOption) caller {
	return func(t testing.TB, procedure string, req, res proto.Message) *spb.Status {
		t.Helper()
		kv := raftkvv1connect.NewKvServiceClient(client, f.url, options...)
		cl := raftkvv1connect.NewClusterServiceClient(client, f.url, options...)
		le := raftkvv1connect.NewLeaseServiceClient(client, f.url, options...)
		var err error
		var m proto.Message
		ctx := t.Context()
		switch r := req.(type) {
		case *raftkvv1.GetRequest:
			m, err = kv.Get(ctx, r)
		case *raftkvv1.PutRequest:
			m, err = kv.Put(ctx, r)
		case *raftkvv1.DeleteRequest:
			m, err = kv.Delete(ctx, r)
		case *raftkvv1.ListRequest:
			m, err = kv.List(ctx, r)
		case *raftkvv1.BatchRequest:
			m, err = kv.Batch(ctx, r)
		case *raftkvv1.TxnRequest:
			m, err = kv.Txn(ctx, r)
		case *raftkvv1.GetOutcomeRequest:
			m, err = kv.GetOutcome(ctx, r)
		case *raftkvv1.StatusRequest:
			m, err = cl.Status(ctx, r)
		case *raftkvv1.ListNodesRequest:
			m, err = cl.ListNodes(ctx, r)
		case *raftkvv1.ListShardsRequest:
			m, err = cl.ListShards(ctx, r)
		case *raftkvv1.LocateKeyRequest:
			m, err = cl.LocateKey(ctx, r)
		case *raftkvv1.GetLimitsRequest:
			m, err = cl.GetLimits(ctx, r)
		case *raftkvv1.TransferLeaderRequest:
			m, err = cl.TransferLeader(ctx, r)
		case *raftkvv1.GrantRequest:
			m, err = le.Grant(ctx, r)
		case *raftkvv1.KeepAliveRequest:
			m, err = le.KeepAlive(ctx, r)
		case *raftkvv1.RevokeRequest:
			m, err = le.Revoke(ctx, r)
		case *raftkvv1.GetLeaseRequest:
			m, err = le.GetLease(ctx, r)
		case *raftkvv1.ListLeasesRequest:
			m, err = le.ListLeases(ctx, r)
		default:
			t.Fatalf("no client for %s", procedure)
		}
		if err != nil {
			return connectStatus(t, err)
		}
		proto.Merge(res, m)
		return nil
	}
}

// connectStatus is a Connect error in the form of the other protocols.
func connectStatus(t testing.TB, err error) *spb.Status {
	t.Helper()
	var c *connect.Error
	if !asErr(err, &c) {
		t.Fatalf("%v is no Connect error", err)
	}
	s := &spb.Status{Code: int32(c.Code()), Message: c.Message()}
	for _, d := range c.Details() {
		a := anyOf(t, d)
		s.Details = append(s.Details, a)
	}
	return s
}

// restCaller maps requests to routes by hand, as a person with curl would.
func (f *fixture) restCaller() caller {
	return func(t testing.TB, procedure string, req, res proto.Message) *spb.Status {
		t.Helper()
		method, path, body := restCall(t, req)
		code, b := f.rest(t, method, path, body, "Accept", "application/json")
		if code >= 300 {
			s := new(spb.Status)
			if err := protojson.Unmarshal(b, s); err != nil {
				t.Fatalf("%s %s: %d %q: %v", method, path, code, b, err)
			}
			return s
		}
		if err := protojson.Unmarshal(b, res); err != nil {
			t.Fatalf("%s %s: %q: %v", method, path, b, err)
		}
		return nil
	}
}

// rest makes a REST request; the path is sent as it stands.
func (f *fixture) rest(t testing.TB, method, path string, body []byte, headers ...string) (int, []byte) {
	t.Helper()
	res, b := f.restResponse(t, method, path, body, headers...)
	return res.StatusCode, b
}

func (f *fixture) restResponse(t testing.TB, method, path string, body []byte, headers ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := f.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

func asJSON(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func validJSON(b []byte) bool { return json.Valid(b) }

// awaitNothingUsed waits until the budget has everything back: the handler of a call that its client has given up may end after the server was shut down.
func awaitNothingUsed(t testing.TB, s *Service) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10_000 {
		if s.budget.used.Load() == 0 {
			return
		}
		<-tick.C
	}
	t.Errorf("%d bytes were not given back to the budget", s.budget.used.Load())
}
