package raftkv

import (
	"context"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// Future is what comes of a call of Async. It is safe for concurrent use.
type Future[T any] struct {
	flight flight
	read   func(*op, *raftkvv1.ExecResult) (T, error)
	// done is closed when value and err are set.
	done  chan struct{}
	value T
	err   error
}

// Done is closed when the call has ended.
func (f *Future[T]) Done() <-chan struct{} { return f.done }

// Wait returns what came of the call, with the errors of the call without Async. If ctx ends first, its error is returned and the call goes on:
// what ends the call is the context with which it was started.
func (f *Future[T]) Wait(ctx context.Context) (T, error) {
	select {
	case <-f.done:
		return f.value, f.err
	default:
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (f *Future[T]) settle(o *op, r *raftkvv1.ExecResult, err error) {
	if err == nil {
		f.value, err = f.read(o, r)
	}
	f.err = err
	close(f.done)
}

// Async starts calls without waiting for them. They share messages, identities and retries with all others; there is no goroutine for a call but while it is
// retried. As many as WithAsyncLimit says are under way at once: past that, starting one waits for another to end, or for the end of its context.
type Async struct{ client *Client }

// Async returns the client with calls that do not wait.
func (c *Client) Async() Async { return Async{c} }

// Get is Client.Get without waiting.
func (a Async) Get(ctx context.Context, key string, options ...GetOption) *Future[Item] {
	o, err := a.client.newGet(key, options)
	return launch(ctx, a.client, o, err, readGet)
}

// Put is Client.Put without waiting. It does not keep value.
func (a Async) Put(ctx context.Context, key string, value []byte, options ...PutOption) *Future[Result] {
	o, err := a.client.newPut(key, value, options)
	return launch(ctx, a.client, o, err, readPut)
}

// Delete is Client.Delete without waiting.
func (a Async) Delete(ctx context.Context, key string, options ...DeleteOption) *Future[Result] {
	o, err := a.client.newDelete(key, options)
	return launch(ctx, a.client, o, err, readDelete)
}

// Batch is Client.Batch without waiting.
func (a Async) Batch(ctx context.Context, operations ...Op) *Future[BatchResult] {
	o, err := a.client.newBatch(operations)
	return launch(ctx, a.client, o, err, readBatch)
}

// Txn is Client.Txn without waiting.
func (a Async) Txn(ctx context.Context, t Txn) *Future[TxnResult] {
	o, err := a.client.newTxn(&t)
	return launch(ctx, a.client, o, err, readTxn)
}

// launch starts the call of o, unless it is refused already.
func launch[T any](ctx context.Context, c *Client, o *op, refused error, read func(*op, *raftkvv1.ExecResult) (T, error)) *Future[T] {
	f := &Future[T]{read: read, done: make(chan struct{})}
	if refused != nil {
		f.settle(nil, nil, refused)
		return f
	}
	f.flight = flight{client: c, ctx: ctx, op: o, future: f}
	f.flight.start()
	return f
}
