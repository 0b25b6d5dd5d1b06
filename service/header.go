package service

import (
	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// identity says which node of which cluster answers.
type identity struct{ cluster, node string }

// identity returns the cluster and the node; the cluster is empty while it forms. It may ask the node.
func (s *Service) identity() identity {
	if known := s.known.Load(); known != nil {
		return *known
	}
	status := s.node.Status()
	id := identity{status.ClusterID, string(status.NodeID)}
	if id.cluster != "" {
		s.known.Store(&id)
	}
	return id
}

// nodeHeader is the header of an answer that no single shard gave.
func (s *Service) nodeHeader() *raftkvv1.ResponseHeader {
	id := s.identity()
	return &raftkvv1.ResponseHeader{ClusterId: id.cluster, NodeId: id.node}
}

// fillHeader sets every field of h from the origin of an answer.
func (s *Service) fillHeader(h *raftkvv1.ResponseHeader, shard uint32, origin *peerv1.Origin, revision uint64) {
	h.ClusterId = s.identity().cluster
	h.NodeId = origin.GetNodeId()
	h.Shard = shard
	h.Term = origin.GetTerm()
	h.RaftIndex = origin.GetIndex()
	h.Revision = revision
	h.Replayed = false
	switch {
	case origin.GetTerm() == 0: // no single replica served
		h.Role = raftkvv1.Role_ROLE_UNSPECIFIED
	case origin.GetLeader():
		h.Role = raftkvv1.Role_ROLE_LEADER
	case origin.GetLearner():
		h.Role = raftkvv1.Role_ROLE_LEARNER
	default:
		h.Role = raftkvv1.Role_ROLE_FOLLOWER
	}
	h.Token = ""
	h.FreshnessMs, h.FreshnessUnknown = origin.GetFreshnessMs(), origin.GetFreshnessUnknown()
}

// readHeader is the header of a read.
func (s *Service) readHeader(shard uint32, origin *peerv1.Origin) *raftkvv1.ResponseHeader {
	h := new(raftkvv1.ResponseHeader)
	s.fillHeader(h, shard, origin, origin.GetRevision())
	return h
}

// pageHeaders are the header of a page, and those of its parts if several shards have made it.
func (s *Service) pageHeaders(p *raftnode.Page) (h *raftkvv1.ResponseHeader, parts []*raftkvv1.ResponseHeader) {
	h = s.readHeader(uint32(p.Shard), p.Origin)
	at := make([]placement.ShardRevision, len(p.Parts))
	for i, part := range p.Parts {
		at[i] = placement.ShardRevision{Shard: part.Shard, Revision: part.Origin.GetRevision()}
		if len(p.Parts) > 1 {
			of := s.readHeader(uint32(part.Shard), part.Origin)
			of.ClusterId = ""
			parts = append(parts, of)
		}
	}
	tell(h, at...)
	return h, parts
}

// writeHeader is the header of a write.
func (s *Service) writeHeader(r *raftnode.Result) *raftkvv1.ResponseHeader {
	h := new(raftkvv1.ResponseHeader)
	s.fillWriteHeader(h, r)
	return h
}

// fillWriteHeader sets every field of h from the answer to a write.
func (s *Service) fillWriteHeader(h *raftkvv1.ResponseHeader, r *raftnode.Result) {
	s.fillHeader(h, uint32(r.Shard), r.Origin, r.Write.GetRevision())
	h.Replayed = r.Write.GetReplayed()
}
