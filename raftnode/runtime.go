package raftnode

import (
	"context"
	"sync"
	"time"
)

// Runtime runs the stages of a node. The node's own gives each stage a goroutine; a simulation runs them one by one, in an order that a
// seed decides, under a clock of its own.
type Runtime interface {
	// Stage registers a step and returns its wake function. After a wake the step runs at least once; it never runs twice at once.
	Stage(name string, step func()) (wake func())
	// Every calls f again and again, never twice at once, until stop is called or the runtime is closed.
	Every(name string, d time.Duration, f func()) (stop func())
	// After calls f once, after d.
	After(d time.Duration, f func())
	// Go runs f, which may block; ctx ends when the runtime is closed.
	Go(name string, f func(ctx context.Context))
	// Now is the time; differences of it are monotonic.
	Now() time.Time
	// Close stops everything and waits for what is running.
	Close()
}

// goroutines is the Runtime of a real node.
type goroutines struct {
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup

	// mu guards closed, so that nothing is started while Close waits. It is a leaf.
	mu     sync.Mutex
	closed bool
}

// NewRuntime returns the Runtime of a real node.
func NewRuntime() Runtime {
	ctx, cancel := context.WithCancel(context.Background())
	return &goroutines{ctx: ctx, cancel: cancel}
}

// start runs f in a goroutine that Close waits for, unless it is closed already.
func (g *goroutines) start(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.wait.Add(1)
	go func() {
		defer g.wait.Done()
		f()
	}()
}

func (g *goroutines) Stage(_ string, step func()) func() {
	ready := make(chan struct{}, 1)
	g.start(func() {
		for {
			select {
			case <-ready:
				step()
			case <-g.ctx.Done():
				return
			}
		}
	})
	return func() {
		select {
		case ready <- struct{}{}:
		default: // A wake is pending already.
		}
	}
}

func (g *goroutines) Every(_ string, d time.Duration, f func()) func() {
	ctx, stop := context.WithCancel(g.ctx)
	g.start(func() {
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				f()
			case <-ctx.Done():
				return
			}
		}
	})
	return stop
}

func (g *goroutines) After(d time.Duration, f func()) {
	g.start(func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			f()
		case <-g.ctx.Done():
		}
	})
}

func (g *goroutines) Go(_ string, f func(context.Context)) { g.start(func() { f(g.ctx) }) }

func (g *goroutines) Now() time.Time { return time.Now() }

func (g *goroutines) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.wait.Wait()
}
