package service

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

// grpcPorts are connections of a grpc-go client to both listeners.
func (f *fixture) grpcPorts(t testing.TB) map[string]*grpc.ClientConn {
	web := &fixture{grpc: f.address}
	return map[string]*grpc.ClientConn{"server": web.dial(t), "grpc": f.dial(t)}
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	const serving, not = grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING
	for name, conn := range f.grpcPorts(t) {
		t.Run(name, func(t *testing.T) {
			f.node.setNotReady()
			client := grpc_health_v1.NewHealthClient(conn)
			for _, service := range append(serviceNames(), "") {
				if res, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service}); err != nil || res.GetStatus() != serving {
					t.Errorf("%q: %v, %v", service, res, err)
				}
			}
			if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "x"}); status.Code(err).String() != "NotFound" {
				t.Error(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			watch, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{serving, not, serving} {
				res, err := watch.Recv()
				if err != nil || res.GetStatus() != want {
					t.Fatalf("%v, %v; want %v", res, err, want)
				}
				if want == serving {
					f.node.setNotReady("shard 1 has no leader")
				} else {
					f.node.setNotReady()
				}
			}
		})
	}
	f.node.setNotReady()
	client := grpc_health_v1.NewHealthClient(f.dial(t))
	if res, err := client.List(t.Context(), &grpc_health_v1.HealthListRequest{}); err != nil || len(res.GetStatuses()) != 1+len(serviceNames()) {
		t.Error(res, err)
	}
	watch, err := client.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Error(res, err)
	}
}

