package main

import (
	"context"
	"errors"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// sdkDriver calls with the Go SDK.
type sdkDriver struct {
	client *raftkv.Client
	leases map[uint64]*raftkv.Lease
}

func (d *sdkDriver) do(t *testing.T, operation string, a map[string]any) (map[string]any, uint64, string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, saved, err := map[string]func(context.Context, *testing.T, map[string]any) (map[string]any, uint64, error){
		"put": d.put, "get": d.get, "delete": d.delete, "scan": d.scan, "batch": d.batch, "txn": d.txn, "watch": d.watch, "grant": d.grant, "revoke": d.revoke,
	}[operation](ctx, t, a)
	return answer, saved, reasonOf(t, err)
}

// reasonOf is the reason that an error of the SDK stands for.
func reasonOf(t *testing.T, err error) string {
	t.Helper()
	var (
		limit  *raftkv.LimitError
		server *raftkv.ServerError
	)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, raftkv.ErrNotFound):
		return "KEY_NOT_FOUND"
	case errors.As(err, new(*raftkv.PreconditionFailedError)):
		return "PRECONDITION_FAILED"
	case errors.As(err, new(*raftkv.FutureRevisionError)):
		return "FUTURE_REVISION"
	case errors.As(err, new(*raftkv.LeaseNotFoundError)), errors.Is(err, raftkv.ErrLeaseLost):
		return "LEASE_NOT_FOUND"
	case errors.As(err, new(*raftkv.CrossShardError)):
		return "CROSS_SHARD"
	case errors.As(err, &limit):
		return "LIMIT_EXCEEDED"
	case errors.As(err, new(*raftkv.InvalidError)):
		return "INVALID"
	case errors.As(err, &server):
		return server.Reason
	}
	t.Fatalf("%T: %v", err, err)
	return ""
}

// conditions of a write, which are options of puts and deletes alike.
func (d *sdkDriver) conditions(a map[string]any) (all []raftkv.Condition) {
	if a["ifAbsent"] == true {
		all = append(all, raftkv.IfAbsent())
	}
	if a["ifExists"] == true {
		all = append(all, raftkv.IfExists())
	}
	if n := numberOf(a, "ifRevision"); n > 0 {
		all = append(all, raftkv.IfRevision(n))
	}
	return all
}

func (d *sdkDriver) put(ctx context.Context, t *testing.T, a map[string]any) (map[string]any, uint64, error) {
	var options []raftkv.PutOption
	for _, c := range d.conditions(a) {
		options = append(options, c)
	}
	if n := numberOf(a, "ttlMs"); n > 0 {
		options = append(options, raftkv.WithTTL(time.Duration(n)*time.Millisecond))
	}
	if id := numberOf(a, "lease"); id > 0 {
		options = append(options, raftkv.WithLease(d.leases[id]))
	}
	r, err := d.client.Put(ctx, textOf(a, "key"), valueOf(t, a), options...)
	return map[string]any{"version": r.Version}, r.Revision, err
}

func (d *sdkDriver) get(ctx context.Context, _ *testing.T, a map[string]any) (map[string]any, uint64, error) {
	var options []raftkv.GetOption
	if n := numberOf(a, "revision"); n > 0 {
		options = append(options, raftkv.AtRevision(n))
	}
	if a["stale"] == true {
		options = append(options, raftkv.AtLeast(d.client.Token()))
	}
	item, err := d.client.Get(ctx, textOf(a, "key"), options...)
	return found(item.Value, item.Version), item.ModRevision, err
}

func (d *sdkDriver) delete(ctx context.Context, _ *testing.T, a map[string]any) (map[string]any, uint64, error) {
	var options []raftkv.DeleteOption
	for _, c := range d.conditions(a) {
		options = append(options, c)
	}
	r, err := d.client.Delete(ctx, textOf(a, "key"), options...)
	return map[string]any{"deleted": r.Deleted}, r.Revision, err
}

