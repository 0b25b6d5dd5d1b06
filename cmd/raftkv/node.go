package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/service"
)

// drainTimeout is how long requests that are under way may take when a node stops. Longer than an election, so that a write which
// waits for one is still answered.
const drainTimeout = 5 * time.Second

// server is a listener's server.
type server interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// node is a raftkv node with everything around it: what serve runs once and demo several times.
type node struct {
	log     *slog.Logger
	raft    *raftnode.Node
	service *service.Service
	tracers *tracers // nil: no traces
	// clients are the servers of clients, admins those of operators and probes.
	clients, admins []server

	// serving counts the goroutines that serve listeners. They end with Shutdown.
	serving sync.WaitGroup
	// failed takes the first failure of a listener.
	failed chan error
	// statistics writes a line to the log from time to time; nil if it does not.
	statistics *statistics
}

// startNode starts a node. The list is in the order of what each step needs; stop is its reverse.
func startNode(c *config, log *slog.Logger) (_ *node, err error) {
	n := &node{log: log.With("node", c.NodeID), failed: make(chan error, 1)}

	// Files and certificates: nothing is open yet when there are too few or a path is wrong.
	open, err := divideFiles(openFilesMax(), c.ProcessNodes, c.MaxConnections)
	if err != nil {
		return nil, err
	}
	identity, err := openIdentity(c, n.log)
	if err != nil {
		return nil, err
	}

	// Ports: before the data directory, see listen.
	l, err := listen(c)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
			n.tracers.close()
		}
	}()

	// Traces: the node and its service make them. Nothing is connected to yet.
	if n.tracers, err = openTracers(c, n.log); err != nil {
		return nil, fmt.Errorf("node %s: %w", c.NodeID, err)
	}

	// The node: it takes the lock of its directory, and forms or recovers in the background.
	options := raftOptions(c, log)
	options.PeerListener, options.PeerTLS = l.peer, identity.peer()
	options.Tracers, options.OpenFiles = n.tracers.of(), open.tables
	steps := newStepMetrics()
	options.Observer = steps.observer()
	if n.raft, err = raftnode.Open(options); err != nil {
		return nil, fmt.Errorf("node %s: %w", c.NodeID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.raft.Close())
		}
	}()

	// The service: what the listeners hand requests to.
	registry, err := n.openService(c, steps, identity)
	if err != nil {
		return nil, err
	}
	if err := n.serveAll(l, registry, identity, open); err != nil {
		return nil, fmt.Errorf("node %s: %w", c.NodeID, err)
	}
	n.statistics = startStatistics(c.StatisticsInterval, registry, n.log)
	n.log.Info("listening", "clients", l.server.Addr().String(), "grpc", l.grpc.Addr().String(), "peers", l.peer.Addr().String(),
		"admin", l.metrics.Addr().String(), "tls", c.usesTLS())
	return n, nil
}

// serveAll begins to serve all listeners but that of peers.
func (n *node) serveAll(l *listeners, registry *prometheus.Registry, identity *identity, open fileShares) error {
	http, err := n.service.NewHTTPServer(service.ListenerOptions{TLS: identity.server("h2", "http/1.1"), Connections: open.connections})
	if err != nil {
		return err
	}
	grpc := n.service.NewGRPCServer(service.ListenerOptions{TLS: identity.server("h2"), Connections: open.connections})

	// Probes and metrics first: they show a node that forms.
	admin := service.ListenerOptions{TLS: identity.server("h2", "http/1.1"), Connections: open.admin}
	for _, a := range []net.Listener{l.metrics, l.health} {
		if a != nil {
			s := service.NewAdminServer(n.service, registry, admin)
			n.admins = append(n.admins, s)
			n.serve(s, a)
		}
	}

	// Clients last. Until the cluster has formed, they are told so.
	n.clients = []server{http, grpc}
	n.serve(http, l.server)
	n.serve(grpc, l.grpc)
	return nil
}

