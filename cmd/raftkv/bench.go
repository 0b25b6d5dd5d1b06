package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftkv/raftkv/bench"
)

const benchHelp = `Put load on a cluster and measure it. Clients pick keys at random from a key space and, in a closed loop, send their next
operation when the last is answered; with --rate, in an open loop, operations are due at a fixed rate whether or not earlier
ones are answered, and their latency counts from then.

Reads need keys that exist: with --op get and mixed, all of them are written first, unless --prefill=false. The keys begin
with bench/ and stay.

With --transport grpc, operations are unary gRPC calls and the endpoints are those of the gRPC listeners, by default
127.0.0.1:8380.`

func newBench() *cobra.Command {
	var (
		o       bench.Options
		op      = newChoice("put", "put", "get", "mixed")
		over    = newChoice("sdk", "sdk", "grpc")
		size    string
		prefill bool
	)
	c := &cobra.Command{
		Use:   "bench",
		Short: "Put load on a cluster and measure it",
		Long:  benchHelp,
		Example: "  raftkv bench --op put --size 4KiB --clients 1000 --duration 30s\n" +
			"  raftkv bench --op mixed --read-percent 95 --rate 20000 --output json",
		Args: arguments(cobra.NoArgs),
	}
	f := addClientFlags(c)
	flags := c.Flags()
	flags.Var(op, "op", "what clients do")
	flags.StringVar(&size, "size", "256B", "size of values")
	flags.IntVar(&o.Clients, "clients", 100, "operations under way at once")
	flags.IntVar(&o.Connections, "connections", 0, "connections to each node; 0 is the default of the transport")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "how long")
	flags.Float64Var(&o.Rate, "rate", 0, "operations per second, for an open loop; 0 is a closed loop")
	flags.IntVar(&o.ReadPercent, "read-percent", 50, "share of reads with --op mixed")
	flags.IntVar(&o.KeySpace, "keys", 100_000, "size of the key space")
	flags.IntVar(&o.Watchers, "watchers", 0, "with --op put: watches that see every write, and tell how late and whether any is missing")
	flags.BoolVar(&o.Compressible, "compressible", false, "values of repeated text instead of random bytes")
	flags.BoolVar(&prefill, "prefill", false, "write all keys first (default true with --op get and mixed)")
	flags.Var(over, "transport", "how operations travel: the streams of the Go SDK, or unary gRPC calls")
	format := newOutput(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		bytes, err := parseSize(size)
		if err != nil {
			return &usageError{fmt.Errorf("--size: %w", err)}
		}
		o.ValueBytes, o.Op, o.Transport = int(bytes), bench.Op(op.value), bench.Transport(over.value)
		o.Prefill = prefill || o.Op != bench.Put && !cmd.Flags().Changed("prefill")
		o.Endpoints, o.Timeout = f.addresses(), f.timeout
		if o.TLS, err = f.tls(); err != nil {
			return err
		}
		if o.Transport == bench.GRPC && !cmd.Flags().Changed("endpoints") {
			o.Endpoints = []string{hostPort("127.0.0.1", portDefault+grpcPortOffset)}
		}
		tuneMemory()
		report, err := bench.Run(cmd.Context(), o)
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			err = report.WriteJSON(p)
		} else {
			err = report.WriteTable(p)
		}
		if report.Operations == 0 && err == nil {
			err = errors.New("no operation succeeded")
		}
		return p.flush(err)
	}
	return c
}
