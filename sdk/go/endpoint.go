package raftkv

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

const (
	// responseBytesMax bounds what one response message may make the client allocate.
	responseBytesMax = 256 << 20
	// avoidMin and avoidMax bound how long an endpoint that failed is passed over while there are others.
	avoidMin = 50 * time.Millisecond
	avoidMax = 5 * time.Second
)

// callOptions are the settings of every RPC.
func callOptions(gzip bool) []connect.ClientOption {
	o := []connect.ClientOption{
		connect.WithCodec(codec{}),
		connect.WithReadMaxBytes(responseBytesMax),
		connect.WithCompressMinBytes(compressBytesMin),
	}
	if gzip {
		return append(o, connect.WithSendGzip())
	}
	// Without this, connect asks for compressed responses of any size.
	return append(o, connect.WithAcceptCompression("gzip", nil, nil))
}

// endpoint is one address and the lanes to it.
type endpoint struct {
	client  *Client
	address string
	kv      raftkvv1connect.KvServiceClient
	cluster raftkvv1connect.ClusterServiceClient
	reads   lanes
	writes  lanes

	failures  atomic.Uint32
	avoidTill atomic.Int64 // of the client's monotonic clock; 0 for an endpoint that works
}

func newEndpoint(c *Client, address string) *endpoint {
	base := c.scheme + "://" + address
	e := &endpoint{
		client:  c,
		address: address,
		kv:      raftkvv1connect.NewKvServiceClient(c.http, base, c.calls...),
		cluster: raftkvv1connect.NewClusterServiceClient(c.http, base, c.calls...),
	}
	reads, writes := c.pool.deal()
	e.reads.deal(e, base, reads)
	e.writes.deal(e, base, writes)
	return e
}

// lanes are those for one kind of operation, each on a connection. They start with their first operation.
type lanes struct {
	start []func() *lane
	turn  atomic.Uint32
}

func (l *lanes) deal(e *endpoint, base string, connections pool) {
	for _, c := range connections {
		l.start = append(l.start, sync.OnceValue(func() *lane {
			started := newLane(e, raftkvv1connect.NewKvServiceClient(c, base, e.client.calls...))
			if !e.client.start(started.run) {
				close(started.ended)
			}
			return started
		}))
	}
}

// next takes the lanes in turn.
func (l *lanes) next() *lane {
	if len(l.start) == 1 {
		return l.start[0]()
	}
	return l.start[l.turn.Add(1)%uint32(len(l.start))]()
}

func (e *endpoint) lane(write bool) *lane {
	if write {
		return e.writes.next()
	}
	return e.reads.next()
}

// failed makes the client pass over the endpoint for a while, longer with each failure in a row.
func (e *endpoint) failed() {
	n := e.failures.Add(1)
	avoid := avoidMin << min(n-1, 10)
	avoid = jitter(min(avoid, avoidMax))
	e.avoidTill.Store(int64(e.client.now() + avoid))
	e.client.routes.learnSoon()
}

// works ends the avoidance.
func (e *endpoint) works() {
	e.failures.Store(0)
	e.avoidTill.Store(0)
}

func (e *endpoint) avoided() bool {
	till := e.avoidTill.Load()
	return till != 0 && int64(e.client.now()) < till
}

// jitter returns something from d/2 to d, so that clients that failed together do not return together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
