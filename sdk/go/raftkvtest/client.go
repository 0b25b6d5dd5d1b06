package raftkvtest

import (
	"testing"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// NewClient returns a client of a new cluster, which has one node and one shard, as a cluster has by default. Both end with the test.
func NewClient(t testing.TB, options ...raftkv.Option) *raftkv.Client {
	t.Helper()
	c := New(1, 1)
	t.Cleanup(c.Close)
	return c.Client(t, options...)
}

// Client returns a client of the cluster. It ends with the test.
func (c *Cluster) Client(t testing.TB, options ...raftkv.Option) *raftkv.Client {
	t.Helper()
	client, err := raftkv.Open(t.Context(), c.Endpoints(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
