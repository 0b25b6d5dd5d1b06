package raftkv

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

// responseBytesMax bounds what one response message may make the client allocate.
const responseBytesMax = 256 << 20

// callOptions are the settings of every RPC.
func (o *options) callOptions() []connect.ClientOption {
	calls := []connect.ClientOption{
		connect.WithCodec(codec{}),
		connect.WithReadMaxBytes(responseBytesMax),
		connect.WithCompressMinBytes(compressBytesMin),
	}
	if o.grpc {
		calls = append(calls, connect.WithGRPC())
	}
	if o.gzip {
		return append(calls, connect.WithSendGzip())
	}
	// Without this, connect asks for compressed responses of any size.
	return append(calls, connect.WithAcceptCompression("gzip", nil, nil))
}

// endpoint is one address and the lanes to it.
type endpoint struct {
	client  *Client
	address string
	kv      raftkvv1connect.KvServiceClient
	cluster raftkvv1connect.ClusterServiceClient
	reads   lanes
	writes  lanes

	health health
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
	e.health.now = c.now
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

// failed notes a failure of the endpoint. If it is ejected, the map may have changed, too.
func (e *endpoint) failed(certain bool) {
	if e.health.failed(certain) {
		e.client.routes.learnSoon()
	}
}

// jitter returns something from d/2 to d, so that clients that failed together do not return together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

// later returns something from d to 3d/2: not before the time that a server asked for, and not all at the same.
func later(d time.Duration) time.Duration {
	return d + rand.N(d/2+1)
}
