package raftkvtest

import (
	"context"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

type clusterService struct{ *node }

func (s *clusterService) Status(context.Context, *raftkvv1.StatusRequest) (*raftkvv1.StatusResponse, error) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	return &raftkvv1.StatusResponse{ClusterId: s.cluster.id, NodeId: s.id, Version: "test", Ready: true, Shards: s.cluster.describe()}, nil
}

func (s *clusterService) ListNodes(context.Context, *raftkvv1.ListNodesRequest) (*raftkvv1.ListNodesResponse, error) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	r := &raftkvv1.ListNodesResponse{}
	for _, n := range s.cluster.nodes {
		r.Nodes = append(r.Nodes, &raftkvv1.Node{Id: n.id, ClientAddress: n.address, Reachable: n.server != nil})
	}
	return r, nil
}

func (s *clusterService) ListShards(context.Context, *raftkvv1.ListShardsRequest) (*raftkvv1.ListShardsResponse, error) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	return &raftkvv1.ListShardsResponse{Shards: s.cluster.describe(), MapVersion: 1}, nil
}

func (s *clusterService) LocateKey(_ context.Context, r *raftkvv1.LocateKeyRequest) (*raftkvv1.LocateKeyResponse, error) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	slot := placement.SlotOf(r.Key)
	sh := s.cluster.slots[slot]
	return &raftkvv1.LocateKeyResponse{
		RoutingPart: placement.RoutingPart(r.Key), Slot: uint32(slot), Shard: uint32(sh.id), LeaderNodeId: s.cluster.leaderID(sh),
	}, nil
}

func (s *clusterService) GetLimits(context.Context, *raftkvv1.GetLimitsRequest) (*raftkvv1.GetLimitsResponse, error) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	return &raftkvv1.GetLimitsResponse{Limits: s.cluster.limits}, nil
}

func (s *clusterService) TransferLeader(_ context.Context, r *raftkvv1.TransferLeaderRequest) (*raftkvv1.TransferLeaderResponse, error) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	for i, n := range s.cluster.nodes {
		if n.id == r.NodeId && int(r.Shard) < len(s.cluster.shards) {
			sh := s.cluster.shards[r.Shard]
			sh.leader = i
			sh.term++
			return &raftkvv1.TransferLeaderResponse{LeaderNodeId: n.id, Term: sh.term}, nil
		}
	}
	return nil, invalid("no such node or shard").rpc()
}

func (c *Cluster) leaderID(s *shard) string {
	if s.leader < 0 {
		return ""
	}
	return c.nodes[s.leader].id
}

// describe lists the shards. c.mu is held.
func (c *Cluster) describe() []*raftkvv1.Shard {
	var all []*raftkvv1.Shard
	for _, s := range c.shards {
		d := &raftkvv1.Shard{Id: uint32(s.id), LeaderNodeId: c.leaderID(s), Term: s.term, Revision: s.revision}
		for slot, owner := range c.slots {
			if owner != s {
				continue
			}
			n := len(d.Slots)
			if n > 0 && d.Slots[n-1].Last == uint32(slot)-1 {
				d.Slots[n-1].Last++
				continue
			}
			d.Slots = append(d.Slots, &raftkvv1.SlotRange{First: uint32(slot), Last: uint32(slot)})
		}
		for i, n := range c.nodes {
			role := raftkvv1.Role_ROLE_FOLLOWER
			if i == s.leader {
				role = raftkvv1.Role_ROLE_LEADER
			}
			d.Replicas = append(d.Replicas, &raftkvv1.Replica{Id: uint64(i + 1), NodeId: n.id, Role: role})
		}
		all = append(all, d)
	}
	return all
}
