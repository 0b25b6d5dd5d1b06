package transport

import (
	"fmt"
	"strings"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// inFlight is about what a busy node has on its way to a peer.
const inFlight = 1000

// credit is an owner that gives one token for each message that has arrived.
type credit struct {
	*owner
	tokens chan struct{}
}

func (o *credit) HandleMessages(_ Peer, ms []*peerv1.Message) {
	for range ms {
		o.tokens <- struct{}{}
	}
}

func benchmarkPair(b *testing.B, secure bool) (*Transport, *credit) {
	b.Helper()
	oa, ob := newOwner(), &credit{newOwner(), make(chan struct{}, inFlight)}
	optionsA, optionsB := options("a"), options("b")
	if secure {
		ca := newAuthority(b)
		optionsA.TLS, optionsB.TLS = ca.issue(b, "raftkv://c/a"), ca.issue(b, "raftkv://c/b")
	}
	sender, receiver := start(b, optionsA, oa), start(b, optionsB, ob)
	sender.SetPeers(peersOf("b", receiver))
	oa.waitUp(b, "b")
	return sender, ob
}

// BenchmarkMessages is what two nodes in one process move in one direction: both ends are in the figure.
func BenchmarkMessages(b *testing.B) {
	for _, size := range []int{256, 4096} {
		for _, secure := range []bool{false, true} {
			b.Run(fmt.Sprintf("bytes=%d/tls=%v", size, secure), func(b *testing.B) {
				sender, to := benchmarkPair(b, secure)
				m := raftMessage(1, strings.Repeat("x", size))
				for range inFlight {
					to.tokens <- struct{}{}
				}
				b.SetParallelism(32)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						<-to.tokens
						if !sender.Send("b", m) {
							b.Error("refused")
						}
					}
				})
				for range inFlight {
					<-to.tokens
				}
				b.StopTimer()
				n := sender.Metrics()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
				b.ReportMetric(float64(n.MessagesSent)/float64(n.BatchesSent), "messages/frame")
			})
		}
	}
}

// BenchmarkOneWay is the time until a lone message has arrived.
func BenchmarkOneWay(b *testing.B) {
	sender, to := benchmarkPair(b, false)
	m := raftMessage(1, strings.Repeat("x", 256))
	b.ReportAllocs()
	for b.Loop() {
		sender.Send("b", m)
		<-to.tokens
	}
}
