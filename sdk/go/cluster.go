package raftkv

import (
	"context"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Cluster asks about the cluster itself, and changes it: Client.Cluster makes one.
type Cluster struct{ client *Client }

// Cluster is for what concerns nodes and shards instead of keys.
func (c *Client) Cluster() Cluster { return Cluster{c} }

// Status describes the node at address (host:port), or any node if that is empty.
func (c Cluster) Status(ctx context.Context, address string) (*raftkvv1.StatusResponse, error) {
	at, err := c.endpointAt(address)
	if err != nil {
		return nil, err
	}
	var response *raftkvv1.StatusResponse
	err = c.client.unary(ctx, "status", at, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.cluster.Status(ctx, &raftkvv1.StatusRequest{})
		return err
	})
	return response, err
}

// Nodes lists the nodes of the cluster.
func (c Cluster) Nodes(ctx context.Context) ([]*raftkvv1.Node, error) {
	var response *raftkvv1.ListNodesResponse
	err := c.client.unary(ctx, "list nodes", nil, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.cluster.ListNodes(ctx, &raftkvv1.ListNodesRequest{})
		return err
	})
	return response.GetNodes(), err
}

// Shards lists the shards, the meta shard first.
func (c Cluster) Shards(ctx context.Context) ([]*raftkvv1.Shard, error) {
	var response *raftkvv1.ListShardsResponse
	err := c.client.unary(ctx, "list shards", nil, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.cluster.ListShards(ctx, &raftkvv1.ListShardsRequest{})
		return err
	})
	return response.GetShards(), err
}

// Limits returns the bounds that requests must keep.
func (c Cluster) Limits(ctx context.Context) (*raftkvv1.Limits, error) {
	var response *raftkvv1.GetLimitsResponse
	err := c.client.unary(ctx, "get limits", nil, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.cluster.GetLimits(ctx, &raftkvv1.GetLimitsRequest{})
		return err
	})
	return response.GetLimits(), err
}

// Locate says where key lives, as a node knows it.
func (c Cluster) Locate(ctx context.Context, key string) (*raftkvv1.LocateKeyResponse, error) {
	if err := c.client.check("locate", key, nil); err != nil {
		return nil, err
	}
	var response *raftkvv1.LocateKeyResponse
	err := c.client.unary(ctx, "locate "+quote(key), nil, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.cluster.LocateKey(ctx, &raftkvv1.LocateKeyRequest{Key: key})
		return err
	})
	return response, err
}

// TransferLeader hands the lead of a shard to another node, and returns once that node leads.
func (c Cluster) TransferLeader(ctx context.Context, shard placement.ShardID, to placement.NodeID) (*raftkvv1.TransferLeaderResponse, error) {
	var response *raftkvv1.TransferLeaderResponse
	request := &raftkvv1.TransferLeaderRequest{Shard: uint32(shard), NodeId: string(to)}
	err := c.client.unary(ctx, "transfer leader", nil, changes, func(ctx context.Context, e *endpoint) (err error) {
		response, err = e.cluster.TransferLeader(ctx, request)
		return err
	})
	if err == nil {
		c.client.routes.learnSoon()
	}
	return response, err
}

// endpointAt returns an endpoint at address; nil, which is any, if that is empty. It is for unary calls, and stays out of
// the endpoints to which other requests go: only this one node was asked for.
func (c Cluster) endpointAt(address string) (*endpoint, error) {
	if address == "" {
		return nil, nil
	}
	_, addresses, err := resolve([]string{address}, nil)
	if err != nil {
		return nil, &CallError{Operation: "status", Err: &InvalidError{Problem: err.Error()}}
	}
	return newEndpoint(c.client, addresses[0]), nil
}
