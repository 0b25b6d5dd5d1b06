package raftkv

import (
	"context"
	"net"
	"sync"
	"time"
)

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

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext(ctx, network, address)
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
