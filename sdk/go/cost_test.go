package raftkv

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// answering is a client of which every lane answers at once, without a node.
func answering(t testing.TB, opts ...Option) *Client {
	t.Helper()
	o, addresses, err := resolve([]string{"localhost:1"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{options: o, epoch: time.Now(), places: make(chan struct{}, o.async)}
	if c.telemetry, err = newTelemetry(&o); err != nil {
		t.Fatal(err)
	}
	c.budget = newBudget(o.retryPercent, o.retriesKept, c.now)
	c.pool = newPool(&o, &connections{})
	c.http = c.pool[0]
	c.stopped, c.stop = context.WithCancel(context.Background())
	c.routes = newRoutes(c, addresses)
	get := &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Get{Get: &raftkvv1.GetResponse{Kv: &raftkvv1.KeyValue{Key: "k"}}}}
	put := &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Put{Put: &raftkvv1.PutResponse{}}}
	l := newLane(c.routes.any(nil), nil)
	c.start(func(context.Context) {
		defer close(l.ended)
		for {
			select {
			case o := <-l.queue:
				switch result := put; {
				case !o.take():
				case o.write:
					o.finish(result, nil)
				default:
					o.finish(get, nil)
				}
			case <-c.stopped.Done():
				l.refuse(notSent(ErrClosed))
				return
			}
		}
	})
	e := c.routes.any(nil)
	for _, lanes := range []*lanes{&e.reads, &e.writes} {
		lanes.start = []func() *lane{func() *lane { return l }}
	}
	t.Cleanup(func() { c.stop(); c.goroutines.Wait() })
	return c
}

// What a call allocates beside what it sends and receives: its options, and a future with its channel. Telemetry that nobody asked for costs nothing.
func TestAllocations(t *testing.T) {
	value := make([]byte, 256)
	ctx := context.Background()
	cancellable, cancel := context.WithCancel(ctx)
	defer cancel()
	calls := []struct {
		name string
		most float64
		call func(c *Client) error
	}{
		{"get", 1, func(c *Client) error { _, err := c.Get(ctx, "k"); return err }},
		{"put", 1, func(c *Client) error { _, err := c.Put(cancellable, "k", value); return err }},
		{"get async", 3, func(c *Client) error { _, err := c.Async().Get(ctx, "k").Wait(ctx); return err }},
		{"put async", 3, func(c *Client) error { _, err := c.Async().Put(ctx, "k", value).Wait(ctx); return err }},
		{"put async, with a context that can be cancelled", 6, func(c *Client) error { _, err := c.Async().Put(cancellable, "k", value).Wait(ctx); return err }},
	}
	c := answering(t)
	for _, row := range calls {
		t.Run(row.name, func(t *testing.T) {
			var errs []error
			got := testing.AllocsPerRun(2000, func() {
				if err := row.call(c); err != nil {
					errs = append(errs, err)
				}
			})
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			if got > row.most && !raceEnabled {
				t.Errorf("%g allocations, at most %g", got, row.most)
			}
		})
	}
	traced := answering(t, WithTracerProvider(noop.NewTracerProvider()))
	if _, err := traced.Put(ctx, "k", value); err != nil {
		t.Fatal(err)
	}
}

// What the client itself takes of the time of a call, with lanes that answer at once.
func BenchmarkCall(b *testing.B) {
	c := answering(b)
	value := make([]byte, 256)
	for _, put := range []bool{false, true} {
		b.Run(map[bool]string{false: "get", true: "put"}[put], func(b *testing.B) {
			b.SetParallelism(50)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					var err error
					if put {
						_, err = c.Put(b.Context(), "k", value)
					} else {
						_, err = c.Get(b.Context(), "k")
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
