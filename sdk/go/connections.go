package raftkv

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	// readFrameBytes lets nodes answer in large frames, which cost less.
	readFrameBytes = 1 << 20
)

// path says how soon a connection whose far end is gone is noticed: its machine may be, or be cut off without a word.
type path struct {
	// A node from which nothing has come for pingAfter is pinged, and taken for gone if pingTimeout passes without an answer. That holds for idle
	// connections, too.
	pingAfter, pingTimeout time.Duration
	// writeTimeout is how long a connection may take no bytes at all.
	writeTimeout time.Duration
	// keepAlive are the probes of TCP, which also keep what the connection passes through from forgetting it.
	keepAlive net.KeepAliveConfig
}

// defaultPath notices a dead path within 4 s. The probes of TCP are behind that, at 11 s, for what answers no pings of HTTP/2.
var defaultPath = path{
	pingAfter: 2 * time.Second, pingTimeout: 2 * time.Second, writeTimeout: 5 * time.Second,
	keepAlive: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
}

// pool are the connections to a node, each as a client of its own: the HTTP transport shares one connection for everything that goes to an address.
type pool []*http.Client

func newPool(o *options, conns *connections) pool {
	p := make(pool, o.connections)
	for i := range p {
		p[i] = &http.Client{Transport: newTransport(o.tls, conns, &o.path)}
	}
	return p
}

// deal says which connections carry reads and which carry writes: a single one both, of more each only one kind.
func (p pool) deal() (reads, writes pool) {
	if len(p) == 1 {
		return p, p
	}
	n := len(p) - len(p)/2
	return p[:n], p[n:]
}

func (p pool) closeIdle() {
	for _, c := range p {
		c.CloseIdleConnections()
	}
}

// newTransport returns HTTP/2 connections, one for each node: streams need HTTP/2.
func newTransport(config *tls.Config, conns *connections, path *path) *http.Transport {
	protocols := new(http.Protocols)
	if config != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Transport{
		Protocols:           protocols,
		TLSClientConfig:     config.Clone(), // the transport adds to it
		TLSHandshakeTimeout: dialTimeout,
		DialContext:         conns.dialer(&net.Dialer{Timeout: dialTimeout, KeepAliveConfig: path.keepAlive}),
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize: readFrameBytes,
			SendPingTimeout:  path.pingAfter,
			PingTimeout:      path.pingTimeout,
			WriteByteTimeout: path.writeTimeout,
		},
	}
}

// connections are the open connections of a client. The HTTP transport closes idle ones only, and a connection is not
// idle at the moment its last stream is cancelled; Close must leave none behind.
type connections struct {
	// mu guards open; nil once closed.
	mu   sync.Mutex
	open map[*connection]struct{}
}

type connection struct {
	net.Conn
	owner *connections
}

// dialer returns a function that dials and keeps the connection.
func (c *connections) dialer(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := &connection{Conn: raw, owner: c}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open == nil {
			_ = raw.Close()
			return nil, ErrClosed
		}
		c.open[conn] = struct{}{}
		return conn, nil
	}
}

// Close makes the owner forget the connection.
func (c *connection) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

func (c *connections) closeAll() {
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for conn := range open {
		_ = conn.Conn.Close() // the transport reports what it still had in flight
	}
}
