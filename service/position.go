package service

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// positionVersion is the format of tokens.
const positionVersion = 1

// staleRead is what the fields of a read that say how new it must be ask of the node; nil for one that must be the newest.
func (s *Service) staleRead(c raftkvv1.Consistency, maxMs uint64, token string) (*peerv1.Stale, error) {
	if c != raftkvv1.Consistency_CONSISTENCY_STALE {
		return nil, nil
	}
	stale := &peerv1.Stale{MaxMs: maxMs}
	if token == "" {
		return stale, nil
	}
	p, err := s.position(token)
	if err != nil {
		return nil, err
	}
	stale.Revisions = make(map[uint32]uint64, len(p.GetShards()))
	for _, at := range p.GetShards() {
		stale.Revisions[at.GetShard()] = at.GetRevision()
	}
	return stale, nil
}

// position reads a token that an answer has given.
func (s *Service) position(token string) (*raftkvv1.Position, error) {
	p := new(raftkvv1.Position)
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = p.UnmarshalVT(b)
	}
	problem := ""
	switch cluster := s.identity().cluster; {
	case err != nil || len(p.GetClusterId()) != 16 || len(p.GetShards()) > placement.SlotCount:
		problem = "is not a token that an answer has given"
	case p.GetVersion() != positionVersion:
		problem = "is a token of another release; read without it"
	case cluster == "":
		return nil, raftnode.ErrForming
	case hex.EncodeToString(p.GetClusterId()) != cluster:
		problem = fmt.Sprintf("is of cluster %x, this is %s; read without it", p.GetClusterId(), cluster)
	default:
		return p, nil
	}
	return nil, &raftnode.InvalidError{Field: "token", Problem: problem}
}

// tell gives a header the token of what its answer shows or has done.
func tell(h *raftkvv1.ResponseHeader, at ...raftnode.ShardRevision) {
	cluster, err := hex.DecodeString(h.GetClusterId())
	if err != nil || len(at) == 0 {
		return
	}
	p := &raftkvv1.Position{Version: positionVersion, ClusterId: cluster, Shards: make([]*raftkvv1.Position_Shard, 0, len(at))}
	for _, a := range at {
		p.Shards = append(p.Shards, &raftkvv1.Position_Shard{Shard: uint32(a.Shard), Revision: a.Revision})
	}
	b, err := p.MarshalVT()
	if err != nil {
		return // of numbers and a few bytes it cannot fail
	}
	h.Token = base64.RawURLEncoding.EncodeToString(b)
}

// tellOne is tell for an answer of one shard, whose header says all.
func tellOne(h *raftkvv1.ResponseHeader) {
	tell(h, raftnode.ShardRevision{Shard: placement.ShardID(h.GetShard()), Revision: h.GetRevision()})
}
