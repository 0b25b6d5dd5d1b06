package service

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// mutedConn is an HTTP/2 connection whose client grants no byte of any answer.
type mutedConn struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	stream uint32
}

func dialMuted(t *testing.T, address string) *mutedConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m := &mutedConn{t: t, conn: c, framer: http2.NewFramer(c, c), stream: 1}
	m.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = io.WriteString(c, http2.ClientPreface)
	m.must(err)
	m.must(m.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	return m
}

func (m *mutedConn) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// head sends the head of a request, and further headers, each a name and a value.
func (m *mutedConn) head(method, path, kind string, more ...string) {
	m.t.Helper()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", method}, {":scheme", "http"}, {":path", path}, {":authority", "localhost"}, {"content-type", kind}, {"te", "trailers"},
	} {
		m.must(e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	for h := range slices.Chunk(more, 2) {
		m.must(e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	m.must(m.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: m.stream, BlockFragment: block.Bytes(), EndHeaders: true}))
}

// call sends the head of a request and some of its body; end says that this is all.
func (m *mutedConn) call(path, kind string, body []byte, end bool, more ...string) {
	m.t.Helper()
	m.head("POST", path, kind, more...)
	m.must(m.framer.WriteData(m.stream, end, body))
	m.stream += 2
}

// ping waits until the server has answered a ping, and so has handled what was sent before.
func (m *mutedConn) ping() {
	m.t.Helper()
	m.must(m.framer.WritePing(false, [8]byte{1}))
	for {
		frame, err := m.framer.ReadFrame()
		m.must(err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				m.must(m.framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if f.IsAck() {
				return
			}
			m.must(m.framer.WritePing(true, f.Data))
		}
	}
}

// answers reads until n calls have got the head of an answer, and counts them by what name says.
func (m *mutedConn) answers(n int, name string) map[string]int {
	m.t.Helper()
	got := map[string]int{}
	for n > 0 {
		frame, err := m.framer.ReadFrame()
		m.must(err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				m.must(m.framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				m.must(m.framer.WritePing(true, f.Data))
			}
		case *http2.MetaHeadersFrame:
			value := "none"
			for _, h := range f.Fields {
				if h.Name == name {
					value = h.Value
				}
			}
			got[value]++
			n--
		}
	}
	return got
}

// enveloped is a message as gRPC and Connect streams frame it.
func enveloped(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// TestMutedUnary has a client that asks for much and takes nothing. What is held for it is bounded, everybody is told once the
// bound is reached, and all is free again when the client has gone.
func TestMutedUnary(t *testing.T) {
	const calls, value, limit = 300, 1 << 20, 64 << 20
	for _, target := range []struct {
		name, path, kind, header, refused string
		body                              []byte
		native                            bool
	}{
		{"connect", kvPath + "Get", "application/json", ":status", "429", []byte(`{"key":"k"}`), false},
		{"grpc", kvPath + "Get", "application/grpc", "grpc-status", "8", enveloped([]byte("\x0a\x01k")), true},
	} {
		t.Run(target.name, func(t *testing.T) {
			f := newFixture(t, func(o *Options) { o.Limits.MemoryBytes = limit })
			f.node.records["k"] = recordOf(strings.Repeat("v", value))
			address := f.address
			if target.native {
				address = f.grpc
			}
			other := f.protocols(t)[target.name]
			m := dialMuted(t, address)
			for range calls {
				m.call(target.path, target.kind, target.body, true)
			}
			got := m.answers(calls, target.header)
			if accepted := calls - got[target.refused]; accepted == 0 || accepted*value > limit {
				t.Errorf("%d of %d answers of 1 MiB are held with a budget of %d: %v", accepted, calls, limit, got)
			}
			// The grpc listener counts buffers, each a power of two. Nothing else is used when all heads have come.
			if used := f.service.budget.used.Load(); used > limit || target.native && used != int64(calls-got[target.refused])*2*value {
				t.Errorf("%d bytes are used of %d", used, limit)
			}
			failed := other(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "k"}, new(raftkvv1.GetResponse))
			for _, want := range []string{"OVERLOADED", "LimitExceeded", "bytes of requests and answers in memory", "RetryInfo"} {
				if text := protojson.Format(failed); failed.GetCode() != int32(codes.ResourceExhausted) || !strings.Contains(text, want) {
					t.Errorf("%s lacks %s", text, want)
				}
			}
			m.conn.Close()
			retry(t, func() bool {
				return other(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "k"}, new(raftkvv1.GetResponse)) == nil
			})
		})
	}
}

// retry repeats what other goroutines make come true.
func retry(t *testing.T, done func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(30 * time.Second); !done(); <-look.C {
		if time.Now().After(end) {
			t.Fatal("it did not come true")
		}
	}
}

// TestMutedExec has streams that are written to and not read.
func TestMutedExec(t *testing.T) {
	const streams, gets, value, limit = 16, 60, 1 << 20, 64 << 20
	f := newFixture(t, func(o *Options) { o.Limits.MemoryBytes = limit })
	f.node.records["k"] = recordOf(strings.Repeat("v", value))
	var most int64 // under the lock of the node
	f.node.fail = func(*raftnode.Request) error { most = max(most, f.service.budget.used.Load()); return nil }
	for name, open := range f.execClients(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			all := make([]execClient, streams)
			for i := range all {
				all[i] = open(ctx)
				m := &raftkvv1.ExecRequest{}
				for id := range uint64(gets) {
					m.Operations = append(m.Operations, execGet(id, "k"))
				}
				if err := all[i].Send(m); err != nil {
					t.Fatal(err)
				}
			}
			answered, overloaded := 0, 0
			for _, stream := range all {
				for n := 0; n < gets; {
					res, err := stream.Receive()
					if err != nil {
						t.Fatal(err)
					}
					n += len(res.GetResults())
					for _, r := range res.GetResults() {
						answered++
						if r.GetError() != nil {
							overloaded++
							if r.GetError().GetCode() != int32(codes.ResourceExhausted) {
								t.Fatal(r.GetError())
							}
						}
					}
				}
				finish(t, stream)
			}
			f.node.mu.Lock()
			defer f.node.mu.Unlock()
			if most > limit+streams*2*value {
				t.Errorf("%d bytes were used, the budget is %d", most, limit)
			}
			if answered != streams*gets || overloaded == 0 {
				t.Errorf("%d answers, %d of them refusals", answered, overloaded)
			}
		})
	}
}

