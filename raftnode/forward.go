package raftnode

import (
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// forwards are the requests that this node has passed on and that are not answered. A request is passed on once: the node that gets it
// executes it or answers NotLeader, and only answers that mean "not applied" make this node try again.
type forwards struct {
	n *Node
	// mu guards the fields below. It is a leaf.
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*forward
	parked  []*Request // to be routed again
	closed  bool
}

type forward struct {
	to      placement.NodeID
	request *Request
	span    trace.Span // nil if the request is not sampled
}

func newForwards(n *Node) *forwards {
	// The ids of an earlier life of this node may still be answered.
	return &forwards{n: n, last: n.random(), waiting: make(map[uint64]*forward)}
}

// forward passes a request on to a node that leads its shard, or holds a replica of it.
func (n *Node) forward(r *Request, to placement.NodeID) {
	w := &forward{to: to, request: r}
	passed := r.Trace
	if r.journey.sampled() {
		w.span, passed = n.tracing.forward(r, to)
	}
	id, err := n.forwards.register(w)
	if err != nil {
		if w.span != nil {
			w.span.End()
		}
		r.fail(err)
		return
	}
	m := &peerv1.ForwardRequest{Id: id, Shard: uint32(r.Shard), TimeoutMs: n.remaining(r), Trace: passed, Timed: r.journey != nil}
	switch {
	case r.transferTo != "":
		m.Body = &peerv1.ForwardRequest_TransferLeaderTo{TransferLeaderTo: string(r.transferTo)}
	case r.replace != nil:
		m.Body = &peerv1.ForwardRequest_ReplaceReplica{ReplaceReplica: r.replace}
	case r.Command != nil:
		m.Body = &peerv1.ForwardRequest_Command{Command: r.Command}
	default:
		m.Body = &peerv1.ForwardRequest_Read{Read: r.Read}
	}
	if !n.transport.Send(to, &peerv1.Message{Body: &peerv1.Message_ForwardRequest{ForwardRequest: m}}) {
		if n.forwards.remove(id) != nil {
			n.notForwarded(r, to)
		}
	}
}

// notForwarded goes on with a request that certainly was not sent: either a leader that can be reached has to be found, or too much waits for
// the one that there is, which may be over in a moment.
func (n *Node) notForwarded(r *Request, to placement.NodeID) {
	if !n.isReachable(to) {
		n.retryLater(r, n.notLeader(r.Shard))
		return
	}
	r.crowded++
	err := overloaded("tries while too much waits for node "+string(to), crowdedMax, r.crowded)
	if r.crowded >= crowdedMax {
		r.fail(err)
		return
	}
	n.retryLater(r, err)
}

func (f *forwards) register(w *forward) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, ErrStopped
	}
	if len(f.waiting) >= forwardsMax {
		return 0, overloaded("requests passed on to other nodes", forwardsMax, uint64(len(f.waiting)))
	}
	f.last++
	f.waiting[f.last] = w
	return f.last, nil
}

// open is how many requests other nodes have not answered, or wait to be passed on again.
func (f *forwards) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting) + len(f.parked)
}

func (f *forwards) remove(id uint64) *forward {
	f.mu.Lock()
	w := f.waiting[id]
	delete(f.waiting, id)
	f.mu.Unlock()
	if w != nil && w.span != nil {
		w.span.End()
	}
	return w
}

// removeIf removes and returns those that match, by ascending id, so that a simulation sees them in one order.
func (f *forwards) removeIf(match func(*forward) bool) []*forward {
	out := f.takeIf(match)
	for _, w := range out {
		if w.span != nil {
			w.span.SetStatus(codes.Error, "no answer")
			w.span.End()
		}
	}
	return out
}

func (f *forwards) takeIf(match func(*forward) bool) []*forward {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []uint64
	for id, w := range f.waiting {
		if match(w) {
			ids = append(ids, id)
		}
	}
	sortIDs(ids)
	out := make([]*forward, 0, len(ids))
	for _, id := range ids {
		out = append(out, f.waiting[id])
		delete(f.waiting, id)
	}
	return out
}

