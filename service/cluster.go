package service

import (
	"context"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// cluster has the methods of ClusterService.
type cluster struct{ *Service }

// Status describes the node.
func (s cluster) Status(ctx context.Context, req *raftkvv1.StatusRequest) (*raftkvv1.StatusResponse, error) {
	return invoke(ctx, s.Service, opStatus, req, func(context.Context, *raftkvv1.StatusRequest) (*raftkvv1.StatusResponse, error) {
		st := s.node.Status()
		return &raftkvv1.StatusResponse{
			Header:    s.nodeHeader(),
			ClusterId: st.ClusterID,
			NodeId:    string(st.NodeID),
			Version:   s.version,
			Ready:     len(st.NotReady) == 0,
			NotReady:  st.NotReady,
			UptimeMs:  uint64(max(st.Uptime.Milliseconds(), 0)),
			LogBytes:  st.LogBytes, StateBytes: st.StateBytes,
			SyncWrite: st.SyncWrite, DiskFreeBytes: st.DiskFree, DiskReserveBytes: st.DiskReserve, DiskFull: st.DiskFull,
			Shards: shardMessages(st.Shards),
		}, nil
	})
}

// ListNodes lists the nodes.
func (s cluster) ListNodes(ctx context.Context, req *raftkvv1.ListNodesRequest) (*raftkvv1.ListNodesResponse, error) {
	return invoke(ctx, s.Service, opListNodes, req, func(context.Context, *raftkvv1.ListNodesRequest) (*raftkvv1.ListNodesResponse, error) {
		nodes := s.node.Nodes()
		res := &raftkvv1.ListNodesResponse{Header: s.nodeHeader(), Nodes: make([]*raftkvv1.Node, 0, len(nodes))}
		for i := range nodes {
			n := &nodes[i]
			res.Nodes = append(res.Nodes, &raftkvv1.Node{
				Id: string(n.ID), ClientAddress: n.ClientAddress, PeerAddress: n.PeerAddress, Reachable: n.Reachable,
				Shards: shardIDs(n.Shards), Leads: shardIDs(n.Leads),
			})
		}
		return res, nil
	})
}

// ListShards lists the shards.
func (s cluster) ListShards(ctx context.Context, req *raftkvv1.ListShardsRequest) (*raftkvv1.ListShardsResponse, error) {
	return invoke(ctx, s.Service, opListShards, req, func(context.Context, *raftkvv1.ListShardsRequest) (*raftkvv1.ListShardsResponse, error) {
		shards, version := s.node.Shards()
		return &raftkvv1.ListShardsResponse{Header: s.nodeHeader(), Shards: shardMessages(shards), MapVersion: version}, nil
	})
}

// LocateKey says where a key lives.
func (s cluster) LocateKey(ctx context.Context, req *raftkvv1.LocateKeyRequest) (*raftkvv1.LocateKeyResponse, error) {
	return invoke(ctx, s.Service, opLocateKey, req, func(_ context.Context, req *raftkvv1.LocateKeyRequest) (*raftkvv1.LocateKeyResponse, error) {
		l := s.node.Locate(req.GetKey())
		return &raftkvv1.LocateKeyResponse{
			Header:      s.nodeHeader(),
			RoutingPart: l.RoutingPart, Slot: uint32(l.Slot), Shard: uint32(l.Shard), LeaderNodeId: string(l.Leader),
		}, nil
	})
}

// GetLimits returns the limits.
func (s cluster) GetLimits(ctx context.Context, req *raftkvv1.GetLimitsRequest) (*raftkvv1.GetLimitsResponse, error) {
	return invoke(ctx, s.Service, opGetLimits, req, func(context.Context, *raftkvv1.GetLimitsRequest) (*raftkvv1.GetLimitsResponse, error) {
		return &raftkvv1.GetLimitsResponse{Header: s.nodeHeader(), Limits: s.limits.message()}, nil
	})
}

// TransferLeader hands the lead of a shard over.
func (s cluster) TransferLeader(ctx context.Context, req *raftkvv1.TransferLeaderRequest) (*raftkvv1.TransferLeaderResponse, error) {
	return invoke(ctx, s.Service, opTransferLeader, req, func(ctx context.Context, req *raftkvv1.TransferLeaderRequest) (*raftkvv1.TransferLeaderResponse, error) {
		term, err := s.node.TransferLeader(ctx, placement.ShardID(req.GetShard()), placement.NodeID(req.GetNodeId()))
		if err != nil {
			return nil, err
		}
		header := s.nodeHeader()
		header.Shard, header.Term = req.GetShard(), term
		return &raftkvv1.TransferLeaderResponse{Header: header, LeaderNodeId: req.GetNodeId(), Term: term}, nil
	})
}

func shardIDs(ids []placement.ShardID) []uint32 {
	out := make([]uint32, len(ids))
	for i, id := range ids {
		out[i] = uint32(id)
	}
	return out
}

func shardMessages(shards []raftnode.ShardStatus) []*raftkvv1.Shard {
	out := make([]*raftkvv1.Shard, 0, len(shards))
	for i := range shards {
		out = append(out, shardMessage(&shards[i]))
	}
	return out
}

func shardMessage(s *raftnode.ShardStatus) *raftkvv1.Shard {
	m := &raftkvv1.Shard{
		Id: uint32(s.ID), LeaderNodeId: string(s.Leader),
		Term: s.Term, CommitIndex: s.Commit, AppliedIndex: s.Applied, DurableIndex: s.Durable,
		FirstLogIndex: s.FirstLogIndex, LastLogIndex: s.LastIndex, Revision: s.Revision,
	}
	for _, run := range s.Slots.GetRuns() {
		if run.GetState() == storev1.SlotState_SLOT_STATE_SERVING {
			m.Slots = append(m.Slots, &raftkvv1.SlotRange{First: run.GetFirst(), Last: run.GetLast()})
		}
	}
	for _, r := range s.Replicas {
		role := raftkvv1.Role_ROLE_FOLLOWER
		switch {
		case r.Leader:
			role = raftkvv1.Role_ROLE_LEADER
		case r.Learner:
			role = raftkvv1.Role_ROLE_LEARNER
		}
		m.Replicas = append(m.Replicas, &raftkvv1.Replica{Id: r.ID, NodeId: string(r.NodeID), Role: role, MatchIndex: r.Match})
	}
	return m
}