func TestReflection(t *testing.T) {
	f := newFixture(t)
	for name, conn := range f.grpcPorts(t) {
		t.Run(name, func(t *testing.T) {
			v1, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := v1.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
				t.Fatal(err)
			}
			res, err := v1.Recv()
			if err != nil || !strings.Contains(fmt.Sprint(res), "raftkv.v1.KvService") {
				t.Errorf("%v, %v", res, err)
			}
			if err := errors.Join(v1.CloseSend()); err != nil {
				t.Error(err)
			}
			alpha, err := grpc_reflection_v1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			symbol := &grpc_reflection_v1alpha.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "raftkv.v1.ClusterService"} //nolint:staticcheck // older tools still ask so
			if err := alpha.Send(&grpc_reflection_v1alpha.ServerReflectionRequest{MessageRequest: symbol}); err != nil {                      //nolint:staticcheck // as above
				t.Fatal(err)
			}
			if res, err := alpha.Recv(); err != nil || res.GetFileDescriptorResponse() == nil { //nolint:staticcheck // as above
				t.Errorf("%v, %v", res, err)
			}
			if err := alpha.CloseSend(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGarbage throws what is no protocol at both ports; they go on serving.
func TestGarbage(t *testing.T) {
	f := newFixture(t)
	for _, garbage := range []string{
		"\x00\x01\x02\x03", strings.Repeat("A", 1<<20), "GET / HTTP/9.9\r\n\r\n", "GET /v1/kv/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x40\x00\x09\xff\x00\x00\x00\x01",
		"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n",
		"POST " + kvPath + "Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: 4\r\n\r\n\xff\xff\xff\xff",
		"POST " + kvPath + "Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc-web\r\nContent-Length: 7\r\n\r\n\x07\x00\x00\x00\x02\xff\xff",
		"POST " + kvPath + "Exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+proto\r\nContent-Length: 0\r\n\r\n",
	} {
		for _, address := range []string{f.address, f.grpc} {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, garbage)
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%.20q is not answered", garbage)
			}
			c.Close()
		}
	}
	for name, call := range f.protocols(t) {
		if failed := call(t, kvPath+"Put", &raftkvv1.PutRequest{Key: "k"}, new(raftkvv1.PutResponse)); failed != nil {
			t.Errorf("%s: %v", name, failed)
		}
	}
	if f.node.index != 8 {
		t.Errorf("the node executed %d requests", f.node.index)
	}
}

// TestMalformedMessages sends bytes that are no message under valid frames.
func TestMalformedMessages(t *testing.T) {
	f := newFixture(t)
	for name, conn := range f.grpcPorts(t) {
		err := conn.Invoke(t.Context(), kvPath+"Get", []byte{0xff, 0xff}, new(raftkvv1.GetResponse), grpc.ForceCodec(bytesCodec{}))
		if status.Code(err).String() != "InvalidArgument" {
			t.Errorf("%s: %v", name, err)
		}
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, kvPath+"Exec", grpc.ForceCodec(bytesCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg([]byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		got := wireStatus(t, stream.RecvMsg(new(raftkvv1.ExecResponse)))
		if got.GetCode() != 3 || !strings.Contains(fmt.Sprint(got.GetDetails()), "MALFORMED") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestUndecodable: a message that cannot be read gets the same typed error on every kind of call of Connect.
func TestUndecodable(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ method, path, kind, body string }{
		{"POST", kvPath + "Put", "application/json", `{"x":1}`},
		{"POST", kvPath + "Put", "application/proto", "\xff\xff"},
		{"POST", clusterPath + "Status", "application/json", `nonsense`},
		{"GET", kvPath + "Get?connect=v1&encoding=json&message=nonsense", "", ""},
	} {
		res, b := f.restResponse(t, c.method, c.path, []byte(c.body), "Content-Type", c.kind)
		if res.StatusCode != 400 || !strings.Contains(string(b), `"reason":"MALFORMED"`) || !strings.Contains(string(b), "BadRequest") {
			t.Errorf("%s %q: %d %s", c.path, c.body, res.StatusCode, b)
		}
	}
	if f.node.executed() != 0 {
		t.Error("something was executed")
	}
}

// bytesCodec sends bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error {
	return proto.Unmarshal(b, v.(proto.Message))
}

// TestCompression: messages of 1 KiB and more are compressed for those who ask, smaller ones are not, nor those of the grpc listener.
func TestCompression(t *testing.T) {
	f := newFixture(t)
	for key, size := range map[string]int{"small": 100, "large": 10_000} {
		f.node.records[key] = recordOf(strings.Repeat("v", size))
		want := size > compressBytesMin
		r, err := http.NewRequestWithContext(t.Context(), "POST", f.url+kvPath+"Get", strings.NewReader(fmt.Sprintf(`{"key":%q}`, key)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept-Encoding", "gzip")
		res, err := f.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("connect, %s: compressed: %t", key, got)
		}
		for address, want := range map[string]bool{f.address: want, f.grpc: false} {
			var answer encodingRecorder
			client := raftkvv1.NewKvServiceClient(dialGRPC(t, address, grpc.WithStatsHandler(&answer)))
			if _, err := client.Get(t.Context(), &raftkvv1.GetRequest{Key: key}, grpc.UseCompressor(gzip.Name)); err != nil {
				t.Fatal(err)
			}
			if got := answer.compressed(); got != want {
				t.Errorf("grpc, %s of %s: compressed: %t", key, address, got)
			}
		}
	}
}

// TestShutdownIsBounded has a request that does not end.
func TestShutdownIsBounded(t *testing.T) {
	n := newFakeNode()
	n.hold = true
	s, err := New(Options{Node: n})
	if err != nil {
		t.Fatal(err)
	}
	web, err := s.NewHTTPServer(ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	native := s.NewGRPCServer(ListenerOptions{})
	f := &fixture{address: serve(t, web), grpc: serve(t, native)}
	f.url = "http://" + f.address
	client := h2cClient()
	failed := make(chan error, 2)
	go func() {
		_, err := raftkvv1connect.NewKvServiceClient(client, f.url).Put(t.Context(), &raftkvv1.PutRequest{Key: "k"})
		failed <- err
	}()
	conn := f.dial(t)
	go func() {
		_, err := raftkvv1.NewKvServiceClient(conn).Put(t.Context(), &raftkvv1.PutRequest{Key: "k"})
		failed <- err
	}()
	<-n.heldNote
	<-n.heldNote
	for _, server := range []interface{ Shutdown(context.Context) error }{web, native} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		if err := <-failed; err == nil {
			t.Error("a request that was cut off succeeded")
		}
	}
	s.Close()
	n.release(nil)
	client.CloseIdleConnections()
}

// TestConnectionCap: connections beyond the cap wait until one closes.
func TestConnectionCap(t *testing.T) {
	s, err := New(Options{Node: newFakeNode()})
	if err != nil {
		t.Fatal(err)
	}
	web, err := s.NewHTTPServer(ListenerOptions{Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, web)
	get := func(c net.Conn) (string, error) {
		fmt.Fprintf(c, "GET /v1/limits HTTP/1.1\r\nHost: x\r\n\r\n")
		return bufio.NewReader(c).ReadString('\n')
	}
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := get(first); err != nil || !strings.Contains(line, "200") {
		t.Fatal(line, err)
	}
	second, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	answered := make(chan error, 1)
	go func() {
		_, err := get(second)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatal("a second connection was served", err)
	case <-time.After(50 * time.Millisecond): // it never is; this only bounds how long the test looks
	}
	if n, limit := gaugeOf(t, s.metrics.open), gaugeOf(t, s.metrics.openLimit); n != 1 || limit != 1 {
		t.Errorf("%v connections are shown of %v", n, limit)
	}
	first.Close()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	second.Close()
	if err := web.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := gaugeOf(t, s.metrics.open); n != 0 {
		t.Errorf("%v connections are shown at the end", n)
	}
	s.Close()
}

// gaugeOf is what a gauge shows of the http port.
func gaugeOf(t *testing.T, v *prometheus.GaugeVec) float64 {
	t.Helper()
	return valueOf(t, v.WithLabelValues("http"))
}

func valueOf(t *testing.T, g prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue() + m.GetCounter().GetValue()
}

func TestTLS(t *testing.T) {
	certificate, roots := selfSigned(t)
	serverTLS := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	s, err := New(Options{Node: newFakeNode()})
	if err != nil {
		t.Fatal(err)
	}
	web, err := s.NewHTTPServer(ListenerOptions{TLS: serverTLS})
	if err != nil {
		t.Fatal(err)
	}
	native := s.NewGRPCServer(ListenerOptions{TLS: serverTLS})
	webAddress, grpcAddress := serve(t, web), serve(t, native)
	clientTLS := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS, ForceAttemptHTTP2: true}}
	for name, options := range map[string][]connect.ClientOption{"connect": nil, "grpc": {connect.WithGRPC()}} {
		if _, err := raftkvv1connect.NewKvServiceClient(client, "https://"+webAddress, options...).Put(t.Context(), &raftkvv1.PutRequest{Key: "k"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+grpcAddress, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raftkvv1.NewKvServiceClient(conn).Put(t.Context(), &raftkvv1.PutRequest{Key: "k"}); err != nil {
		t.Error(err)
	}
	client.CloseIdleConnections()
	if err := errors.Join(conn.Close(), web.Shutdown(t.Context()), native.Shutdown(t.Context())); err != nil {
		t.Error(err)
	}
	s.Close()
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// TestTimeouts checks that a client's timeout and the default both end a request, whichever is first.
func TestTimeouts(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.Timeout = time.Hour })
	f.node.hold = true
	for _, header := range []string{"Connect-Timeout-Ms: 20", "Grpc-Timeout: 20m"} {
		name, value, _ := strings.Cut(header, ": ")
		for _, path := range []string{"/v1/kv/k", "/v1/kv"} {
			method, body := "PUT", "x"
			if path == "/v1/kv" {
				method, body = "POST", `{"key":"k"}`
			}
			if code, b := f.rest(t, method, path, []byte(body), name, value); code != 504 || !strings.Contains(string(b), "OUTCOME_UNKNOWN") {
				t.Errorf("%s %s: %d %s", path, header, code, b)
			}
		}
	}
	for ms, want := range map[uint32]time.Duration{0: time.Hour, 50: 50 * time.Millisecond, 1 << 31: time.Hour} {
		now := time.Now()
		if got := f.service.deadline(now, ms).Sub(now); got != want {
			t.Errorf("%d ms: %v", ms, got)
		}
	}
	for _, header := range []string{"Connect-Timeout-Ms: 4294967295", "Grpc-Timeout: 99999999H"} {
		name, value, _ := strings.Cut(header, ": ")
		if code, b := f.rest(t, "GET", "/v1/limits", nil, name, value); code != 200 {
			t.Errorf("%s: %d %s", header, code, b)
		}
	}
}

func TestAdmin(t *testing.T) {
	registry := prometheus.NewRegistry()
	f := newFixture(t, func(o *Options) { o.Registerer = registry })
	f.rest(t, "PUT", "/v1/kv/k", nil)
	f.rest(t, "GET", "/v1/kv/none", nil)
	f.execCaller(t)(t, "", &raftkvv1.GetRequest{Key: "k"}, nil)
	admin := NewAdminServer(f.service, registry, ListenerOptions{})
	a := &fixture{url: "http://" + serve(t, admin), http: f.http}
	want := func(path string, code int, texts ...string) {
		t.Helper()
		got, b := a.rest(t, "GET", path, nil)
		if got != code {
			t.Errorf("%s: %d", path, got)
		}
		for _, text := range texts {
			if !strings.Contains(string(b), text) {
				t.Errorf("%s lacks %q:\n%s", path, text, b)
			}
		}
	}
	want("/", 200, "/metrics")
	want("/livez", 200, "ok")
	want("/readyz", 200, "ok")
	want("/readyz?verbose", 200, "node n1", "shard 1: leader")
	want("/debug/pprof/goroutine?debug=1", 200, "goroutine profile")
	want("/metrics", 200, `raftkv_requests_total{code="ok",operation="put"} 1`, `raftkv_requests_total{code="not_found",operation="get"} 1`,
		`raftkv_requests_total{code="ok",operation="get"} 1`, `raftkv_request_duration_seconds_count{operation="put"} 1`, "raftkv_exec_streams 0")
	f.node.setNotReady("shard 1 has no leader")
	want("/readyz", 503, "not ready: shard 1 has no leader")
	want("/livez", 200)
	f.node.setNotReady()
	f.service.Drain()
	want("/readyz", 503, "stopping")
	if err := admin.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no node")
	}
	_, err := New(Options{Node: newFakeNode(), Limits: Limits{BatchOperations: 1001, PageItems: 10_001, ValueBytes: 1 << 30, Timeout: -1}})
	for _, want := range []string{"BatchOperations", "PageItems", "RequestBytes", "Timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	registry := prometheus.NewRegistry()
	for i := range 2 {
		if _, err := New(Options{Node: newFakeNode(), Registerer: registry}); (err != nil) != (i == 1) {
			t.Error(err)
		}
	}
}
