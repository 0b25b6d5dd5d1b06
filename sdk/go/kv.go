package raftkv

import (
	"context"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// keyBytesMax is fixed by the contract.
const keyBytesMax = 4 << 10

// Item is a key, its value and where the pair stands in the history of its shard.
type Item struct {
	Key   string
	Value []byte
	// CreateRevision is the revision at which the key came into being; ModRevision that of the last write. Revisions
	// compare for one key and for keys of one {tag} only.
	CreateRevision, ModRevision uint64
	// Version is how often the key was written since it came into being.
	Version uint64
	// TTL is what is left of the time to live of the key, as the answering node knows; 0 if it lives for ever or hangs on a lease.
	TTL time.Duration
	// Lease is the one on which the key hangs; 0 for none.
	Lease LeaseID
	// Age is how old the state may be that a read shows; 0 unless the read allows for that, AgeUnknown if it is not known.
	Age time.Duration
}

// Result is what a write did.
type Result struct {
	// Revision is the one that the write made, or the current one if it changed nothing.
	Revision uint64
	Shard    placement.ShardID
	// CreateRevision and Version are as in Item, after a put; 0 after a delete.
	CreateRevision, Version uint64
	// Deleted says that there was a key to delete.
	Deleted bool
	// Previous is the item as it was before, if that was asked for and it existed.
	Previous *Item
	// Item is what a GetOp of a transaction found; nil if there is no such key.
	Item *Item
}

// BatchResult is what a batch did.
type BatchResult struct {
	// Revision is the one that the batch made.
	Revision uint64
	Shard    placement.ShardID
	// Results are those of the operations, in their order.
	Results []Result
}

// Op is one operation of a batch or of a transaction.
type Op struct {
	kind     opKind
	key      string
	value    []byte
	previous bool
	life     life
}

// opKind is what an Op does.
type opKind int

const (
	opPuts opKind = iota
	opDeletes
	opGets
)

// PutOp writes value at key, for ever unless life says how long.
func PutOp(key string, value []byte, life ...Life) Op {
	return Op{key: key, value: value, life: lifeOf(life)}
}

// DeleteOp removes key.
func DeleteOp(key string) Op { return Op{kind: opDeletes, key: key} }

// GetOp reads key, in a transaction.
func GetOp(key string) Op { return Op{kind: opGets, key: key} }

// WithPrevious is the same write, which in a transaction also returns the item as it was before.
func (o Op) WithPrevious() Op {
	o.previous = o.kind != opGets
	return o
}

// Get returns the item at key, or an ErrNotFound. It sees every write that was acknowledged before it began, unless an option says otherwise.
func (c *Client) Get(ctx context.Context, key string, options ...GetOption) (Item, error) {
	o, err := c.newGet(key, options)
	if err != nil {
		return Item{}, err
	}
	defer o.release()
	r, err := c.do(ctx, o)
	if err != nil {
		return Item{}, err
	}
	return readGet(o, r)
}

func (c *Client) newGet(key string, options []GetOption) (*op, error) {
	if err := c.check("get", key, nil); err != nil {
		return nil, err
	}
	var g getOptions
	for _, option := range options {
		option.applyGet(&g)
	}
	if g.stale.use && g.revision != 0 {
		return nil, &CallError{Operation: "get " + quote(key), Err: &InvalidError{Problem: "AtRevision does not go with StaleWithin and AtLeast: any replica that has the revision shows it without asking others"}}
	}
	o := newOp("get", key)
	o.spread = c.options.followerReads || g.stale.use
	o.setGet(g.revision)
	if err := g.stale.ask(&o.getRequest.Consistency, &o.getRequest.MaxStalenessMs, &o.getRequest.Token); err != nil {
		o.release()
		return nil, &CallError{Operation: "get " + quote(key), Err: err}
	}
	return o, nil
}

func readGet(o *op, r *raftkvv1.ExecResult) (Item, error) {
	get, ok := r.Result.(*raftkvv1.ExecResult_Get)
	if !ok {
		return Item{}, mixedUp(o, r)
	}
	item := itemOf(get.Get.GetKv())
	item.Age = ageOf(get.Get.GetHeader())
	return item, nil
}

// Put writes value at key, under the condition and for the time that options say. It does not keep value.
func (c *Client) Put(ctx context.Context, key string, value []byte, options ...PutOption) (Result, error) {
	o, err := c.newPut(key, value, options)
	if err != nil {
		return Result{}, err
	}
	defer o.release()
	r, err := c.do(ctx, o)
	if err != nil {
		return Result{}, err
	}
	return readPut(o, r)
}

func (c *Client) newPut(key string, value []byte, options []PutOption) (*op, error) {
	if err := c.check("put", key, value); err != nil {
		return nil, err
	}
	var w writeOptions
	for _, option := range options {
		option.applyPut(&w)
	}
	condition, err := w.condition()
	if err != nil {
		return nil, &CallError{Operation: "put " + quote(key), Err: err}
	}
	ttl, lease, err := w.life.resolve("")
	if err != nil {
		return nil, &CallError{Operation: "put " + quote(key), Err: err}
	}
	o := newOp("put", key)
	o.setPut(value, condition, w.previous)
	o.putRequest.TtlMs, o.putRequest.LeaseId = ttl, lease
	return o, nil
}

func readPut(o *op, r *raftkvv1.ExecResult) (Result, error) {
	put, ok := r.Result.(*raftkvv1.ExecResult_Put)
	if !ok {
		return Result{}, mixedUp(o, r)
	}
	return putResult(put.Put, put.Put.GetHeader()), nil
}

// Delete removes key, under the condition that options say. Without one, deleting a key that does not exist succeeds and changes nothing.
func (c *Client) Delete(ctx context.Context, key string, options ...DeleteOption) (Result, error) {
	o, err := c.newDelete(key, options)
	if err != nil {
		return Result{}, err
	}
	defer o.release()
	r, err := c.do(ctx, o)
	if err != nil {
		return Result{}, err
	}
	return readDelete(o, r)
}

func (c *Client) newDelete(key string, options []DeleteOption) (*op, error) {
	if err := c.check("delete", key, nil); err != nil {
		return nil, err
	}
	var w writeOptions
	for _, option := range options {
		option.applyDelete(&w)
	}
	condition, err := w.condition()
	if err != nil {
		return nil, &CallError{Operation: "delete " + quote(key), Err: err}
	}
	o := newOp("delete", key)
	o.setDelete(condition, w.previous)
	return o, nil
}

func readDelete(o *op, r *raftkvv1.ExecResult) (Result, error) {
	del, ok := r.Result.(*raftkvv1.ExecResult_Delete)
	if !ok {
		return Result{}, mixedUp(o, r)
	}
	return deleteResult(del.Delete, del.Delete.GetHeader()), nil
}

// Batch applies operations all together or not at all, under one revision. Their keys must live on one shard, which keys with
// the same {tag} do; otherwise the error is a *CrossShardError. A batch may touch a key once.
func (c *Client) Batch(ctx context.Context, operations ...Op) (BatchResult, error) {
	o, err := c.newBatch(operations)
	if err != nil {
		return BatchResult{}, err
	}
	defer o.release()
	r, err := c.do(ctx, o)
	if err != nil {
		return BatchResult{}, err
	}
	return readBatch(o, r)
}

func (c *Client) newBatch(operations []Op) (*op, error) {
	if err := c.checkBatch(operations); err != nil {
		return nil, err
	}
	o := newOp("batch of "+strconv.Itoa(len(operations))+" from", operations[0].key)
	o.setBatch(operations)
	return o, nil
}

func readBatch(o *op, r *raftkvv1.ExecResult) (BatchResult, error) {
	batch, ok := r.Result.(*raftkvv1.ExecResult_Batch)
	if !ok || len(batch.Batch.GetResults()) != len(o.batchRequest.Operations) {
		return BatchResult{}, mixedUp(o, r)
	}
	h := batch.Batch.GetHeader()
	result := BatchResult{Revision: h.GetRevision(), Shard: placement.ShardID(h.GetShard())}
	for _, one := range batch.Batch.Results {
		switch one := one.Result.(type) {
		case *raftkvv1.BatchResult_Put:
			result.Results = append(result.Results, putResult(one.Put, h))
		case *raftkvv1.BatchResult_Delete:
			result.Results = append(result.Results, deleteResult(one.Delete, h))
		default:
			return BatchResult{}, mixedUp(o, r)
		}
	}
	return result, nil
}

func itemOf(kv *raftkvv1.KeyValue) Item {
	return Item{
		Key:            kv.GetKey(),
		Value:          kv.GetValue(),
		CreateRevision: kv.GetCreateRevision(),
		ModRevision:    kv.GetModRevision(),
		Version:        kv.GetVersion(),
		TTL:            millis(kv.GetTtlRemainingMs()),
		Lease:          LeaseID(kv.GetLeaseId()),
	}
}

func itemOrNil(kv *raftkvv1.KeyValue) *Item {
	if kv == nil {
		return nil
	}
	item := itemOf(kv)
	return &item
}

func putResult(p *raftkvv1.PutResponse, h *raftkvv1.ResponseHeader) Result {
	return Result{
		Revision:       h.GetRevision(),
		Shard:          placement.ShardID(h.GetShard()),
		CreateRevision: p.GetCreateRevision(),
		Version:        p.GetVersion(),
		Previous:       itemOrNil(p.GetPrevKv()),
	}
}

func deleteResult(d *raftkvv1.DeleteResponse, h *raftkvv1.ResponseHeader) Result {
	return Result{Revision: h.GetRevision(), Shard: placement.ShardID(h.GetShard()), Deleted: d.GetDeleted(), Previous: itemOrNil(d.GetPrevKv())}
}

// mixedUp is for an answer of another kind than the operation. A server that sends one is broken, so nothing can be
// said about a write.
func mixedUp(o *op, r *raftkvv1.ExecResult) error {
	err := fmt.Errorf("the node answered with %T", r.Result)
	if o.write {
		return &OutcomeUnknownError{Operation: o.name + " " + quote(o.key), Err: err}
	}
	return &CallError{Operation: o.name + " " + quote(o.key), Err: err}
}

// check refuses what the servers would refuse, so that it does not travel, and so that a message which passes the
// bound of a stream cannot end the stream for the others on it.
func (c *Client) check(name, key string, value []byte) error {
	if err := c.checkPart("", key, value); err != nil {
		return &CallError{Operation: name + " " + quote(key), Err: err}
	}
	return nil
}

// checkPart checks one key and its value; at is where they are in the request.
func (c *Client) checkPart(at, key string, value []byte) error {
	limit := c.routes.limits.Load().ValueBytes
	switch {
	case key == "":
		return &InvalidError{Problem: at + "key must not be empty"}
	case len(key) > keyBytesMax:
		return &LimitError{Field: at + "key", Limit: keyBytesMax, Actual: uint64(len(key))}
	case !utf8.ValidString(key):
		return &InvalidError{Problem: at + "key must be valid UTF-8"}
	case limit > 0 && uint64(len(value)) > limit:
		return &LimitError{Field: at + "value", Limit: limit, Actual: uint64(len(value))}
	default:
		return nil
	}
}

func (c *Client) checkBatch(operations []Op) error {
	limits := c.routes.limits.Load()
	if len(operations) == 0 {
		return &CallError{Operation: "batch", Err: &InvalidError{Problem: "operations must not be empty"}}
	}
	if n := uint64(len(operations)); limits.BatchOperations > 0 && n > limits.BatchOperations {
		return &CallError{Operation: "batch", Err: &LimitError{Field: "operations", Limit: limits.BatchOperations, Actual: n}}
	}
	bytes := uint64(0)
	for i, o := range operations {
		at := "operations[" + strconv.Itoa(i) + "]."
		err := c.checkPart(at, o.key, o.value)
		if err == nil {
			_, _, err = o.life.resolve(at)
		}
		if err == nil && (o.kind == opGets || o.previous) {
			err = &InvalidError{Problem: at + "operation reads: a batch only writes, use a transaction"}
		}
		if err != nil {
			return &CallError{Operation: "batch " + quote(o.key), Err: err}
		}
		bytes += uint64(len(o.key) + len(o.value))
	}
	if limits.BatchBytes > 0 && bytes > limits.BatchBytes {
		return &CallError{Operation: "batch", Err: &LimitError{Field: "operations", Limit: limits.BatchBytes, Actual: bytes}}
	}
	return nil
}

// quotedKeyMax bounds what an error shows of a key.
const quotedKeyMax = 64

func quote(key string) string {
	if len(key) > quotedKeyMax {
		return strconv.Quote(key[:quotedKeyMax]) + "…"
	}
	return strconv.Quote(key)
}
