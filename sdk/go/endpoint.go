package raftkv

import (
	"crypto/tls"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

const (
	dialTimeout = 2 * time.Second
	// A node that does not answer pings for pingAfter + pingTimeout is taken for gone: its machine may be, or be cut off.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
	// writeTimeout is how long a connection may take no bytes at all.
	writeTimeout = 5 * time.Second
	// readFrameBytes lets nodes answer in large frames, which cost less.
	readFrameBytes = 1 << 20
	// responseBytesMax bounds what one response message may make the client allocate.
	responseBytesMax = 256 << 20
	// avoidMin and avoidMax bound how long an endpoint that failed is passed over while there are others.
	avoidMin = 50 * time.Millisecond
	avoidMax = 5 * time.Second
)

// newTransport returns HTTP/2 connections, one for each node: streams need HTTP/2.
func newTransport(config *tls.Config, conns *connections) *http.Transport {
	protocols := new(http.Protocols)
	if config != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Transport{
		Protocols:           protocols,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: dialTimeout,
		DialContext:         conns.dial,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize: readFrameBytes,
			SendPingTimeout:  pingAfter,
			PingTimeout:      pingTimeout,
			WriteByteTimeout: writeTimeout,
		},
	}
}

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
	reads   func() *lane
	writes  func() *lane

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
	e.reads = sync.OnceValue(e.startLane)
	e.writes = sync.OnceValue(e.startLane)
	return e
}

func (e *endpoint) startLane() *lane {
	l := newLane(e)
	if !e.client.start(l.run) {
		close(l.ended)
	}
	return l
}

func (e *endpoint) lane(write bool) *lane {
	if write {
		return e.writes()
	}
	return e.reads()
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
