package raftnode

import (
	"fmt"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// metaMapKey is where the meta shard keeps the shard map. The meta shard's keys are reserved: clients' keys are never routed to it.
const metaMapKey = "raftkv/map"

// foundMap lets the first leader of the meta shard write down the shard map, if there is none: from then on the record is the truth about
// the cluster, and every change of it a compare-and-set.
func (n *Node) foundMap() {
	if n.options.Machine != nil {
		return
	}
	f := n.identity.Load().GetFormation()
	data, err := (&storev1.ShardMap{Version: 1, Members: f.GetMembers(), Shards: f.GetShards()}).MarshalVT()
	if err != nil {
		n.fail(fmt.Errorf("encode the shard map: %w", err))
		return
	}
	n.Submit(&Request{
		Shard: placement.MetaShard,
		Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{
			Compares:   []*storev1.Compare{{Key: metaMapKey, Condition: &storev1.Compare_Exists{Exists: false}}},
			Operations: []*storev1.Operation{{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: metaMapKey, Value: data}},
		}}},
		// What fails here is done by the next leader.
		Done: func(Result) {},
	})
}
