package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// prefillClients is how many writers fill the key space.
const prefillClients = 256

// Run puts the load on the cluster until its duration has passed or ctx ends, which is an error. Operations under way
// at the end are waited for, at most their timeout long, and count.
func Run(ctx context.Context, o Options) (Report, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return Report{}, fmt.Errorf("bench: %w", err)
	}
	t, err := openTarget(ctx, &o)
	if err != nil {
		return Report{}, fmt.Errorf("bench: %w", err)
	}
	r := &run{options: &o, workload: newWorkload(&o), target: t}
	report, err := r.all(ctx)
	if err = errors.Join(err, t.close()); err != nil {
		return report, fmt.Errorf("bench: %w", err)
	}
	return report, nil
}

// run is one run.
type run struct {
	options  *Options
	workload *workload
	target   target
	records  recorder
	watchers *watchers // nil without
	// start is when the first operation is due; next numbers the operations of an open loop.
	start time.Time
	next  atomic.Int64
}

func (r *run) all(ctx context.Context) (Report, error) {
	if r.options.Prefill {
		if err := r.prefill(ctx); err != nil {
			return Report{}, fmt.Errorf("prefill: %w", err)
		}
	}
	if r.options.Watchers > 0 {
		var err error
		if r.watchers, err = watch(ctx, r.target.(*sdkTarget).client, r.options.Watchers); err != nil {
			return Report{}, err
		}
	}
	r.records.reset()
	r.start = time.Now()
	ending, cancel := context.WithDeadline(ctx, r.start.Add(r.options.Duration))
	defer cancel()
	var wg sync.WaitGroup
	for i := range r.options.Clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(r.start.UnixNano()), uint64(i)))
			if r.options.Rate > 0 {
				r.openLoop(ctx, ending, random)
			} else {
				r.closedLoop(ctx, ending, random)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(r.start)
	if err := ctx.Err(); err != nil {
		if r.watchers != nil {
			r.watchers.close()
		}
		return r.report(elapsed), fmt.Errorf("stopped after %s: %w", elapsed.Round(time.Millisecond), err)
	}
	report := r.report(elapsed)
	if r.watchers != nil {
		var err error
		if report.Watched, err = r.watchers.end(ctx, report.Operations, elapsed); err != nil {
			return report, fmt.Errorf("watch: %w", err)
		}
	}
	return report, nil
}

func (r *run) prefill(ctx context.Context) error {
	var next atomic.Int64
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range min(prefillClients, r.options.KeySpace) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= r.options.KeySpace {
					return
				}
				if err := r.target.put(ctx, key(n), r.workload.value(random)); err != nil {
					cancel(err) // the first error stays the cause
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// closedLoop sends an operation when the last is answered.
func (r *run) closedLoop(ctx, ending context.Context, random *rand.Rand) {
	for ending.Err() == nil {
		r.operation(ctx, random, time.Now())
	}
}

// openLoop sends operations when they are due. Each is one of all clients' common schedule; one that finds no client
// free when it is due starts late, and its latency counts from when it was due.
func (r *run) openLoop(ctx, ending context.Context, random *rand.Rand) {
	total := r.scheduled()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		n := r.next.Add(1) - 1
		if n >= total {
			return
		}
		due := r.start.Add(time.Duration(float64(n) / r.options.Rate * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		} else if ending.Err() != nil {
			// Out of time: never started. It counts as slow as it is known to be, for it would have been slower.
			r.records.unstarted(time.Since(due))
			continue
		}
		r.operation(ctx, random, due)
	}
}

// scheduled is how many operations an open loop has.
func (r *run) scheduled() int64 { return int64(r.options.Rate * r.options.Duration.Seconds()) }

// operation does one operation and records it as begun at begin.
func (r *run) operation(ctx context.Context, random *rand.Rand, begin time.Time) {
	var err error
	k, read := r.workload.randomKey(random), r.workload.reads(random)
	if read {
		err = r.target.get(ctx, k)
	} else {
		value := r.workload.value(random)
		if r.watchers != nil {
			value = stamp(value)
		}
		err = r.target.put(ctx, k, value)
	}
	took := time.Since(begin)
	if err == nil {
		r.records.success(read, took)
		return
	}
	if ctx.Err() != nil {
		return // the run was stopped; this says nothing about the cluster
	}
	kind, unknown := r.target.judge(err)
	r.records.failure(kind, unknown && !read)
}

func (r *run) report(elapsed time.Duration) Report { return r.records.report(r.options, elapsed) }