func (d *sdkDriver) scan(ctx context.Context, _ *testing.T, a map[string]any) (map[string]any, uint64, error) {
	items := [][]string{}
	for item, err := range d.client.Scan(ctx, raftkv.Prefix(textOf(a, "prefix")), raftkv.ScanOptions{Limit: int(numberOf(a, "limit")), Reverse: a["reverse"] == true}) {
		if err != nil {
			return nil, 0, err
		}
		items = append(items, []string{item.Key, string(item.Value)})
	}
	return map[string]any{"items": items}, 0, nil
}

// operations of a batch or transaction.
func (d *sdkDriver) operations(t *testing.T, list []map[string]any) (all []raftkv.Op) {
	for _, o := range list {
		for kind, fields := range o {
			a := fields.(map[string]any)
			switch kind {
			case "put":
				all = append(all, raftkv.PutOp(textOf(a, "key"), valueOf(t, a)))
			case "get":
				all = append(all, raftkv.GetOp(textOf(a, "key")))
			case "delete":
				all = append(all, raftkv.DeleteOp(textOf(a, "key")))
			}
		}
	}
	return all
}

func (d *sdkDriver) batch(ctx context.Context, t *testing.T, a map[string]any) (map[string]any, uint64, error) {
	r, err := d.client.Batch(ctx, d.operations(t, listOf(a, "operations"))...)
	return map[string]any{"applied": len(r.Results)}, r.Revision, err
}

func (d *sdkDriver) txn(ctx context.Context, t *testing.T, a map[string]any) (map[string]any, uint64, error) {
	txn := raftkv.Txn{Then: d.operations(t, listOf(a, "then")), Else: d.operations(t, listOf(a, "else"))}
	for _, c := range listOf(a, "if") {
		key := textOf(c, "key")
		switch {
		case c["exists"] == true:
			txn.If = append(txn.If, raftkv.Exists(key))
		case c["exists"] == false:
			txn.If = append(txn.If, raftkv.Absent(key))
		case c["revision"] != nil:
			txn.If = append(txn.If, raftkv.RevisionIs(key, numberOf(c, "revision")))
		default:
			txn.If = append(txn.If, raftkv.ValueIs(key, valueOf(t, c)))
		}
	}
	r, err := d.client.Txn(ctx, txn)
	done := listOf(a, "then")
	if !r.Succeeded {
		done = listOf(a, "else")
	}
	gets := []any{}
	for i, result := range r.Results {
		switch {
		case done[i]["get"] == nil:
		case result.Item == nil:
			gets = append(gets, nil)
		default:
			gets = append(gets, string(result.Item.Value))
		}
	}
	return map[string]any{"succeeded": r.Succeeded, "gets": gets}, r.Revision, err
}

func (d *sdkDriver) watch(ctx context.Context, _ *testing.T, a map[string]any) (map[string]any, uint64, error) {
	var options []raftkv.WatchOption
	if n := numberOf(a, "from"); n > 0 {
		options = append(options, raftkv.FromRevision(n))
	}
	if a["initial"] == true {
		options = append(options, raftkv.IncludeInitial())
	}
	events := [][]string{}
	for e, err := range d.client.Watch(ctx, raftkv.Prefix(textOf(a, "prefix")), options...) {
		if err != nil {
			return nil, 0, err
		}
		kind := "put"
		switch {
		case e.Initial:
			kind = "initial"
		case e.Type == raftkv.EventDelete:
			kind = "delete"
		}
		events = append(events, []string{kind, e.Item.Key, string(e.Item.Value)})
		if len(events) == int(numberOf(a, "count")) {
			break
		}
	}
	return map[string]any{"events": events}, 0, nil
}

func (d *sdkDriver) grant(ctx context.Context, _ *testing.T, a map[string]any) (map[string]any, uint64, error) {
	lease, err := d.client.Grant(ctx, time.Duration(numberOf(a, "ttlMs"))*time.Millisecond, raftkv.WithoutKeepAlive())
	if err != nil {
		return nil, 0, err
	}
	d.leases[uint64(lease.ID())] = lease
	return map[string]any{}, uint64(lease.ID()), nil
}

func (d *sdkDriver) revoke(ctx context.Context, _ *testing.T, a map[string]any) (map[string]any, uint64, error) {
	return map[string]any{}, 0, raftkv.RevokeLease(ctx, d.client, raftkv.LeaseID(numberOf(a, "lease")))
}
