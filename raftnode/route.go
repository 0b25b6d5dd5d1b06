package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

// Submit starts a request and returns at once; r.Done is called exactly once, perhaps before Submit returns. Writes go to the leader of
// their shard, through one other node at the most; reads are served by the local replica if there is one.
func (n *Node) Submit(r *Request) {
	if err := n.prepare(r); err != nil {
		r.fail(err)
		return
	}
	if err := n.requests.take(r); err != nil {
		r.fail(err)
		return
	}
	if r.After != nil {
		r.node = n
	}
	if leases := n.leasesElsewhere(r); leases != nil {
		n.askHomes(leases, r.Deadline, func(ended []uint64, err error) { n.asked(r, ended, err) })
		return
	}
	n.dispatch(r)
}

// Do executes a request and waits for its answer. Without a deadline in ctx or r it waits ten seconds.
func (n *Node) Do(ctx context.Context, r *Request) Result {
	done := make(chan Result, 1)
	r.Done = func(res Result) { done <- res }
	if d, ok := ctx.Deadline(); ok && (r.Deadline.IsZero() || d.Before(r.Deadline)) {
		r.Deadline = d
	}
	n.Submit(r)
	// The node answers soon after the deadline. Who has gone for another reason does not wait for that, and a stage that hangs in a disk
	// answers nobody.
	var cause error
	select {
	case res := <-done:
		return res
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-n.done:
		select {
		case res := <-done:
			return res
		default:
			cause = ErrStopped
		}
	}
	if r.Read != nil && errors.Is(cause, ErrStopped) {
		return Result{Shard: r.Shard, Err: ErrStopped}
	}
	if r.Read != nil {
		return Result{Shard: r.Shard, Err: ErrTimeout}
	}
	return Result{Shard: r.Shard, Err: &UnknownOutcomeError{Shard: r.Shard, Cause: cause.Error()}}
}

// Route returns the shard that serves a key, as far as this node knows; the meta shard, which serves none, before the cluster has formed.
func (n *Node) Route(key string) placement.ShardID {
	if !n.serving.Load() {
		return placement.MetaShard
	}
	return n.shards.of(placement.SlotOf(key))
}

// prepare checks a request against the limits and finds its shard.
func (n *Node) prepare(r *Request) error {
	if n.failed() || n.closing.Load() {
		return ErrStopped
	}
	if !n.serving.Load() {
		return ErrForming
	}
	if r.Deadline.IsZero() {
		r.Deadline = n.runtime.Now().Add(defaultTimeout)
	}
	if len(r.Trace.GetTraceId()) != len(trace.TraceID{}) || len(r.Trace.GetSpanId()) != len(trace.SpanID{}) {
		r.Trace = nil // none, or none that another node may be told
	}
	if r.Timed || r.Trace != nil {
		n.beginJourney(r)
	}
	if (r.Command == nil) == (r.Read == nil) {
		return &InvalidError{Field: "request", Problem: "exactly one of command and read must be set"}
	}
	if r.AutoShard {
		shard, err := n.shardOf(r)
		if err != nil {
			return err
		}
		r.Shard = shard
	}
	if n.shards.replicas(r.Shard) == nil {
		return &InvalidError{Field: "shard", Problem: fmt.Sprintf("there is no shard %d", r.Shard)}
	}
	if r.Command != nil {
		r.bytes = r.Command.SizeVT()
		return n.checkCommand(r.Shard, r.Command)
	}
	return n.checkRead(r.Read)
}

// dispatch gives a prepared request to the local replica of its shard, or to a node that holds one.
func (n *Node) dispatch(r *Request) {
	if m := n.member(r.Shard); m != nil {
		m.worker.request(m, r)
		return
	}
	if r.forwarded {
		r.fail(&NoReplicaError{Shard: r.Shard})
		return
	}
	to, ok := n.shards.holder(r.Shard, n.canAsk)
	if !ok {
		n.retryLater(r, &NoReplicaError{Shard: r.Shard})
		return
	}
	n.forward(r, to)
}

// checkCommand keeps from the log what could not be applied or would not fit: an entry that fails to apply stops every replica.
func (n *Node) checkCommand(shard placement.ShardID, c *storev1.Command) error {
	if n.options.Machine != nil {
		if _, ok := c.GetBody().(*storev1.Command_Opaque); !ok || shard == placement.MetaShard {
			return &InvalidError{Field: "command", Problem: "this cluster runs a state machine of its own, which takes opaque commands for data shards only"}
		}
		if size := len(c.GetOpaque()); size > n.options.Limits.CommandBytes {
			return limit("command", n.options.Limits.CommandBytes, size)
		}
		return nil
	}
	if w := c.GetWrite(); w != nil {
		if err := n.checkWrite(w); err != nil {
			return err
		}
	}
	if err := state.CheckCommand(c); err != nil {
		return &InvalidError{Field: "command", Problem: err.Error()}
	}
	if p := n.pressure.Load(); p != nil {
		n.metrics.refusedWrites.Add(1)
		return p
	}
	return nil
}

