package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// leaseTTLMin is more than a round trip on a busy machine: a lease that ends before its first key is put says little.
const leaseTTLMin = 700 * time.Millisecond

// lease grants a lease, puts keys on it, keeps it alive for a while, and then leaves or revokes it.
func (m *mortals) lease(ctx context.Context, c *client) {
	l := m.grant(c, between(c.random, leaseTTLMin, mortalTTLMax).Truncate(time.Millisecond))
	if l == nil {
		return
	}
	var keys []*nodetest.KeyLife
	for range 1 + c.random.IntN(4) {
		keys = append(keys, m.put(c, l, 0))
	}
	for range c.random.IntN(8) {
		pause(ctx, l.TTL/3)
		if ctx.Err() != nil || !m.keep(c, l) {
			return
		}
		if c.random.IntN(2) == 0 {
			m.keysOf(c, l, keys)
		}
	}
	if c.random.IntN(3) == 0 {
		m.revoke(c, l)
	}
}

// onLease calls a method of leases.
func onLease[A any](m *mortals, c *client, node int, do func(context.Context, raftkvv1connect.LeaseServiceClient) (A, error)) (A, *failure) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	answer, err := do(ctx, m.load.endpoints[node].lease[c.random.IntN(2)])
	if err == nil {
		return answer, nil
	}
	f := judge(err)
	if f.mislabelled != "" {
		m.load.rec.violate("%s: %s", nodeID(node), f.mislabelled)
	}
	return answer, f
}

// grant begins a lease, by attempts that come to one lease. nil: nobody knows whether there is one.
func (m *mortals) grant(c *client, ttl time.Duration) *nodetest.LeaseLife {
	called := m.load.rec.now()
	ask := &raftkvv1.GrantRequest{TtlMs: uint64(ttl.Milliseconds()), RequestId: c.id(placement.MetaShard)} //nolint:gosec // positive
	var granted *raftkvv1.GrantResponse
	_, f, _ := m.sure(c, func(node int) (_ *result, f *failure) {
		granted, f = onLease(m, c, node, func(ctx context.Context, to raftkvv1connect.LeaseServiceClient) (*raftkvv1.GrantResponse, error) {
			return to.Grant(ctx, ask)
		})
		return nil, f
	})
	if f != nil {
		return nil
	}
	if err := leaseRight(granted.GetLease(), granted.GetLease().GetId(), ttl); err != nil {
		m.load.rec.violate("%v", err)
	}
	l := &nodetest.LeaseLife{ID: granted.GetLease().GetId(), TTL: ttl, Shard: placement.ShardID(granted.GetHeader().GetShard()), Kept: []time.Duration{called}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.life.Leases, func(other *nodetest.LeaseLife) bool { return other.ID == l.ID }) {
		m.load.rec.violate("lease %d is granted twice", l.ID)
	}
	m.life.Leases = append(m.life.Leases, l)
	return l
}

// leaseRight says whether a lease is the one that was asked for, and lives no longer than it may.
func leaseRight(l *raftkvv1.Lease, id uint64, ttl time.Duration) error {
	most := uint64(ttl.Milliseconds()) //nolint:gosec // positive
	if l.GetId() != id || id == 0 || l.GetTtlMs() != most || l.GetRemainingMs() == 0 || l.GetRemainingMs() > most {
		return fmt.Errorf("lease %d, granted for %s, is shown as %v", id, ttl, l)
	}
	return nil
}

// keep keeps a lease alive, and says whether it may be alive still.
func (m *mortals) keep(c *client, l *nodetest.LeaseLife) bool {
	called := m.load.rec.now()
	kept, f := onLease(m, c, c.random.IntN(nodes), func(ctx context.Context, to raftkvv1connect.LeaseServiceClient) (*raftkvv1.KeepAliveResponse, error) {
		return to.KeepAlive(ctx, &raftkvv1.KeepAliveRequest{Id: l.ID})
	})
	if f == nil {
		if err := leaseRight(kept.GetLease(), l.ID, l.TTL); err != nil {
			m.load.rec.violate("%v", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f == nil {
		l.Kept = append(l.Kept, called)
	}
	m.gone(l, f)
	return f == nil || !f.leaseGone
}

// revoke ends a lease.
func (m *mortals) revoke(c *client, l *nodetest.LeaseLife) {
	m.mu.Lock()
	l.Revoked = m.load.rec.now()
	m.mu.Unlock()
	ask := &raftkvv1.RevokeRequest{Id: l.ID, RequestId: c.id(l.Shard)}
	m.sure(c, func(node int) (*result, *failure) {
		_, f := onLease(m, c, node, func(ctx context.Context, to raftkvv1connect.LeaseServiceClient) (*raftkvv1.RevokeResponse, error) {
			return to.Revoke(ctx, ask)
		})
		return nil, f
	})
}

// keysOf asks for a lease and its keys: a look at each of those that were put on it.
func (m *mortals) keysOf(c *client, l *nodetest.LeaseLife, own []*nodetest.KeyLife) {
	called := m.load.rec.now()
	got, f := onLease(m, c, c.random.IntN(nodes), func(ctx context.Context, to raftkvv1connect.LeaseServiceClient) (*raftkvv1.GetLeaseResponse, error) {
		return to.GetLease(ctx, &raftkvv1.GetLeaseRequest{Id: l.ID, Keys: true})
	})
	if f != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.gone(l, f)
		return
	}
	if err := leaseRight(got.GetLease(), l.ID, l.TTL); err != nil {
		m.load.rec.violate("%v", err)
	}
	for _, name := range got.GetKeys() {
		if !slices.ContainsFunc(own, func(k *nodetest.KeyLife) bool { return k.Name == name }) {
			m.load.rec.violate("%s is said to hang on lease %d, on which it was not put", name, l.ID)
		}
	}
	for _, k := range own {
		m.looked(k, called, slices.Contains(got.GetKeys(), k.Name))
	}
}
