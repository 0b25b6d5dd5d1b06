package raftnode

import (
	"errors"
	"fmt"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// A request that comes to a shard which does not serve its slot is refused where it is executed, whoever has routed it there (R17).
func TestSlotsAreCheckedWhereRequestsAreExecuted(t *testing.T) {
	n := alone(t, func(o *Options) { o.Shards = 2 })
	key := ""
	for i := 0; key == ""; i++ {
		if k := fmt.Sprintf("key-%d", i); n.Route(k) == 1 {
			key = k
		}
	}
	write := putOf(key, 1)
	if res := n.Do(t.Context(), write); res.Err != nil {
		t.Fatal(res.Err)
	}
	astray := func(r *Request) {
		t.Helper()
		r.AutoShard, r.Shard = false, 2
		var stale *StaleRouteError
		if res := n.Do(t.Context(), r); !errors.As(res.Err, &stale) || stale.Shard != 2 || stale.Slot != n.Locate(key).Slot {
			t.Errorf("answered %v, %v", res.Read, res.Err)
		}
	}
	astray(&Request{Read: &peerv1.ReadRequest{Keys: []string{key}}})
	astray(putOf(key, 1))
}