// TestPromisedBodies has clients that announce long bodies and send nothing of them, and some that send a part.
func TestPromisedBodies(t *testing.T) {
	const limit = 32 << 20
	f := newFixture(t, func(o *Options) { o.Limits.MemoryBytes = limit })
	var open []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
		fmt.Fprintf(c, "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 1<<20)
	}
	retry(t, func() bool { return f.service.budget.used.Load() == int64(len(open)*exchangeBytes) })
	half := bytes.Repeat([]byte{1}, 1<<20-1)
	refused := make(chan bool, len(open))
	for _, c := range open {
		go func() {
			_, _ = c.Write(half)
			b, _ := io.ReadAll(io.LimitReader(c, 12))
			refused <- strings.HasPrefix(string(b), "HTTP/1.1 429")
		}()
	}
	for range len(open) - limit>>20 {
		if !<-refused {
			t.Error("a body beyond the budget was not refused")
		}
	}
	for _, c := range open {
		c.Close()
	}
	retry(t, func() bool { return f.service.budget.used.Load() == 0 })
	if code, b := f.rest(t, "PUT", "/v1/kv/k", []byte("v")); code != 200 {
		t.Errorf("%d %s", code, b)
	}
}

// TestEndlessRequests has unary requests whose bodies never end. They are answered when their time is over.
func TestEndlessRequests(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.Timeout = time.Millisecond })
	f.service.transferTimeout = 20 * time.Millisecond
	native, web := dialMuted(t, f.grpc), dialMuted(t, f.address)
	native.call(kvPath+"Put", "application/grpc", []byte{0, 0, 0, 1, 0, 10}, false)
	if got := native.answers(1, "grpc-status"); got["14"]+got["4"] != 1 { // grpc-go may be first
		t.Errorf("grpc: %v", got)
	}
	web.call(kvPath+"Put", "application/json", []byte(`{"key":`), false)
	web.call("/v1/kv", "application/json", []byte(`{"key":`), false)
	if got := web.answers(2, ":status"); got["408"] != 1 || got["503"] != 1 {
		t.Errorf("connect, rest: %v", got)
	}
	if f.node.executed() != 0 {
		t.Error("half a request was executed")
	}
}

