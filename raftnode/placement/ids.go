package placement

// ShardID names a Raft group. Ids are never reused.
type ShardID uint32

// MetaShard is the shard that keeps the cluster's own records. It serves reserved keys and no slots.
const MetaShard ShardID = 0

// NodeID is the configured name of a node. The same name on an empty disk is another incarnation, and its messages are
// told apart by that, not by the name.
type NodeID string
