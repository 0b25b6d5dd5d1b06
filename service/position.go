package service

import (
	"fmt"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// staleRead is what the fields of a read that say how new it must be ask of the node; nil for one that must be the newest.
func (s *Service) staleRead(c raftkvv1.Consistency, maxMs uint64, token string) (*peerv1.Stale, error) {
	if c != raftkvv1.Consistency_CONSISTENCY_STALE {
		return nil, nil
	}
	stale := &peerv1.Stale{MaxMs: maxMs}
	if token == "" {
		return stale, nil
	}
	at, err := s.position(token)
	if err != nil {
		return nil, err
	}
	stale.Revisions = make(map[uint32]uint64, len(at))
	for _, a := range at {
		stale.Revisions[uint32(a.Shard)] = a.Revision
	}
	return stale, nil
}

// position reads a token that an answer of this cluster has given.
func (s *Service) position(token string) ([]placement.ShardRevision, error) {
	of, at, err := placement.ParsePositionToken(token)
	if err != nil {
		return nil, &raftnode.InvalidError{Field: "token", Problem: err.Error()}
	}
	switch cluster := s.identity().cluster; cluster {
	case of:
		return at, nil
	case "":
		return nil, raftnode.ErrForming
	default:
		return nil, &raftnode.InvalidError{Field: "token", Problem: fmt.Sprintf("is of cluster %s, this is %s; read without it", of, cluster)}
	}
}

// tell gives a header the token of what its answer shows or has done.
func tell(h *raftkvv1.ResponseHeader, at ...placement.ShardRevision) {
	h.Token = placement.PositionToken(h.GetClusterId(), at...)
}

// tellOne is tell for an answer of one shard, whose header says all.
func tellOne(h *raftkvv1.ResponseHeader) {
	tell(h, placement.ShardRevision{Shard: placement.ShardID(h.GetShard()), Revision: h.GetRevision()})
}
