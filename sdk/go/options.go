package raftkv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const (
	defaultTimeout = 10 * time.Second

	// compressBytesMin: below this, gzip costs more than it saves.
	compressBytesMin = 1 << 10

	// connectionsMax bounds the connections to a node.
	connectionsMax = 64
	// retriesKeptMax bounds the reserve of retries.
	retriesKeptMax = 1_000_000
	// asyncMax bounds the calls of Async under way.
	asyncMax = 1_000_000
)

// Option changes how a Client works.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

type options struct {
	tls         *tls.Config
	timeout     time.Duration
	gzip, grpc  bool
	connections int
	path        path
	// followerReads sends reads to any replica.
	followerReads bool
	// The retry budget: what calls add, and what it holds.
	retryPercent, retriesKept int
	async                     int
	tracers                   trace.TracerProvider
	meters                    metric.MeterProvider
}

// WithTLS makes the client speak TLS with every node. Without it, only endpoints that begin with https:// do so, by
// the certificate authorities of the system.
func WithTLS(config *tls.Config) Option {
	return optionFunc(func(o *options) { o.tls = config.Clone() })
}

// WithTimeout sets how long a call whose context has no deadline goes on trying. The default is 10 seconds.
func WithTimeout(d time.Duration) Option {
	return optionFunc(func(o *options) { o.timeout = d })
}

// WithGzip compresses messages of 1 KiB and more. It is off by default: between machines of one data centre the
// processor is scarcer than the network, and values that do not compress cost the most. At a node's port for native gRPC (see WithGRPC) it
// compresses requests, and of the answers only pages of Scan and others of single calls: those of streams, which carry reads, writes and watches, are not compressed there.
func WithGzip() Option {
	return optionFunc(func(o *options) { o.gzip = true })
}

// WithGRPC speaks gRPC instead of Connect, to the same addresses or to the nodes' ports for native gRPC. It is for networks whose proxies know nothing else; the client works
// and costs the same otherwise.
func WithGRPC() Option {
	return optionFunc(func(o *options) { o.grpc = true })
}

// WithConnections sets how many TCP connections the client keeps to each node that it uses, 1 to 64. The default is 1, which carries reads and writes
// on streams of their own. With more, every stream has a connection to itself: half of them are for writes, the others for reads, and operations take them in turn.
// It helps where one connection is the limit, as over a long way; within a data centre it makes messages smaller and brings nothing (DESIGN.md has figures).
func WithConnections(n int) Option {
	return optionFunc(func(o *options) { o.connections = n })
}

// WithRetryBudget bounds the retries of all calls together to a percentage of the calls, 0 to 100, and a reserve of kept retries, 1 to a million, which fills
// by itself within 10 seconds. The default is 10 percent and 500. A call that finds the budget empty waits for a retry as long as its caller does, and then fails
// with a *RetryBudgetError. What counts are retries after an answer, or none in time, of a node that could not
// keep up: not after an attempt that was not sent or whose connection was lost, nor when a shard turns out to be led or served elsewhere. Watches and keep-alives of leases are outside of the
// budget: they try again with backoff, up to half a second.
func WithRetryBudget(percent, kept int) Option {
	return optionFunc(func(o *options) { o.retryPercent, o.retriesKept = percent, kept })
}

// WithAsyncLimit sets how many calls of Async may be under way at once, 1 to a million. The default is 4,096. The client holds the keys and values of all of them.
func WithAsyncLimit(n int) Option {
	return optionFunc(func(o *options) { o.async = n })
}

// WithFollowerReads sends reads to the replicas of a shard in turn instead of to its leader. They are as linearizable: a replica asks the leader how far it must have
// come, and answers itself. It takes load off the leaders, at the price of that round trip and of messages that carry less each.
func WithFollowerReads() Option {
	return optionFunc(func(o *options) { o.followerReads = true })
}

// resolve applies opts, and returns the addresses of endpoints as host:port.
func resolve(endpoints []string, opts []Option) (options, []string, error) {
	o := options{timeout: defaultTimeout, connections: 1, path: defaultPath, retryPercent: retryPercent, retriesKept: retriesKept, async: asyncDefault}
	for _, opt := range opts {
		opt.apply(&o)
	}
	var errs []error
	if o.timeout <= 0 {
		errs = append(errs, fmt.Errorf("the timeout must be more than 0, it is %s", o.timeout))
	}
	if o.connections < 1 || o.connections > connectionsMax {
		errs = append(errs, fmt.Errorf("connections must be 1 to %d, not %d", connectionsMax, o.connections))
	}
	if o.retryPercent < 0 || o.retryPercent > 100 || o.retriesKept < 1 || o.retriesKept > retriesKeptMax {
		errs = append(errs, fmt.Errorf("the retry budget must be 0 to 100 percent and 1 to %d kept, not %d and %d", retriesKeptMax, o.retryPercent, o.retriesKept))
	}
	if o.async < 1 || o.async > asyncMax {
		errs = append(errs, fmt.Errorf("the limit of calls under way must be 1 to %d, not %d", asyncMax, o.async))
	}
	if len(endpoints) == 0 {
		errs = append(errs, errors.New("no endpoints: give the address of one node at least, as host:port"))
	}
	var addresses []string
	plain, secure := false, o.tls != nil
	for _, e := range endpoints {
		address, scheme := e, ""
		if i := strings.Index(e, "://"); i >= 0 {
			scheme, address = e[:i], strings.TrimSuffix(e[i+3:], "/")
		}
		switch scheme {
		case "":
		case "http":
			plain = true
		case "https":
			secure = true
		default:
			errs = append(errs, fmt.Errorf("endpoint %q: the scheme must be http or https", e))
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("endpoint %q: must be host:port", e))
		}
		addresses = append(addresses, address)
	}
	if plain && secure {
		errs = append(errs, errors.New("http:// endpoints and TLS do not go together: a cluster uses one or the other"))
	}
	if secure && o.tls == nil {
		o.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return o, addresses, errors.Join(errs...)
}