// answer takes the answer of the node to which a request was passed on.
func (f *forwards) answer(from placement.NodeID, resp *peerv1.ForwardResponse) {
	w := f.remove(resp.GetId())
	if w == nil {
		return // Its requester has been answered: too late, or the connection broke.
	}
	if w.to != from {
		f.n.log.Warn("answer of a node that was not asked", "from", from, "asked", w.to)
		w.request.fail(f.lost(w))
		return
	}
	r := w.request
	if r.journey != nil {
		r.journey.learn(resp.GetTiming())
	}
	if !answers(r, resp) {
		r.fail(f.lost(w))
		return
	}
	if resp.GetOrigin().GetLeader() && f.n.member(r.Shard) == nil {
		f.n.shards.setLeader(r.Shard, w.to)
	}
	switch body := resp.GetBody().(type) {
	case *peerv1.ForwardResponse_Write:
		r.done(Result{Shard: r.Shard, Origin: resp.GetOrigin(), Write: body.Write})
	case *peerv1.ForwardResponse_Read:
		r.done(Result{Shard: r.Shard, Origin: resp.GetOrigin(), Read: body.Read})
	case *peerv1.ForwardResponse_Opaque:
		r.done(Result{Shard: r.Shard, Origin: resp.GetOrigin(), Opaque: body.Opaque})
	case *peerv1.ForwardResponse_ReplacedReplica:
		r.done(Result{Shard: r.Shard, replaced: body.ReplacedReplica})
	case *peerv1.ForwardResponse_Failure:
		f.failed(r, body.Failure)
	default:
		r.fail(f.lost(w))
	}
}

// answers says whether an answer is of the kind that the request asks for.
func answers(r *Request, resp *peerv1.ForwardResponse) bool {
	_, opaque := r.Command.GetBody().(*storev1.Command_Opaque)
	switch resp.GetBody().(type) {
	case *peerv1.ForwardResponse_Write:
		return r.Command != nil && !opaque
	case *peerv1.ForwardResponse_Read:
		return r.Read != nil
	case *peerv1.ForwardResponse_Opaque:
		return opaque || r.transferTo != ""
	case *peerv1.ForwardResponse_ReplacedReplica:
		return r.replace != nil
	default:
		return true
	}
}

// failed answers or retries a request that another node has refused.
func (f *forwards) failed(r *Request, failure *peerv1.Failure) {
	err := errorOf(r.Shard, failure)
	if e := (*NotLeaderError)(nil); errors.As(err, &e) {
		e.Endpoint = f.n.clientAddress(e.Leader) // Nodes tell each other names only.
	}
	switch failure.GetKind() {
	case peerv1.FailureKind_FAILURE_KIND_NOT_LEADER, peerv1.FailureKind_FAILURE_KIND_STOPPED, peerv1.FailureKind_FAILURE_KIND_NO_REPLICA:
		if f.n.member(r.Shard) == nil { // A replica here knows better.
			f.n.shards.suggest(r.Shard, placement.NodeID(failure.GetLeaderNodeId()))
		}
		f.n.retryLater(r, err)
	default:
		r.fail(err)
	}
}

// retryLater routes a request that was not applied once more, after a moment in which a leader may be found.
func (n *Node) retryLater(r *Request, err error) {
	if r.transferTo != "" || n.runtime.Now().Add(forwardPause).After(r.Deadline) {
		r.fail(err)
		return
	}
	first, err := n.forwards.park(r)
	if err != nil {
		r.fail(err)
		return
	}
	if first { // One retry is for all: a retry each would be a retry of all by each.
		n.runtime.After(forwardPause, n.forwards.retry)
	}
}

// park keeps a request for retry, unless there are too many or the node is closed, and says whether it is the first to wait.
func (f *forwards) park(r *Request) (first bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false, ErrStopped
	}
	if len(f.parked) >= forwardsMax {
		return false, overloaded("requests waiting for a leader", forwardsMax, uint64(len(f.parked)))
	}
	f.parked = append(f.parked, r)
	return len(f.parked) == 1, nil
}

// retry routes the parked requests again. Some may have waited for less than the pause; that does no harm.
func (f *forwards) retry() {
	f.mu.Lock()
	parked := f.parked
	f.parked = nil
	f.mu.Unlock()
	for _, r := range parked {
		f.n.dispatch(r)
	}
}

// close refuses further requests and returns all that wait: those passed on, and those parked.
func (f *forwards) close() (sent []*forward, parked []*Request) {
	sent = f.removeIf(func(*forward) bool { return true })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	parked, f.parked = f.parked, nil
	return sent, parked
}

const forwardPause = 20 * time.Millisecond

