package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

func (c *cluster) do(id placement.NodeID, r *raftnode.Request) raftnode.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longTimeout)
	defer cancel()
	r.AutoShard = true
	return c.nodes[id].Do(ctx, r)
}

func mortalPut(key string, ttlMs, lease uint64) *raftnode.Request {
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte("v"), TtlMs: ttlMs, Lease: lease}
	return &raftnode.Request{Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}}}}
}

func leaseCommand(c *storev1.LeaseCommand) *raftnode.Request {
	return &raftnode.Request{Command: &storev1.Command{Body: &storev1.Command_Lease{Lease: c}}}
}

// awaitGone reads keys until none is there.
func (c *cluster) awaitGone(id placement.NodeID, keys ...string) {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		left := slices.DeleteFunc(slices.Clone(keys), func(k string) bool {
			_, err := c.get(id, k)
			return errors.Is(err, errMissing)
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%q are not gone", left)
		}
	}
}

// What keys and leases of several shards come to is tried in nodetest, in virtual time. This is the same on real goroutines.
func TestKeysAndLeasesEnd(t *testing.T) {
	c := newCluster(t, 3, func(o *raftnode.Options) { o.Shards = 3 })
	const lease = 77
	var keys []string
	for i := range 9 {
		keys = append(keys, fmt.Sprintf("key-%d", i))
	}
	var missing *raftnode.LeaseNotFoundError
	if res := c.do("n1", mortalPut("key", 0, lease)); !errors.As(res.Err, &missing) {
		t.Fatalf("a put on a lease that was not granted: %v", res.Err)
	}
	grant := &storev1.LeaseCommand{Id: lease, Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: 3_600_000}}}
	if res := c.do("n2", leaseCommand(grant)); res.Err != nil || res.Write.GetLeaseTtlMs() != 3_600_000 {
		t.Fatal(res.Write, res.Err)
	}
	for i, k := range keys {
		if res := c.do(c.members[i%3].ID, mortalPut(k, 0, lease)); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	page, err := c.nodes["n3"].Leases(t.Context(), &peerv1.LeaseRead{KeysOf: lease, MaxItems: 5})
	if err != nil || !page.More || !slices.Equal(page.Keys, keys[:5]) {
		t.Errorf("keys of the lease: %v, %v", page, err)
	}
	page, err = c.nodes["n1"].Leases(t.Context(), &peerv1.LeaseRead{})
	if err != nil || len(page.Leases) != 1 || page.Leases[0].GetId() != lease {
		t.Errorf("leases: %v, %v", page, err)
	}
	revoke := &storev1.LeaseCommand{Id: lease, Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: 1}}}
	if res := c.do("n3", leaseCommand(revoke)); res.Err != nil {
		t.Fatal(res.Err)
	}
	c.awaitGone("n1", keys...)
	for i, k := range keys {
		if res := c.do("n1", mortalPut(k, uint64(50+i), 0)); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	c.awaitGone("n2", keys...)
}
