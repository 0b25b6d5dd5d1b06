package raftkv

import (
	"net/http"

	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

// sideStreamBytes is how much of a watch may come in before its user takes it. The rest waits at the node.
const sideStreamBytes = 256 << 10

// newSide returns connections beside those of Exec, one for each node, for watches and leases: neither a watch that nobody reads nor a load of large
// values delays the other or a keep-alive.
func newSide(o *options, conns *connections) *http.Client {
	t := newTransport(o.tls, conns, &o.path)
	t.HTTP2.MaxReceiveBufferPerStream = sideStreamBytes
	return &http.Client{Transport: t}
}

func (c *Client) watchService(e *endpoint) raftkvv1connect.WatchServiceClient {
	return raftkvv1connect.NewWatchServiceClient(c.side, c.scheme+"://"+e.address, c.calls...)
}

func (c *Client) leaseService(e *endpoint) raftkvv1connect.LeaseServiceClient {
	return raftkvv1connect.NewLeaseServiceClient(c.side, c.scheme+"://"+e.address, c.calls...)
}