// lost is the fate of a request whose answer will not come.
func (f *forwards) lost(w *forward) error {
	if w.request.Read != nil {
		return f.n.timedOut(w.request.Shard)
	}
	return &UnknownOutcomeError{Shard: w.request.Shard, Cause: "the connection to node " + string(w.to) + " was lost after the request was passed on"}
}

// peerDown gives up the requests that were passed on to a node whose connection is lost. Reads are tried elsewhere.
func (f *forwards) peerDown(node placement.NodeID) {
	for _, w := range f.removeIf(func(w *forward) bool { return w.to == node }) {
		if w.request.Read != nil || planted.Is(planted.ForwardedTwice) { // TAX
			f.n.retryLater(w.request, f.lost(w))
			continue
		}
		w.request.fail(f.lost(w))
	}
}

// expire gives up the requests that are beyond their deadline.
func (f *forwards) expire(now time.Time) {
	for _, w := range f.removeIf(func(w *forward) bool { return w.request.Deadline.Before(now) }) {
		if f.n.member(w.request.Shard) == nil { // A replica here knows better.
			f.n.shards.doubt(w.request.Shard, w.to)
		}
		if w.request.Read != nil {
			w.request.fail(ErrTimeout)
			continue
		}
		w.request.fail(&UnknownOutcomeError{Shard: w.request.Shard, Cause: "node " + string(w.to) + " did not answer in time"})
	}
}

// refuseForward answers a request that another node has passed on, and of which nothing is done.
func (n *Node) refuseForward(from transport.Peer, f *peerv1.ForwardRequest, err error) {
	deadline := n.runtime.Now().Add(time.Duration(f.GetTimeoutMs()) * time.Millisecond)
	n.answers.send(from.NodeID, &peerv1.ForwardResponse{Id: f.GetId(), Body: &peerv1.ForwardResponse_Failure{Failure: failureOf(err)}}, deadline)
}

// serveForward executes a request that another node has passed on.
func (n *Node) serveForward(from transport.Peer, f *peerv1.ForwardRequest) {
	deadline := n.runtime.Now().Add(time.Duration(f.GetTimeoutMs()) * time.Millisecond)
	reply := func(resp *peerv1.ForwardResponse) {
		resp.Id = f.GetId()
		n.answers.send(from.NodeID, resp, deadline)
	}
	shard := placement.ShardID(f.GetShard())
	if to := f.GetTransferLeaderTo(); to != "" {
		n.transferHere(shard, placement.NodeID(to), func(term uint64, err error) {
			if err != nil {
				reply(&peerv1.ForwardResponse{Body: &peerv1.ForwardResponse_Failure{Failure: failureOf(err)}})
				return
			}
			reply(&peerv1.ForwardResponse{
				Origin: &peerv1.Origin{NodeId: to, Term: term},
				Body:   &peerv1.ForwardResponse_Opaque{},
			})
		})
		return
	}
	if ask := f.GetReplaceReplica(); ask != nil {
		n.replaceHere(shard, from, ask, func(replaced *peerv1.ReplacedReplica, err error) {
			if err != nil {
				reply(&peerv1.ForwardResponse{Body: &peerv1.ForwardResponse_Failure{Failure: failureOf(err)}})
				return
			}
			reply(&peerv1.ForwardResponse{Body: &peerv1.ForwardResponse_ReplacedReplica{ReplacedReplica: replaced}})
		})
		return
	}
	r := &Request{
		Command: f.GetCommand(), Read: f.GetRead(), Shard: shard, Trace: f.GetTrace(), Timed: f.GetTimed(), Deadline: deadline, forwarded: true,
	}
	r.Done = func(res Result) {
		resp := responseOf(res)
		if f.GetTimed() {
			resp.Timing = res.Timing.message()
		}
		reply(resp)
		if r.journey.sampled() {
			n.tracing.replied(r, res.Timing, from.NodeID)
		}
	}
	n.Submit(r)
}

func responseOf(res Result) *peerv1.ForwardResponse {
	out := &peerv1.ForwardResponse{Origin: res.Origin}
	switch {
	case res.Err != nil:
		out.Body = &peerv1.ForwardResponse_Failure{Failure: failureOf(res.Err)}
	case res.Write != nil:
		out.Body = &peerv1.ForwardResponse_Write{Write: res.Write}
	case res.Read != nil:
		out.Body = &peerv1.ForwardResponse_Read{Read: res.Read}
	default:
		out.Body = &peerv1.ForwardResponse_Opaque{Opaque: res.Opaque}
	}
	return out
}
