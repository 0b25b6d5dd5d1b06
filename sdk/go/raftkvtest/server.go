package raftkvtest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

func newNode(c *Cluster, i int) *node {
	n := &node{cluster: c, index: i, id: nodeID(i), stopped: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle(raftkvv1connect.NewKvServiceHandler(&kvService{n}))
	mux.Handle(raftkvv1connect.NewClusterServiceHandler(&clusterService{n}))
	mux.Handle(raftkvv1connect.NewLeaseServiceHandler(&leaseService{n}))
	mux.Handle(raftkvv1connect.NewWatchServiceHandler(&watchService{n}))
	n.server = httptest.NewUnstartedServer(mux)
	n.server.Config.Protocols = new(http.Protocols)
	n.server.Config.Protocols.SetHTTP1(true)
	n.server.Config.Protocols.SetUnencryptedHTTP2(true)
	n.server.Start()
	n.address = strings.TrimPrefix(n.server.URL, "http://")
	return n
}

type kvService struct{ *node }

// one executes a single operation, hooks excepted.
func (k *kvService) one(o *raftkvv1.ExecOperation) (*raftkvv1.ExecResult, error) {
	k.cluster.mu.Lock()
	defer k.cluster.mu.Unlock()
	r, e := k.cluster.execute(k.index, o)
	if e != nil {
		return nil, e.rpc()
	}
	return r, nil
}

func (k *kvService) Get(_ context.Context, r *raftkvv1.GetRequest) (*raftkvv1.GetResponse, error) {
	result, err := k.one(&raftkvv1.ExecOperation{Operation: &raftkvv1.ExecOperation_Get{Get: r}})
	return result.GetGet(), err
}

func (k *kvService) Put(_ context.Context, r *raftkvv1.PutRequest) (*raftkvv1.PutResponse, error) {
	result, err := k.one(&raftkvv1.ExecOperation{Operation: &raftkvv1.ExecOperation_Put{Put: r}})
	return result.GetPut(), err
}

func (k *kvService) Delete(_ context.Context, r *raftkvv1.DeleteRequest) (*raftkvv1.DeleteResponse, error) {
	result, err := k.one(&raftkvv1.ExecOperation{Operation: &raftkvv1.ExecOperation_Delete{Delete: r}})
	return result.GetDelete(), err
}

func (k *kvService) Batch(_ context.Context, r *raftkvv1.BatchRequest) (*raftkvv1.BatchResponse, error) {
	result, err := k.one(&raftkvv1.ExecOperation{Operation: &raftkvv1.ExecOperation_Batch{Batch: r}})
	return result.GetBatch(), err
}

func (k *kvService) Txn(_ context.Context, r *raftkvv1.TxnRequest) (*raftkvv1.TxnResponse, error) {
	result, err := k.one(&raftkvv1.ExecOperation{Operation: &raftkvv1.ExecOperation_Txn{Txn: r}})
	return result.GetTxn(), err
}

func (k *kvService) Scan(_ context.Context, r *raftkvv1.ScanRequest, s *connect.ServerStream[raftkvv1.ScanResponse]) error {
	g := r.GetRange()
	response, err := k.list(&raftkvv1.ListRequest{
		Prefix: g.GetPrefix(), Start: g.GetStart(), End: g.GetEnd(), Reverse: r.Reverse, KeysOnly: r.KeysOnly,
		Consistency: r.Consistency, MaxStalenessMs: r.MaxStalenessMs, Token: r.Token, Revision: r.Revision,
	}, int(r.Limit))
	if err != nil {
		return err
	}
	return s.Send(&raftkvv1.ScanResponse{Header: response.Header, Parts: response.Parts, Kvs: response.Kvs})
}

func (k *kvService) List(_ context.Context, r *raftkvv1.ListRequest) (*raftkvv1.ListResponse, error) {
	limit := int(r.Limit)
	if limit == 0 {
		limit = 100
	}
	return k.list(r, limit)
}

// list is a page of at most limit keys; 0 is no limit.
func (k *kvService) list(r *raftkvv1.ListRequest, limit int) (*raftkvv1.ListResponse, error) {
	k.cluster.mu.Lock()
	defer k.cluster.mu.Unlock()
	h := &raftkvv1.ResponseHeader{ClusterId: k.cluster.id, NodeId: k.id, Token: k.cluster.token()}
	if r.Consistency == raftkvv1.Consistency_CONSISTENCY_STALE {
		if e := k.cluster.shows(r.Token); e != nil {
			return nil, e.rpc()
		}
		h.FreshnessMs = staleAge
	}
	all := k.cluster.sortedKeys()
	response := &raftkvv1.ListResponse{Header: h}
	if r.Revision > 0 {
		var e *Error
		if all, response.Header, e = k.cluster.rangeAt(r); e != nil {
			return nil, e.rpc()
		}
	} else if shards := k.cluster.shards[1:]; len(shards) == 1 {
		h.Shard, h.Revision = uint32(shards[0].id), shards[0].revision
	} else {
		for _, s := range shards {
			response.Parts = append(response.Parts, &raftkvv1.ResponseHeader{Shard: uint32(s.id), Revision: s.revision, FreshnessMs: h.FreshnessMs})
		}
	}
	response.Kvs, response.NextPageToken = k.page(all, r, limit)
	return response, nil
}

// page returns at most limit of all keys that are in the range of r; 0 is no limit. The cluster's mu is held. Its tokens are the last key of the page before.
func (k *kvService) page(all []*raftkvv1.KeyValue, r *raftkvv1.ListRequest, limit int) (kvs []*raftkvv1.KeyValue, next string) {
	if r.Reverse {
		slices.Reverse(all)
	}
	for _, kv := range all {
		inside := strings.HasPrefix(kv.Key, r.Prefix) && kv.Key >= r.Start && (r.End == "" || kv.Key < r.End)
		passed := r.PageToken != "" && (!r.Reverse && kv.Key <= r.PageToken || r.Reverse && kv.Key >= r.PageToken)
		if !inside || passed {
			continue
		}
		if limit > 0 && len(kvs) == limit {
			return kvs, kvs[limit-1].Key
		}
		if r.KeysOnly {
			kv = &raftkvv1.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
		kvs = append(kvs, k.cluster.shown(kv))
	}
	return kvs, ""
}

// exec is one Exec stream.
type exec struct {
	*node
	stream *connect.BidiStream[raftkvv1.ExecRequest, raftkvv1.ExecResponse]
	// send keeps answers apart.
	send sync.Mutex
	// ended is closed when the handler is about to return; nothing is sent after that.
	ended chan struct{}
	// waiting are the goroutines of operations that are held up.
	waiting sync.WaitGroup
}

// Exec answers each message as a whole, but for the operations that a hook holds up.
func (k *kvService) Exec(_ context.Context, stream *connect.BidiStream[raftkvv1.ExecRequest, raftkvv1.ExecResponse]) error {
	x := &exec{node: k.node, stream: stream, ended: make(chan struct{})}
	defer x.waiting.Wait()
	defer close(x.ended)
	for {
		r, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if drop := x.message(r); drop {
			panic(http.ErrAbortHandler) // resets the stream without a word
		}
	}
}

// message executes the operations of r; drop says that the stream is to be cut.
func (x *exec) message(r *raftkvv1.ExecRequest) (drop bool) {
	number, hook := x.received(r)
	response := &raftkvv1.ExecResponse{}
	for _, o := range r.Operations {
		var a Action
		if hook != nil {
			a = hook(Operation{Node: x.index, Message: number, Request: o})
		}
		switch {
		case a.DropBefore:
			return true
		case a.Wait != nil:
			x.waiting.Go(func() { x.serveLate(o, a) })
		default:
			response.Results = append(response.Results, x.serve(o, a))
		}
		if a.DropAfter {
			return true
		}
	}
	if len(response.Results) > 0 {
		x.answer(response)
	}
	return false
}

// received counts r, and returns its number and the hook for its operations.
func (x *exec) received(r *raftkvv1.ExecRequest) (number int, hook func(Operation) Action) {
	c := x.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	x.messages++
	x.operations += len(r.Operations)
	for _, n := range c.nodes {
		number += n.messages
	}
	return number, c.hook
}

func (x *exec) answer(r *raftkvv1.ExecResponse) {
	x.send.Lock()
	defer x.send.Unlock()
	_ = x.stream.Send(r) // the client has left if this fails
}

// serve executes one operation.
func (x *exec) serve(o *raftkvv1.ExecOperation, a Action) *raftkvv1.ExecResult {
	x.cluster.mu.Lock()
	defer x.cluster.mu.Unlock()
	result, e := (*raftkvv1.ExecResult)(nil), a.Refuse
	if e == nil {
		result, e = x.cluster.execute(x.index, o)
	}
	if e != nil {
		return &raftkvv1.ExecResult{Id: o.Id, Result: &raftkvv1.ExecResult_Error{Error: e.status()}}
	}
	return &raftkvv1.ExecResult{Id: o.Id, Result: result.Result}
}

// serveLate executes an operation when its hook lets it go.
func (x *exec) serveLate(o *raftkvv1.ExecOperation, a Action) {
	select {
	case <-a.Wait:
		x.answer(&raftkvv1.ExecResponse{Results: []*raftkvv1.ExecResult{x.serve(o, a)}})
	case <-x.ended:
	case <-x.stopped:
	}
}