// TestUntakenAnswers has answers that are never read. Their streams end when their time is over.
func TestUntakenAnswers(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.Timeout = time.Millisecond })
	f.service.transferTimeout = 20 * time.Millisecond
	f.node.records["k"] = recordOf(strings.Repeat("v", 1<<20))
	native := dialMuted(t, f.grpc)
	native.call(kvPath+"Get", "application/grpc", enveloped([]byte("\x0a\x01k")), true)
	_, _ = io.Copy(io.Discard, native.conn) // until it is closed
	c := dialMuted(t, f.address)
	c.call(kvPath+"Get", "application/json", []byte(`{"key":"k"}`), true)
	c.call(kvPath+"Scan", "application/connect+json", enveloped([]byte(`{}`)), true)
	c.call(kvPath+"Exec", "application/connect+json", enveloped([]byte(`{"operations":[{"get":{"key":"k"}}]}`)), false)
	for ended := 0; ended < 3; {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			ended++
		}
	}
	retry(t, func() bool { return f.service.budget.used.Load() == 0 })
}

// upload sends a whole body as flow control lets it, answered or not, and returns the status of the answer. A stream that
// the server resets is an error.
func (m *mutedConn) upload(method, path, kind string, body []byte) (code string) {
	m.t.Helper()
	m.head(method, path, kind)
	stream, connection, initial := int64(0), int64(65_535), int64(65_535)
	stream = initial
	for ended := false; !ended; {
		if n := min(int64(len(body)), stream, connection, 16<<10); n > 0 {
			m.must(m.framer.WriteData(m.stream, n == int64(len(body)), body[:n]))
			body, stream, connection = body[n:], stream-n, connection-n
			continue
		}
		frame, err := m.framer.ReadFrame()
		m.must(err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
				stream, initial = stream+int64(v)-initial, int64(v)
			}
			if !f.IsAck() {
				m.must(m.framer.WriteSettingsAck())
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				connection += int64(f.Increment)
			} else {
				stream += int64(f.Increment)
			}
		case *http2.MetaHeadersFrame:
			code, ended = cmp.Or(f.PseudoValue("status"), code), f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			m.t.Fatalf("the stream was reset (%v) with %d bytes to send; status %q", f.ErrCode, len(body), code)
		}
	}
	if len(body) > 0 {
		m.t.Errorf("the stream ended with %d bytes to send", len(body))
	}
	return code
}

// TestRefusalArrives: a client that is still sending what is refused gets to see the refusal.
func TestRefusalArrives(t *testing.T) {
	f := newFixture(t)
	for _, target := range []struct {
		method, path, kind string
		bytes              int
		want               string
	}{
		{"PUT", "/v1/kv/x", "", 3 << 20, "413"},
		{"POST", "/v1/kv", "application/json", 20 << 20, "413"},
		{"POST", kvPath + "Put", "application/proto", 20 << 20, "429"},
		{"POST", kvPath + "Put", "application/grpc", 20 << 20, "200"},
	} {
		body := make([]byte, target.bytes)
		copy(body, []byte{0, 1, 0x40})
		c := dialMuted(t, f.address)
		c.must(c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}))
		if got := c.upload(target.method, target.path, target.kind, body); got != target.want {
			t.Errorf("%s %s: status %q", target.method, target.path, got)
		}
	}
}
