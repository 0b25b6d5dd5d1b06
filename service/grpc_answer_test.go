package service

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// gateCodec stops the first answer where grpc-go has found that its stream stands and has not queued it yet.
type gateCodec struct {
	grpcCodec
	reached chan *answerPool
	pass    chan struct{}
}

func (c gateCodec) Marshal(message any) (mem.BufferSlice, error) {
	data, err := c.grpcCodec.Marshal(message)
	if out, ok := message.(*outbound); ok && err == nil {
		data[0] = gatedBuffer{data[0], func() {
			select {
			case c.reached <- out.pool:
				<-c.pass
			default:
			}
		}}
	}
	return data, err
}

// gatedBuffer is a buffer that is told of each reference.
type gatedBuffer struct {
	mem.Buffer
	ref func()
}

func (b gatedBuffer) Ref() {
	b.ref()
	b.Buffer.Ref()
}

// TestResetAtTheAnswer resets a stream in the moment in which its answer goes to grpc-go, which drops it then without freeing its buffer. Its
// bytes come back while the connection lives on, and nobody waits for the client to take them.
func TestResetAtTheAnswer(t *testing.T) {
	for name, call := range map[string]struct {
		path string
		body []byte
	}{
		"unary":  {kvPath + "Get", []byte("\x0a\x01k")},
		"stream": {kvPath + "Scan", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.node.records["k"] = recordOf(strings.Repeat("v", 1<<20))
			gate := gateCodec{grpcCodec{f.service.limits.RequestBytes}, make(chan *answerPool, 1), make(chan struct{})}
			server := grpc.NewServer(append(f.service.grpcOptions(ListenerOptions{}), grpc.ForceServerCodecV2(gate))...)
			f.service.registerGRPC(server)
			m := dialMuted(t, serve(t, &GRPCServer{server: server, count: uncounted()}))
			t.Cleanup(server.Stop)

			m.call(call.path, "application/grpc", enveloped(call.body), true)
			pool := <-gate.reached
			m.must(m.framer.WriteRSTStream(m.stream-2, http2.ErrCodeCancel))
			m.ping() // the reset has gone through the queue
			close(gate.pass)
			conn := pool.account.conn
			pool = nil
			retry(t, func() bool {
				runtime.GC()
				return f.service.budget.used.Load() == 0
			})
			if conn.timer.Stop() {
				t.Error("the client is expected to take what it has refused")
			}
			gate.reached <- nil // nobody is stopped any more
			m.call(kvPath+"Get", "application/grpc", enveloped([]byte("\x0a\x01n")), true)
			if got := m.answers(1, "grpc-status"); got["5"] != 1 {
				t.Errorf("the connection is not in order: %v", got)
			}
		})
	}
}
