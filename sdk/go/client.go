package raftkv

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// Client reads and writes the keys of a cluster. It is safe for concurrent use, and meant to be shared: its streams
// carry more in one message the more goroutines use it.
type Client struct {
	options options
	scheme  string
	// http is for calls that are not of a lane; it is the first of pool, which the lanes share out.
	http     *http.Client
	pool     pool
	conns    *connections
	side     *http.Client // of watches and leases
	calls    []connect.ClientOption
	routes   *routes
	sessions sessions
	budget   *budget
	// telemetry is nil if nobody asked for it.
	telemetry *telemetry
	// places bounds the calls of Async under way: each one has put in a token.
	places chan struct{}
	epoch  time.Time

	// stopped ends when Close begins, and with it every goroutine of the client: one that follows the shard map, and
	// for each endpoint in use one that sends and one that receives for reads, and the same for writes, and for each lease held one.
	stopped context.Context
	stop    context.CancelFunc
	// mu guards closed, so that no goroutine starts while Close waits for them.
	mu         sync.Mutex
	closed     bool
	goroutines sync.WaitGroup
}

// Open connects to the cluster of which endpoints are nodes, each as host:port or as a URL of the form
// http://host:port. One is enough; the others are learned. Open returns when a node has told the shard map; it goes on
// trying until ctx ends, or until the timeout of the client passes if ctx has no deadline.
func Open(ctx context.Context, endpoints []string, opts ...Option) (*Client, error) {
	o, addresses, err := resolve(endpoints, opts)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	t, err := newTelemetry(&o)
	if err != nil {
		return nil, fmt.Errorf("open: instruments of the meter provider: %w", err)
	}
	c := &Client{options: o, telemetry: t, scheme: "http", calls: o.callOptions(), epoch: time.Now()}
	if o.tls != nil {
		c.scheme = "https"
	}
	c.conns = &connections{open: make(map[*connection]struct{})}
	c.pool = newPool(&o, c.conns)
	c.http = c.pool[0]
	c.places = make(chan struct{}, o.async)
	c.budget = newBudget(o.retryPercent, o.retriesKept, c.now)
	c.side = newSide(&o, c.conns)
	c.stopped, c.stop = context.WithCancel(context.Background())
	c.routes = newRoutes(c, addresses)
	if err := c.learnFirst(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("open: %w", err)
	}
	c.start(c.routes.follow)
	return c, nil
}

// Close ends the client at once. Calls that still wait fail with ErrClosed; close the client after them.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.goroutines.Wait()
	c.conns.closeAll()
	c.pool.closeIdle()
	c.side.CloseIdleConnections()
}

// start runs f until the client is closed; false if it is closed already.
func (c *Client) start(f func(stopped context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.goroutines.Go(func() { f(c.stopped) })
	return true
}

// now is a monotonic clock.
func (c *Client) now() time.Duration { return time.Since(c.epoch) }
