package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

// endpoint is a node as clients reach it: Connect on the port for clients, gRPC on its own.
type endpoint struct {
	connect, grpc raftkvv1connect.KvServiceClient
	cluster       raftkvv1connect.ClusterServiceClient
	watch         [2]raftkvv1connect.WatchServiceClient
	lease         [2]raftkvv1connect.LeaseServiceClient
}

const dialTimeout = time.Second

func newEndpoint(node int) *endpoint {
	dialer := &net.Dialer{Timeout: dialTimeout}
	plain := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 16}}
	h2 := &http.Client{Transport: &http.Transport{
		DialContext: dialer.DialContext, Protocols: &http.Protocols{},
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: time.Second},
	}}
	h2.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	at := func(port int) string { return fmt.Sprintf("http://%s:%d", address(node), port) }
	return &endpoint{
		connect: raftkvv1connect.NewKvServiceClient(plain, at(clientPort)),
		grpc:    raftkvv1connect.NewKvServiceClient(h2, at(grpcPort), connect.WithGRPC()),
		cluster: raftkvv1connect.NewClusterServiceClient(plain, at(clientPort)),
		watch:   watchClients(at, plain, h2),
		lease:   leaseClients(at, plain, h2),
	}
}

// way is how an operation is sent.
type way int

const (
	byConnect way = iota
	byGRPC
	byExec
	ways
)

// call is one operation in the form of the contract; exactly one request is set.
type call struct {
	get    *raftkvv1.GetRequest
	put    *raftkvv1.PutRequest
	delete *raftkvv1.DeleteRequest
	batch  *raftkvv1.BatchRequest
	txn    *raftkvv1.TxnRequest
	list   *raftkvv1.ListRequest
	scan   *raftkvv1.ScanRequest
	// header is the idempotency key of a write that has it there.
	header string
}

// setKey puts a write under an idempotency key, in its field.
func (c *call) setKey(key string) {
	switch {
	case c.put != nil:
		c.put.IdempotencyKey = key
	case c.delete != nil:
		c.delete.IdempotencyKey = key
	case c.batch != nil:
		c.batch.IdempotencyKey = key
	case c.txn != nil:
		c.txn.IdempotencyKey = key
	}
}

// result is what came of it; one of the answers is set. Of a scan, kvs, and the headers of the only page.
type result struct {
	get    *raftkvv1.GetResponse
	put    *raftkvv1.PutResponse
	delete *raftkvv1.DeleteResponse
	batch  *raftkvv1.BatchResponse
	txn    *raftkvv1.TxnResponse
	list   *raftkvv1.ListResponse
	kvs    []*raftkvv1.KeyValue
	page   *raftkvv1.ResponseHeader
	parts  []*raftkvv1.ResponseHeader
}

// do executes a call.
func (e *endpoint) do(ctx context.Context, c *call, w way) (*result, *failure) {
	client := e.connect
	if w != byConnect {
		client = e.grpc
	}
	if w == byExec && c.list == nil && c.scan == nil {
		return onStream(ctx, client, c)
	}
	r, err := unary(ctx, client, c)
	if err != nil {
		return nil, judge(err)
	}
	return r, nil
}

func unary(ctx context.Context, client raftkvv1connect.KvServiceClient, c *call) (r *result, err error) {
	r = &result{}
	if c.header != "" {
		with, info := connect.NewClientContext(ctx)
		info.RequestHeader().Set("Idempotency-Key", c.header)
		ctx = with
	}
	switch {
	case c.get != nil:
		r.get, err = client.Get(ctx, c.get)
	case c.put != nil:
		r.put, err = client.Put(ctx, c.put)
	case c.delete != nil:
		r.delete, err = client.Delete(ctx, c.delete)
	case c.batch != nil:
		r.batch, err = client.Batch(ctx, c.batch)
	case c.txn != nil:
		r.txn, err = client.Txn(ctx, c.txn)
	case c.list != nil:
		r.list, err = client.List(ctx, c.list)
	case c.scan != nil:
		var stream *connect.ServerStreamForClient[raftkvv1.ScanResponse]
		if stream, err = client.Scan(ctx, c.scan); err != nil {
			return nil, err
		}
		pages := 0
		for ; stream.Receive(); pages++ {
			r.kvs = append(r.kvs, stream.Msg().GetKvs()...)
			r.page, r.parts = stream.Msg().GetHeader(), stream.Msg().GetParts()
		}
		if pages > 1 {
			r.page, r.parts = nil, nil
		}
		err = stream.Err()
		_ = stream.Close() // It has been read to its end.
	}
	return r, err
}

// onStream executes a call on a stream of its own.
func onStream(ctx context.Context, client raftkvv1connect.KvServiceClient, c *call) (*result, *failure) {
	op := &raftkvv1.ExecOperation{Id: 1}
	switch {
	case c.get != nil:
		op.Operation = &raftkvv1.ExecOperation_Get{Get: c.get}
	case c.put != nil:
		op.Operation = &raftkvv1.ExecOperation_Put{Put: c.put}
	case c.delete != nil:
		op.Operation = &raftkvv1.ExecOperation_Delete{Delete: c.delete}
	case c.batch != nil:
		op.Operation = &raftkvv1.ExecOperation_Batch{Batch: c.batch}
	default:
		op.Operation = &raftkvv1.ExecOperation_Txn{Txn: c.txn}
	}
	stream, err := client.Exec(ctx)
	if err != nil {
		return nil, judge(err)
	}
	defer func() { _ = stream.CloseResponse() }() // Nothing more is expected.
	err = stream.Send(&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{op}})
	if err != nil {
		// Send says only that the stream has ended; Receive says why.
		if _, why := stream.Receive(); why != nil {
			err = why
		}
		return nil, judge(err)
	}
	in, err := stream.Receive()
	if err == nil {
		err = stream.CloseRequest()
	}
	if err != nil && in == nil {
		return nil, judge(err)
	}
	if len(in.GetResults()) != 1 || in.GetResults()[0].GetId() != 1 {
		return nil, &failure{err: fmt.Errorf("a stream with one operation answers %v", in), mislabelled: "results are not those of the operations"}
	}
	one := in.GetResults()[0]
	if e := one.GetError(); e != nil {
		return nil, judgeStatus(e)
	}
	return &result{get: one.GetGet(), put: one.GetPut(), delete: one.GetDelete(), batch: one.GetBatch(), txn: one.GetTxn()}, nil
}
