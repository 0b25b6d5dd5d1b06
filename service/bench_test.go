package service

import (
	"context"
	"fmt"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// instantNode answers at once, so that a benchmark shows what the service costs.
type instantNode struct {
	*fakeNode
	read  *peerv1.ReadResult
	write *storev1.WriteResult
	from  *peerv1.Origin
}

func newInstantNode(size int) *instantNode {
	return &instantNode{
		fakeNode: newFakeNode(), read: readOf("k", recordOf(string(make([]byte, size)))), from: &peerv1.Origin{NodeId: fakeID, Term: 1, Leader: true},
		write: &storev1.WriteResult{Outcome: storev1.WriteOutcome_WRITE_OUTCOME_APPLIED, Revision: 1, Operations: []*storev1.OperationResult{{Version: 1}}},
	}
}

func (n *instantNode) answer(r *raftnode.Request) raftnode.Result {
	if r.Read != nil {
		return raftnode.Result{Shard: 1, Origin: n.from, Read: n.read}
	}
	return raftnode.Result{Shard: 1, Origin: n.from, Write: n.write}
}

func (n *instantNode) Submit(r *raftnode.Request) { r.Done(n.answer(r)) }

func (n *instantNode) Do(_ context.Context, r *raftnode.Request) raftnode.Result { return n.answer(r) }

// BenchmarkExec has client and server in one process; an iteration is one operation. 64 operations go in a message, and
// 16 messages are in flight.
func BenchmarkExec(b *testing.B) {
	for _, size := range []int{256, 4096} {
		f := newFixture(b, func(o *Options) { o.Node = newInstantNode(size) })
		value := string(make([]byte, size))
		for _, name := range []string{"grpc", "connect", "grpc on http"} {
			open := f.execClients(b)[name]
			for kind, op := range map[string]*raftkvv1.ExecOperation{"put": execPut(1, "key-0123456789", value), "get": execGet(1, "key-0123456789")} {
				b.Run(fmt.Sprintf("%s/%s/%d", name, kind, size), func(b *testing.B) {
					m := &raftkvv1.ExecRequest{}
					for range 64 {
						m.Operations = append(m.Operations, op)
					}
					stream := open(b.Context())
					b.ReportAllocs()
					b.ResetTimer()
					window := make(chan struct{}, 16)
					go func() {
						for sent := 0; sent < b.N; sent += 64 {
							window <- struct{}{}
							if stream.Send(m) != nil {
								return
							}
						}
					}()
					for received := 0; received < b.N; {
						res, err := stream.Receive()
						if err != nil {
							b.Fatal(err)
						}
						for range len(res.GetResults()) {
							if received++; received%64 == 0 {
								<-window
							}
						}
					}
					b.StopTimer()
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
					if err := stream.CloseSend(); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
	}
}

// BenchmarkUnary is one put by each protocol, one after another.
func BenchmarkUnary(b *testing.B) {
	f := newFixture(b, func(o *Options) { o.Node = newInstantNode(256) })
	req := &raftkvv1.PutRequest{Key: "key-0123456789", Value: make([]byte, 256)}
	for name, call := range f.protocols(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if failed := call(b, kvPath+"Put", req, new(raftkvv1.PutResponse)); failed != nil {
					b.Fatal(failed)
				}
			}
		})
	}
}