func (n *Node) checkWrite(w *storev1.Write) error {
	l := n.options.Limits
	if k := len(w.GetOperations()) + len(w.GetOtherwise()) + len(w.GetCompares()); k > l.CommandOperations {
		return limit("operations", l.CommandOperations, k)
	}
	size, err := checkOperations("operations", w.GetOperations(), l.ValueBytes)
	if err != nil {
		return err
	}
	more, err := checkOperations("otherwise", w.GetOtherwise(), l.ValueBytes)
	if err != nil {
		return err
	}
	size += more
	for i, c := range w.GetCompares() {
		if err := checkKey(fmt.Sprintf("compares[%d].key", i), c.GetKey()); err != nil {
			return err
		}
		size += len(c.GetKey()) + len(c.GetValue())
	}
	if size > l.CommandBytes {
		return limit("operations", l.CommandBytes, size)
	}
	return nil
}

// checkOperations returns the bytes of keys and values.
func checkOperations(field string, ops []*storev1.Operation, valueBytes int) (size int, err error) {
	for i, o := range ops {
		if err := checkKey(fmt.Sprintf("%s[%d].key", field, i), o.GetKey()); err != nil {
			return 0, err
		}
		if len(o.GetValue()) > valueBytes {
			return 0, limit(fmt.Sprintf("%s[%d].value", field, i), valueBytes, len(o.GetValue()))
		}
		size += len(o.GetKey()) + len(o.GetValue())
	}
	return size, nil
}

func (n *Node) checkRead(r *peerv1.ReadRequest) error {
	if k := len(r.GetLease().GetIds()); k > leasesAskedMax {
		return limit("leases", leasesAskedMax, k)
	}
	if k := len(r.GetKeys()) + len(r.GetPast()); k > n.options.Limits.CommandOperations {
		return limit("keys", n.options.Limits.CommandOperations, k)
	}
	for i, key := range r.GetKeys() {
		if err := checkKey(fmt.Sprintf("keys[%d]", i), key); err != nil {
			return err
		}
	}
	for i, p := range r.GetPast() {
		if err := checkKey(fmt.Sprintf("past[%d].key", i), p.GetKey()); err != nil {
			return err
		}
	}
	return nil
}

func checkKey(field, key string) error {
	if key == "" {
		return &InvalidError{Field: field, Problem: "a key has at least one byte"}
	}
	if len(key) > KeyBytes {
		return limit(field, KeyBytes, len(key))
	}
	if !utf8.ValidString(key) {
		return &InvalidError{Field: field, Problem: "a key is valid UTF-8"}
	}
	return nil
}

// shardOf finds the one shard of the keys of a request.
func (n *Node) shardOf(r *Request) (placement.ShardID, error) {
	if slot, ok := slotOf(r); ok {
		return n.shards.of(slot), nil
	}
	var first placement.ShardID
	seen, several := 0, false
	for key := range r.keys {
		s := n.Route(key)
		if seen == 0 {
			first = s
		}
		several = several || s != first
		seen++
	}
	switch {
	case seen == 0:
		return 0, &InvalidError{Field: "request", Problem: "it has no keys to route by"}
	case !several:
		return first, nil
	}
	groups := make(map[placement.ShardID][]string)
	for key := range r.keys {
		groups[n.Route(key)] = append(groups[n.Route(key)], key)
	}
	err := &CrossShardError{}
	for s, ks := range groups {
		err.Groups = append(err.Groups, ShardKeys{Shard: s, Keys: ks})
	}
	sort.Slice(err.Groups, func(i, j int) bool { return err.Groups[i].Shard < err.Groups[j].Shard })
	return 0, err
}

// keys are all keys of a request.
func (r *Request) keys(yield func(string) bool) {
	for _, k := range r.Read.GetKeys() {
		if !yield(k) {
			return
		}
	}
	for _, p := range r.Read.GetPast() {
		if !yield(p.GetKey()) {
			return
		}
	}
	w := r.Command.GetWrite()
	for o := range branches(w) {
		if !yield(o.GetKey()) {
			return
		}
	}
	for _, c := range w.GetCompares() {
		if !yield(c.GetKey()) {
			return
		}
	}
}

// notLeader says who leads a shard as far as this node knows.
func (n *Node) notLeader(shard placement.ShardID) error {
	leader := n.shards.leader(shard)
	return &NotLeaderError{Shard: shard, Leader: leader, Endpoint: n.clientAddress(leader)}
}

// timedOut is the error of a request that has waited for a leader in vain. It was not proposed.
func (n *Node) timedOut(shard placement.ShardID) error {
	if n.shards.leader(shard) == "" {
		return n.notLeader(shard)
	}
	return ErrTimeout
}

func overloaded(field string, bound, actual uint64) error {
	return &OverloadedError{Field: field, Limit: bound, Actual: actual, RetryAfter: overloadRetry}
}

func limit(field string, bound, actual int) error {
	return &LimitError{Field: field, Limit: uint64(bound), Actual: uint64(actual)}
}

func staleRoute(shard placement.ShardID, slot uint32) error {
	return &StaleRouteError{Shard: shard, Slot: placement.Slot(slot)}
}

func isRejected(err error) bool { return errors.Is(err, replica.ErrRejected) }

// remaining is the time that another node gets for a request, in milliseconds, at least one: what is left, less what its answer takes, or this node would
// have called the outcome unknown when it comes. Of a short time that is a quarter.
func (n *Node) remaining(r *Request) uint32 {
	left := r.Deadline.Sub(n.runtime.Now())
	left -= min(answerTicks*n.options.HeartbeatInterval, left/4)
	return uint32(max(1, min(left, time.Hour).Milliseconds()))
}
