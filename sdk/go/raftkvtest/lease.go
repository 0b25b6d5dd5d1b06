package raftkvtest

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

type leaseService struct{ *node }

// call executes one method under the hook of calls.
func call[R any](ctx context.Context, n *node, method string, do func() (R, *Error)) (R, error) {
	var none R
	a, err := n.hooked(ctx, method)
	if err != nil {
		return none, err
	}
	n.cluster.mu.Lock()
	r, e := do()
	n.cluster.mu.Unlock()
	if a.DropAfter {
		abort()
	}
	if e != nil {
		return none, e.rpc()
	}
	return r, nil
}

func (s *leaseService) Grant(ctx context.Context, r *raftkvv1.GrantRequest) (*raftkvv1.GrantResponse, error) {
	return call(ctx, s.node, "Grant", func() (*raftkvv1.GrantResponse, *Error) {
		if r.TtlMs == 0 {
			return nil, invalid("ttl_ms: value is required")
		}
		name := fmt.Sprintf("%x/%d", r.GetRequestId().GetClientId(), r.GetRequestId().GetSequence())
		id, kept := s.cluster.granted[name]
		if r.RequestId == nil || !kept {
			s.cluster.lastLease++
			id = s.cluster.lastLease
			ttl := time.Duration(r.TtlMs) * time.Millisecond
			s.cluster.leases[id] = &lease{id: id, ttl: ttl, deadline: s.cluster.now + ttl}
			s.cluster.granted[name] = id
		}
		return &raftkvv1.GrantResponse{
			Header: s.cluster.leaseHeader(id), Lease: &raftkvv1.Lease{Id: id, TtlMs: r.TtlMs, RemainingMs: r.TtlMs},
		}, nil
	})
}

func (s *leaseService) KeepAlive(ctx context.Context, r *raftkvv1.KeepAliveRequest) (*raftkvv1.KeepAliveResponse, error) {
	return call(ctx, s.node, "KeepAlive", func() (*raftkvv1.KeepAliveResponse, *Error) {
		l := s.cluster.leases[r.Id]
		if l == nil {
			return nil, leaseNotFound(r.Id)
		}
		l.deadline = s.cluster.now + l.ttl
		s.cluster.kept[r.Id]++
		return &raftkvv1.KeepAliveResponse{Header: s.cluster.leaseHeader(r.Id), Lease: s.cluster.describeLease(l)}, nil
	})
}

func (s *leaseService) Revoke(ctx context.Context, r *raftkvv1.RevokeRequest) (*raftkvv1.RevokeResponse, error) {
	return call(ctx, s.node, "Revoke", func() (*raftkvv1.RevokeResponse, *Error) {
		name := fmt.Sprintf("%x/%d", r.GetRequestId().GetClientId(), r.GetRequestId().GetSequence())
		l, home := s.cluster.leases[r.Id], s.cluster.slots[placement.SlotOfLease(r.Id)]
		switch {
		case r.RequestId != nil && r.RequestId.Seen < home.floor && s.cluster.revoked[name] != r.Id:
			return nil, sessionExpired(home, home.floor)
		case l != nil:
			s.cluster.endLease(l)
			s.cluster.revoked[name] = r.Id
		case r.RequestId == nil || s.cluster.revoked[name] != r.Id:
			return nil, leaseNotFound(r.Id)
		}
		return &raftkvv1.RevokeResponse{Header: s.cluster.leaseHeader(r.Id)}, nil
	})
}

func (s *leaseService) GetLease(ctx context.Context, r *raftkvv1.GetLeaseRequest) (*raftkvv1.GetLeaseResponse, error) {
	return call(ctx, s.node, "GetLease", func() (*raftkvv1.GetLeaseResponse, *Error) {
		l := s.cluster.leases[r.Id]
		if l == nil {
			return nil, leaseNotFound(r.Id)
		}
		res := &raftkvv1.GetLeaseResponse{Header: s.cluster.leaseHeader(r.Id), Lease: s.cluster.describeLease(l)}
		if !r.Keys {
			return res, nil
		}
		for _, kv := range s.cluster.sortedKeys() {
			if kv.LeaseId != r.Id || r.KeysAfter != "" && kv.Key <= r.KeysAfter {
				continue
			}
			if res.MoreKeys = uint64(len(res.Keys)) == s.cluster.limits.PageItems; res.MoreKeys {
				break
			}
			res.Keys = append(res.Keys, kv.Key)
		}
		return res, nil
	})
}

func (s *leaseService) ListLeases(ctx context.Context, r *raftkvv1.ListLeasesRequest) (*raftkvv1.ListLeasesResponse, error) {
	return call(ctx, s.node, "ListLeases", func() (*raftkvv1.ListLeasesResponse, *Error) {
		after, err := uint64(0), error(nil)
		if r.PageToken != "" {
			if after, err = strconv.ParseUint(r.PageToken, 10, 64); err != nil {
				return nil, invalid("page_token: is not a token that this server made")
			}
		}
		limit := int(r.Limit)
		if limit == 0 {
			limit = 100
		}
		limit = min(limit, int(s.cluster.limits.PageItems))
		res := &raftkvv1.ListLeasesResponse{Header: &raftkvv1.ResponseHeader{ClusterId: s.cluster.id, NodeId: s.id}}
		for _, l := range s.cluster.sortedLeases() {
			if l.id <= after {
				continue
			}
			if len(res.Leases) == limit {
				res.NextPageToken = strconv.FormatUint(res.Leases[limit-1].Id, 10)
				break
			}
			res.Leases = append(res.Leases, s.cluster.describeLease(l))
		}
		return res, nil
	})
}

// KeptAlive is how often a lease was kept alive.
func (c *Cluster) KeptAlive(id uint64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept[id]
}

func (c *Cluster) describeLease(l *lease) *raftkvv1.Lease {
	return &raftkvv1.Lease{Id: l.id, TtlMs: uint64(l.ttl.Milliseconds()), RemainingMs: remaining(l.deadline - c.now)}
}

func (c *Cluster) leaseHeader(id uint64) *raftkvv1.ResponseHeader {
	s := c.slots[placement.SlotOfLease(id)]
	h := &raftkvv1.ResponseHeader{ClusterId: c.id, Shard: uint32(s.id), Term: s.term, RaftIndex: s.index, Revision: s.revision}
	if s.leader >= 0 {
		h.NodeId, h.Role = c.nodes[s.leader].id, raftkvv1.Role_ROLE_LEADER
	}
	return h
}

func leaseNotFound(id uint64) *Error {
	return &Error{
		code: connect.CodeFailedPrecondition, reason: "LEASE_NOT_FOUND", message: "the lease does not exist", decided: true,
		details: []proto.Message{&raftkvv1.LeaseNotFound{LeaseId: id}},
	}
}
