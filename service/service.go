// Package service serves a raftkv node to clients: Connect, gRPC, gRPC-Web and REST on one net/http listener, native gRPC
// on another, and a small admin handler.
//
// There is one implementation of every method (kv.go, batch.go, scan.go, exec.go, lease.go, cluster.go). What differs between the
// protocols stands in thin adapters (connect.go, grpc.go, rest.go, raw.go), and errors have one table (errors.go). The
// package knows the node through the interface Node and holds no data of its own.
package service

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Node is everything that the service needs of a node; *raftnode.Node has it.
type Node interface {
	// Submit executes a request and calls its Done exactly once. It never blocks.
	Submit(r *raftnode.Request)
	// Do executes a request and waits for its result, or for ctx.
	Do(ctx context.Context, r *raftnode.Request) raftnode.Result
	// Page reads one page of a range, merged over all shards.
	Page(ctx context.Context, r *peerv1.RangeRead, stale *peerv1.Stale) (*raftnode.Page, error)
	// Watch begins to watch keys.
	Watch(ctx context.Context, r raftnode.WatchRequest) (*raftnode.WatchStream, error)
	// Leases reads one page of the leases, or of the keys of one, merged over all shards.
	Leases(ctx context.Context, r *peerv1.LeaseRead) (*raftnode.LeasePage, error)
	// Status describes the node.
	Status() raftnode.Status
	// Nodes lists the nodes of the cluster.
	Nodes() []raftnode.NodeStatus
	// Shards lists the shards, and the version of the shard map.
	Shards() ([]raftnode.ShardStatus, uint64)
	// Locate says where a key lives.
	Locate(key string) raftnode.Location
	// TransferLeader hands the lead of a shard over, and returns the term of the new lead.
	TransferLeader(ctx context.Context, shard placement.ShardID, to placement.NodeID) (uint64, error)
}

// Options configure a Service.
type Options struct {
	// Node is served. Required.
	Node Node
	// Version is the version of the program, for Status.
	Version string
	// Limits bound requests; zero fields take their defaults.
	Limits Limits
	// Origins are the origins (https://example.org) whose pages may call the service from a browser; "*" is any.
	// None by default: browsers may then call it from its own origin only.
	Origins []string
	// SlowRequest is how long a request takes that is logged; 0 logs none.
	SlowRequest time.Duration
	// Registerer takes the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Tracers take the spans of sampled requests; nil is none. A request with a traceparent is sampled if that says so, one without with the probability TraceRatio.
	// The provider should sample whatever it is asked to.
	Tracers    trace.TracerProvider
	TraceRatio float64
	// Logger takes what no caller can be told; nil is slog.Default.
	Logger *slog.Logger
}

// Service answers requests of clients out of a node.
type Service struct {
	node    Node
	version string
	limits  Limits
	origins []string
	rules   *rules
	metrics *metrics
	tracing *tracing
	slow    *slowLog
	logger  *slog.Logger
	budget  budget
	// transferTimeout is the constant, but in tests.
	transferTimeout time.Duration
	// keepAlive is the constant, but in tests.
	keepAlive time.Duration
	// watch is Node.Watch, but in tests.
	watch func(context.Context, raftnode.WatchRequest) (watchStream, error)

	// known is the identity once the cluster has formed; it never changes after that.
	known atomic.Pointer[identity]

	// draining is closed by Drain: streams end once what they have begun is answered.
	draining  chan struct{}
	drainOnce sync.Once
	// drained is done when draining is closed, by stop.
	drained context.Context
	stop    context.CancelFunc
	// receivers counts the goroutines that read Exec streams. They end with their streams.
	receivers sync.WaitGroup
}

