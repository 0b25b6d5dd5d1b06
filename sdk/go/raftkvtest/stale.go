package raftkvtest

import (
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// staleAge is how old a stand-in says that what it shows may be: all nodes share one state, so it is not.
const staleAge = 1

// stale answers a get that need not show the newest: node i does that whoever leads. c.mu is held.
func (c *Cluster) stale(i int, s *shard, o *raftkvv1.ExecOperation_Get) (*raftkvv1.ExecResult, *Error) {
	if e := c.shows(o.Get.Token); e != nil {
		return nil, e
	}
	kv := s.items[o.Get.Key]
	if kv == nil {
		return nil, notFound(s, o.Get.Key, s.revision)
	}
	h := &raftkvv1.ResponseHeader{
		ClusterId: c.id, NodeId: c.nodes[i].id, Shard: uint32(s.id), Term: s.term, RaftIndex: s.index, Revision: s.revision,
		Role: raftkvv1.Role_ROLE_FOLLOWER, FreshnessMs: staleAge,
	}
	if s.leader == i {
		h.Role = raftkvv1.Role_ROLE_LEADER
	}
	return &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Get{Get: &raftkvv1.GetResponse{Header: h, Kv: c.shown(kv)}}}, nil
}

// shows says why the state does not hold what a token names; nil if it does.
func (c *Cluster) shows(token string) *Error {
	if token == "" {
		return nil
	}
	cluster, at, err := placement.ParsePositionToken(token)
	if err != nil {
		return invalid("token is not one that an answer has given")
	}
	if cluster != c.id {
		return invalid("token is of cluster " + cluster + ", this is " + c.id + "; read without it")
	}
	for _, a := range at {
		if int(a.Shard) < len(c.shards) && a.Revision > c.shards[a.Shard].revision {
			return futureRevision(c.shards[a.Shard], a.Revision)
		}
	}
	return nil
}

// token is what the state shows. c.mu is held.
func (c *Cluster) token() string {
	var at []placement.ShardRevision
	for _, s := range c.shards[1:] {
		at = append(at, placement.ShardRevision{Shard: s.id, Revision: s.revision})
	}
	return placement.PositionToken(c.id, at...)
}
