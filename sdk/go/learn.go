package raftkv

import (
	"context"
	"errors"
	"fmt"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

const (
	// learnEvery is how often the map is learned without a reason, so that even an idle client finds new nodes.
	learnEvery = 30 * time.Second
	// learnRetry is when a failed attempt is repeated without a reason.
	learnRetry = time.Second
	// learnPause bounds how often the map is learned when many requests ask for it.
	learnPause = 50 * time.Millisecond
	// learnTimeout is how long one node may take.
	learnTimeout = 2 * time.Second
)

// learnFirst learns the map until it succeeds, ctx ends or the timeout of the client passes.
func (c *Client) learnFirst(ctx context.Context) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var last error
	for b := (backoff{}); ; {
		err := c.routes.learn(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if errors.Is(err, ErrRefused) || pause(ctx, c.stopped, nil, b.next()) != nil {
			return fmt.Errorf("no endpoint told the shard map: %w", last)
		}
	}
}

// follow keeps the map fresh until stop ends.
func (r *routes) follow(stop context.Context) {
	timer := time.NewTimer(jitter(learnEvery))
	defer timer.Stop()
	for {
		select {
		case <-stop.Done():
			return
		case <-timer.C:
		case <-r.refresh:
		}
		next := learnEvery
		if r.learn(stop) != nil {
			next = learnRetry // the calls that need a route tell the error
		}
		timer.Reset(jitter(next))
		if pause(stop, stop, nil, jitter(learnPause)) != nil {
			return
		}
	}
}

// learn asks one endpoint after the other until one tells the map.
func (r *routes) learn(ctx context.Context) error {
	var errs []error
	for range *r.ring.Load() {
		e := r.any(nil)
		err := r.learnFrom(ctx, e)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", e.address, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (r *routes) learnFrom(ctx context.Context, e *endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	shards, err := e.cluster.ListShards(ctx, &raftkvv1.ListShardsRequest{})
	if err != nil {
		f := judgeCall(err, true)
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e.failed(true)
		}
		return f.err
	}
	nodes, err := e.cluster.ListNodes(ctx, &raftkvv1.ListNodesRequest{})
	if err != nil {
		return judgeCall(err, true).err
	}
	var limits *raftkvv1.Limits
	// Without limits the servers still refuse what passes them; the client merely finds out later.
	if answer, err := e.cluster.GetLimits(ctx, &raftkvv1.GetLimitsRequest{}); err == nil {
		limits = answer.Limits
	}
	e.health.works()
	r.install(shards, nodes.Nodes, limits)
	return nil
}
