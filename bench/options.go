// Package bench puts load on a cluster and measures what it does with it.
//
// A run is either a closed loop, in which every client sends its next operation when the last is answered, or an
// open one, in which operations are due at a fixed rate whether or not earlier ones have been answered. Latencies of
// an open loop count from when an operation was due, so a cluster that stalls cannot hide the operations that the
// stall kept back.
package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// Op is what a run does.
type Op string

// The operations of a run.
const (
	Put   Op = "put"
	Get   Op = "get"
	Mixed Op = "mixed"
)

// Transport is how a run talks to the cluster.
type Transport string

const (
	// SDK is the Go SDK: streams, batching, retries.
	SDK Transport = "sdk"
	// GRPC is plain unary gRPC calls, each tried once, for comparison.
	GRPC Transport = "grpc"
)

// Options say what to run. Zero fields take the default that their comment names.
type Options struct {
	// Endpoints are addresses of nodes as host:port; of their gRPC listeners if Transport is GRPC. Required.
	Endpoints []string
	// Transport is SDK.
	Transport Transport
	// Connections is how many connections there are to each endpoint: with GRPC one for each 50 clients, with SDK what that chooses.
	Connections int
	// Op is Put.
	Op Op
	// ReadPercent is the share of reads in Mixed, 0 to 100. There is no default.
	ReadPercent int
	// ValueBytes is 256.
	ValueBytes int
	// Compressible makes values of one repeated line instead of random bytes.
	Compressible bool
	// KeySpace is how many keys there are: 100,000. Keys are picked at random, all alike.
	KeySpace int
	// Clients is how many operations may be under way: 100.
	Clients int
	// Duration is 10 seconds.
	Duration time.Duration
	// Rate is operations per second in an open loop; 0 is a closed loop.
	Rate float64
	// Watchers is how many watches see all that Put writes: none. Every value begins with the time then, 8 bytes.
	Watchers int
	// Prefill writes every key before the run, through the same transport, and is not measured.
	Prefill bool
	// Timeout bounds each operation: 10 seconds.
	Timeout time.Duration
	// TLS speaks TLS with the nodes; nil does not, but with endpoints of the SDK that begin with https://.
	TLS *tls.Config
}

// Bounds that keep a run within the memory of the machine.
const (
	valueBytesMax = 64 << 20
	clientsMax    = 100_000
	rateMax       = 10_000_000
	durationMax   = 24 * time.Hour
)

func (o *Options) setDefaults() {
	if o.Transport == "" {
		o.Transport = SDK
	}
	if o.Op == "" {
		o.Op = Put
	}
	setDefault(&o.ValueBytes, 256)
	setDefault(&o.KeySpace, 100_000)
	setDefault(&o.Clients, 100)
	if o.Transport == GRPC {
		setDefault(&o.Connections, (o.Clients+49)/50)
	}
	setDefault(&o.Duration, 10*time.Second)
	setDefault(&o.Timeout, 10*time.Second)
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// validate reports all that is wrong with o.
func (o *Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(o.Endpoints) > 0, "no endpoints: give the address of one node at least, as host:port")
	check(o.Transport == SDK || o.Transport == GRPC, "transport must be sdk or grpc, not %q", o.Transport)
	check(o.Op == Put || o.Op == Get || o.Op == Mixed, "operation must be put, get or mixed, not %q", o.Op)
	check(o.Watchers >= 0 && o.Watchers <= watchersMax, "watchers must be up to %d, not %d", watchersMax, o.Watchers)
	check(o.Watchers == 0 || o.Op == Put && o.Transport == SDK && o.ValueBytes >= stampBytes, "watchers need the operation put, the transport sdk and values of %d bytes", stampBytes)
	check(o.ReadPercent >= 0 && o.ReadPercent <= 100, "the read percentage must be 0 to 100, not %d", o.ReadPercent)
	check(o.ValueBytes > 0 && o.ValueBytes <= valueBytesMax, "value bytes must be 1 to %d, not %d", valueBytesMax, o.ValueBytes)
	check(o.KeySpace > 0, "the key space must be at least 1, not %d", o.KeySpace)
	check(o.Clients > 0 && o.Clients <= clientsMax, "clients must be 1 to %d, not %d", clientsMax, o.Clients)
	check(o.Connections >= 0 && o.Connections <= clientsMax, "connections must be up to %d, not %d", clientsMax, o.Connections)
	check(o.Duration > 0 && o.Duration <= durationMax, "the duration must be up to %s, not %s", durationMax, o.Duration)
	check(o.Rate >= 0 && o.Rate <= rateMax, "the rate must be 0 to %d, not %g", rateMax, o.Rate)
	check(o.Timeout > 0, "the timeout must be more than 0, not %s", o.Timeout)
	return errors.Join(errs...)
}