// New makes a service. Its listeners come from NewHTTPServer and NewGRPCServer.
func New(o Options) (*Service, error) {
	if o.Node == nil {
		return nil, errors.New("service: Options.Node is required")
	}
	limits, err := o.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	rules, err := newRules(limits)
	if err != nil {
		return nil, err
	}
	metrics, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Service{
		node:     o.Node,
		version:  o.Version,
		limits:   limits,
		origins:  o.Origins,
		rules:    rules,
		metrics:  metrics,
		tracing:  newTracing(o.Tracers, o.TraceRatio),
		logger:   o.Logger,
		budget:   budget{limit: limits.MemoryBytes},
		draining: make(chan struct{}),

		transferTimeout: transferTimeout,
		keepAlive:       keepAlive,
		watch: func(ctx context.Context, r raftnode.WatchRequest) (watchStream, error) {
			w, err := o.Node.Watch(ctx, r)
			if err != nil {
				return nil, err
			}
			return w, nil
		},
	}
	s.slow = newSlowLog(o.SlowRequest, o.Logger)
	s.drained, s.stop = context.WithCancel(context.Background())
	if err := metrics.showBudget(o.Registerer, &s.budget); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// Limits returns the limits with their defaults filled in.
func (s *Service) Limits() Limits { return s.limits }

// Drain makes open streams end as soon as what they have begun is answered, with the error of a stopping node, and health
// checks report that the service does not serve. Call it before the listeners are shut down, or they wait for the streams.
func (s *Service) Drain() {
	s.drainOnce.Do(func() {
		close(s.draining)
		s.stop()
	})
}

// Close drains and waits until nothing of the service runs any more. The listeners must have been shut down.
func (s *Service) Close() {
	s.Drain()
	s.receivers.Wait()
}

// stopping says whether Drain has been called.
func (s *Service) stopping() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// answerTime is how much earlier than the caller the node gives up, so that its own answer, which knows whether a write was
// proposed, comes first. A node looks at its deadlines once a heartbeat. Of a short time it is a quarter.
const answerTime = 250 * time.Millisecond

// workUntil is when the node stops working for ctx.
func workUntil(ctx context.Context) time.Time {
	end, _ := ctx.Deadline() // invoke has set one
	return end.Add(-min(answerTime, max(time.Until(end), 0)/4))
}

// invoke is the frame of every unary method on every protocol: the default timeout, the rules of the contract, the
// budget, the translation of errors, the metrics. The error is a *failure.
func invoke[Q request, R any](ctx context.Context, s *Service, op operation, req Q, do func(context.Context, Q) (R, error)) (res R, err error) {
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, start.Add(s.limits.Timeout+answerTime))
	defer cancel()
	until := workUntil(ctx)
	span := s.tracing.begin(op.String(), s.tracing.traceparentOf(ctx), start)
	ctx = span.in(ctx)
	var spent stages
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(ctx, op.String(), p)
		}
		var f *failure
		code, now := codeOK, time.Now()
		if err != nil {
			f = s.fail(ctx, op, err, !now.Before(until))
			code, err = f.code, f
		}
		span.end(f)
		s.finished(ctx, op, code, now.Sub(start), &spent, subject(req))
	}()
	if err := takeKey(ctx, op, req); err != nil {
		return res, err
	}
	if err := s.rules.check(req); err != nil {
		return res, err
	}
	if n := messageBytes(req); n > exchangeBytes {
		if err := holderOf(ctx).holdRequest(n); err != nil {
			return res, err
		}
	}
	checked := time.Now()
	spent[stageCheck] = checked.Sub(start)
	res, err = do(ctx, req)
	spent[stageNode] = time.Since(checked)
	if err != nil {
		return res, err
	}
	if n := messageBytes(res); n > exchangeBytes {
		err = holderOf(ctx).holdAnswer(n, !op.writes())
	}
	return res, err
}

// panicked logs a panic, and returns the error of what it has interrupted.
func (s *Service) panicked(ctx context.Context, what string, p any) error {
	s.logger.ErrorContext(ctx, "a request made the service panic", "operation", what, "panic", p, "stack", string(debug.Stack()))
	return errPanic
}

// fail translates an error, and logs it if the caller is not told what it was. expired says that the time of the request
// has run out.
func (s *Service) fail(ctx context.Context, op operation, err error, expired bool) *failure {
	var unknown *raftnode.UnknownOutcomeError
	if expired && errors.As(err, &unknown) {
		err = &expiredError{err}
	}
	f := failureOf(err)
	if f.reason == reasonReadFailed || f.reason == reasonInternal && !errors.Is(err, errPanic) {
		s.logger.ErrorContext(ctx, "a request failed for a reason that its caller is not told", "operation", op.String(), "error", err)
	}
	return f
}
