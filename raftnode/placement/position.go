package placement

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// ShardRevision is a revision of a shard.
type ShardRevision struct {
	Shard    ShardID
	Revision uint64
}

const (
	positionVersion = 1
	clusterIDBytes  = 16
)

var (
	// ErrNoToken says that text is no token of a position.
	ErrNoToken = errors.New("is not a token that an answer has given")
	// ErrTokenVersion says that it is one in a format that this release does not know.
	ErrTokenVersion = errors.New("is a token of another release; read without it")
)

// PositionToken is the token that says what somebody has seen of a cluster, whose id is hexadecimal; empty if the cluster is not known or there is nothing to say.
func PositionToken(cluster string, at ...ShardRevision) string {
	id, err := hex.DecodeString(cluster)
	if err != nil || len(id) != clusterIDBytes || len(at) == 0 {
		return ""
	}
	at = slices.SortedFunc(slices.Values(at), func(a, b ShardRevision) int { return cmp.Compare(a.Shard, b.Shard) })
	p := &raftkvv1.Position{Version: positionVersion, ClusterId: id, Shards: make([]*raftkvv1.Position_Shard, len(at))}
	for i, a := range at {
		p.Shards[i] = &raftkvv1.Position_Shard{Shard: uint32(a.Shard), Revision: a.Revision}
	}
	b, err := p.MarshalVT()
	if err != nil {
		return "" // of numbers and a few bytes it cannot fail
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParsePositionToken reads a token, or says ErrNoToken or ErrTokenVersion.
func ParsePositionToken(token string) (cluster string, at []ShardRevision, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	p := new(raftkvv1.Position)
	if err != nil || p.UnmarshalVT(b) != nil || len(p.ClusterId) != clusterIDBytes || len(p.Shards) > SlotCount {
		return "", nil, ErrNoToken
	}
	if p.Version != positionVersion {
		return "", nil, ErrTokenVersion
	}
	for _, s := range p.Shards {
		at = append(at, ShardRevision{ShardID(s.Shard), s.Revision})
	}
	return hex.EncodeToString(p.ClusterId), at, nil
}
