package raftkv_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts a cluster and a client of it. Both end with the test, the client first.
func open(t testing.TB, nodes, shards int, opts ...raftkv.Option) (*raftkvtest.Cluster, *raftkv.Client) {
	t.Helper()
	cluster := raftkvtest.New(nodes, shards)
	t.Cleanup(cluster.Close)
	client, err := raftkv.Open(t.Context(), cluster.Endpoints(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return cluster, client
}

// within is a context for calls that must end by themselves before d, which is generous.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// keyOn returns a key of a shard.
func keyOn(t testing.TB, c *raftkvtest.Cluster, shard int) string {
	t.Helper()
	for i := range 10_000 {
		key := "key-" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
		if int(c.ShardOf(key)) == shard {
			return key
		}
	}
	t.Fatalf("no key of shard %d", shard)
	return ""
}
