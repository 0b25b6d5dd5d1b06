package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

const (
	demoNodesMax = 99 // the ports of one kind end where those of the next begin
	// demoCache is the cache of each node: there are several in the process.
	demoCache = 128 * mebibyte
	// demoReserve is what each node keeps of the disk, for the same reason.
	demoReserve = 512 * mebibyte
	// demoTimeout is how long a cluster on one machine may take to form and to elect leaders.
	demoTimeout = time.Minute
)

// demoFlags are those of demo.
type demoFlags struct {
	nodes, basePort, shards int
	data                    string
	traceEndpoint           string
	traceRatio              float64
}

func newDemo() *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a cluster of three nodes on this machine",
		Long: `Run a whole cluster in one process, to try things out: every node is what 'raftkv serve' runs. Node i serves clients on
base port + i - 1, its peers on 100 above that, metrics on 200 above, native gRPC on 300 above, all on 127.0.0.1.

Without --data the data is temporary, and removed at the end. With it, the next demo finds it again.`,
		Args: arguments(cobra.NoArgs),
	}
	flags := c.Flags()
	flags.IntVar(&f.nodes, "nodes", 3, "how many nodes")
	flags.StringVar(&f.data, "data", "", "directory for the data of all nodes (default temporary)")
	flags.IntVar(&f.basePort, "base-port", portDefault, "port of the first node")
	flags.IntVar(&f.shards, "shards", 1, "data shards")
	flags.StringVar(&f.traceEndpoint, "trace-endpoint", "", "collector of traces (OTLP over gRPC), as http://127.0.0.1:4317 (default none)")
	flags.Float64Var(&f.traceRatio, "trace-sample-ratio", 1, "part of the requests without a trace of their own that begin one")
	level := newChoice("warn", "debug", "info", "warn", "error")
	flags.Var(level, "log-level", "messages of the nodes to show")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.nodes < 1 || f.nodes > demoNodesMax {
			return &usageError{fmt.Errorf("--nodes is %d, it must be 1 to %d", f.nodes, demoNodesMax)}
		}
		if f.basePort < 1 || f.basePort+f.nodes-1+grpcPortOffset > portMax {
			return &usageError{fmt.Errorf("--base-port %d leaves no room for the ports of %d nodes; use one up to %d",
				f.basePort, f.nodes, portMax-grpcPortOffset-f.nodes+1)}
		}
		if f.shards < 1 || f.shards > shardsMax {
			return &usageError{fmt.Errorf("--shards is %d, it must be 1 to %d", f.shards, shardsMax)}
		}
		if err := errors.Join(traceRatio(defaults(), fmt.Sprint(f.traceRatio)), traceEndpointFlag(f.traceEndpoint)); err != nil {
			return &usageError{fmt.Errorf("--trace-endpoint, --trace-sample-ratio: %w", err)}
		}
		log, threshold := newLogger(cmd.ErrOrStderr(), level.value, "text")
		if threshold.Level() == slog.LevelWarn {
			// Nodes that stop together lose each other; that is no news.
			defer context.AfterFunc(cmd.Context(), func() { threshold.Set(slog.LevelError) })()
		}
		return demo(cmd.Context(), f, cmd.OutOrStdout(), log)
	}
	return c
}

// demo runs the cluster until ctx ends or a node fails.
func demo(ctx context.Context, f demoFlags, out io.Writer, log *slog.Logger) (err error) {
	tuneMemory()
	place := "Data is in " + f.data + "."
	if f.data == "" {
		if f.data, err = os.MkdirTemp("", "raftkv-demo-"); err != nil {
			return fmt.Errorf("make a temporary directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(f.data)) }()
		place = "Data is in " + f.data + ", and is removed at the end."
	}
	configs := demoConfigs(f)
	var nodes []*node
	defer func() { err = errors.Join(err, stopAll(nodes)) }()
	for _, c := range configs {
		n, err := startNode(c, log)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() { failed <- n.wait(ctx) }() // nil when ctx ends, which is at the latest when demo returns
	}
	ready := make(chan error, 1)
	go func() { ready <- waitReady(ctx, nodes) }()
	select {
	case err = <-failed:
		return err
	case err = <-ready:
	}
	if err != nil || ctx.Err() != nil {
		return err
	}
	welcome(out, configs, place)
	return <-failed
}

// demoConfigs makes the settings of all nodes.
func demoConfigs(f demoFlags) []*config {
	var peers []peer
	for i := range f.nodes {
		port := f.basePort + i
		peers = append(peers, peer{ID: "node" + strconv.Itoa(i+1), Host: "127.0.0.1", Port: port, PeerPort: port + peerPortOffset})
	}
	var configs []*config
	for _, p := range peers {
		c := defaults()
		c.NodeID, c.Port, c.PeerPort, c.Peers = p.ID, p.Port, p.PeerPort, peers
		c.GRPCPort, c.MetricsPort, c.HealthCheckPort = p.Port+grpcPortOffset, p.Port+adminPortOffset, p.Port+adminPortOffset
		c.AdminHost = c.Host
		c.Shards, c.CacheSize, c.DiskReserve, c.DataDir = f.shards, demoCache, demoReserve, filepath.Join(f.data, p.ID)
		c.TraceEndpoint, c.TraceRatio = f.traceEndpoint, f.traceRatio
		c.ProcessNodes = f.nodes
		configs = append(configs, c)
	}
	return configs
}

// waitReady returns when every node lacks nothing, or when ctx ends.
func waitReady(ctx context.Context, nodes []*node) error {
	within, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, n := range nodes {
		for {
			lacks := n.raft.Status().NotReady
			if len(lacks) == 0 {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil // told to stop
			case <-within.Done():
				return fmt.Errorf("the nodes were not ready within %s: %v", demoTimeout, lacks)
			}
		}
	}
	return nil
}

// stopAll stops all nodes at once, as they would otherwise elect leaders that stop next.
func stopAll(nodes []*node) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = n.stop() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// welcome says where the cluster is and what can be done with it.
func welcome(out io.Writer, configs []*config, place string) {
	t := newTable(out, "NODE", "CLIENTS", "GRPC", "PEERS", "METRICS, PROBES")
	for _, c := range configs {
		t.row(c.NodeID, hostPort(c.Host, c.Port), hostPort(c.Host, c.GRPCPort), hostPort(c.Host, c.PeerPort), hostPort(c.Host, c.MetricsPort))
	}
	_ = t.end() // a terminal that is gone is no reason to stop
	first := configs[0]
	clients, admin := hostPort(first.Host, first.Port), hostPort(first.Host, first.MetricsPort)
	with := ""
	if clients != endpointDefault {
		with = " --endpoints " + clients
	}
	fmt.Fprintf(out, `
%d node(s) are ready. Try, in another terminal:

  raftkv put greeting hello%[2]s
  raftkv get greeting%[2]s
  raftkv scan --prefix greet%[2]s
  raftkv status%[2]s
  raftkv shard list%[2]s
  raftkv shard transfer-leader 1 %[5]s%[2]s

  curl -X PUT --data-binary hello http://%[3]s/v1/kv/greeting
  curl http://%[3]s/v1/kv/greeting
  curl 'http://%[3]s/v1/kv?prefix=greet'
  curl http://%[4]s/metrics

%[6]s Ctrl-C stops.
`, len(configs), with, clients, admin, configs[len(configs)-1].NodeID, place)
}