// openService makes the service over the node, and the registry that has the metrics of both.
func (n *node) openService(c *config, steps *stepMetrics, identity *identity) (*prometheus.Registry, error) {
	registry, err := newRegistry(c.NodeID, n.raft, steps, identity)
	if err != nil {
		return nil, err
	}
	o := serviceOptions(c, n.raft, registry, n.log)
	o.Tracers, o.TraceRatio = n.tracers.of(), c.TraceRatio
	if n.service, err = service.New(o); err != nil {
		return nil, fmt.Errorf("node %s: %w", c.NodeID, err)
	}
	return registry, nil
}

// serve serves a listener until Shutdown.
func (n *node) serve(s server, l net.Listener) {
	n.serving.Go(func() {
		if err := s.Serve(l); err != nil {
			select {
			case n.failed <- err:
			default: // the first failure ends the process
			}
		}
	})
}

// wait returns when the node cannot go on, with the reason, or when ctx ends.
func (n *node) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.raft.Done():
		if err := n.raft.Err(); err != nil {
			return fmt.Errorf("the node has failed: %w", err)
		}
		return errors.New("the node has stopped by itself")
	case err := <-n.failed:
		return err
	}
}

// stop ends a node so that its clients notice as little as possible, and returns once nothing of it runs.
func (n *node) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()

	n.statistics.stop()

	// Streams end, health says that the node does not serve: clients go elsewhere.
	n.service.Drain()

	// Requests under way are answered while the node can still do that.
	n.shutdown(ctx, n.clients)

	// The node hands its leadership over, flushes, and leaves its directory.
	err := n.raft.Close()
	n.service.Close()

	// Probes last, so that the end can be watched.
	n.shutdown(ctx, n.admins)
	n.serving.Wait()
	n.tracers.close()
	return err
}

func (n *node) shutdown(ctx context.Context, servers []server) {
	var all sync.WaitGroup
	for _, s := range servers {
		all.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				n.log.Warn("clients were cut off", "err", err)
			}
		})
	}
	all.Wait()
}

// raftOptions is the part of the configuration that the node itself needs.
func raftOptions(c *config, log *slog.Logger) raftnode.Options {
	o := raftnode.Options{
		NodeID:            placement.NodeID(c.NodeID),
		Dir:               c.DataDir,
		Shards:            c.Shards,
		Replicas:          c.Replicas,
		HeartbeatInterval: c.HeartbeatInterval,
		ElectionTimeout:   c.ElectionTimeout,
		SnapshotEntries:   uint64(c.SnapshotThreshold), //nolint:gosec // at least 1
		SnapshotPeriod:    c.SnapshotInterval,
		MaxLogEntries:     uint64(c.MaxLogEntries), //nolint:gosec // at least 1
		CacheBytes:        c.CacheSize,
		DiskReserve:       uint64(c.DiskReserve), //nolint:gosec // not negative
		HistoryBytes:      uint64(c.HistorySize), //nolint:gosec // not negative
		HistoryAge:        c.HistoryAge,
		NoSync:            !c.SyncWrite,
		Limits:            raftnode.Limits{ValueBytes: int(c.MaxValueSize), CommandBytes: int(batchBytes(c))},
		Logger:            log,
	}
	for _, p := range c.Peers {
		o.Members = append(o.Members, raftnode.Member{
			ID: placement.NodeID(p.ID), PeerAddress: p.peerAddress(), ClientAddress: p.clientAddress(),
		})
	}
	return o
}

// serviceOptions is the part that its service needs.
func serviceOptions(c *config, n *raftnode.Node, r prometheus.Registerer, log *slog.Logger) service.Options {
	return service.Options{
		Node:    n,
		Version: version,
		Limits: service.Limits{
			ValueBytes:   uint64(c.MaxValueSize), //nolint:gosec // at least 1
			BatchBytes:   batchBytes(c),
			RequestBytes: 2 * batchBytes(c),

			IdempotencyWindow: c.IdempotencyWindow,
		},
		SlowRequest: c.SlowRequest,
		Origins:     c.Origins,
		Registerer:  r,
		Logger:      log,
	}
}

// batchBytes bounds the keys and values of a batch, which must hold one value at least.
func batchBytes(c *config) uint64 {
	return uint64(max(4*mebibyte, c.MaxValueSize+2*raftnode.KeyBytes)) //nolint:gosec // positive
}
