package service

import (
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
)

// connectionCount shows how many connections a listener has and may have.
type connectionCount struct{ open, limit prometheus.Gauge }

// uncounted shows nobody anything.
func uncounted() connectionCount {
	return connectionCount{prometheus.NewGauge(prometheus.GaugeOpts{}), prometheus.NewGauge(prometheus.GaugeOpts{})}
}

// limit bounds the connections of l and counts them.
func (o ListenerOptions) limit(l net.Listener, count connectionCount) net.Listener {
	n := o.Connections
	if n == 0 {
		n = connectionsDefault
	}
	count.limit.Set(float64(n))
	return netutil.LimitListener(&countingListener{l, count.open}, n)
}

// countingListener counts the connections that are open.
type countingListener struct {
	net.Listener
	open prometheus.Gauge
}

// Accept takes the next connection.
func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Inc()
	return &countedConn{Conn: conn, closed: sync.OnceFunc(l.open.Dec)}, nil
}

// countedConn is a connection that counts until it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
