package placement

import (
	"encoding/base64"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

const someCluster = "00112233445566778899aabbccddeeff"

func TestPositionTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		revisions := rapid.MapOfN(rapid.Uint32(), rapid.Uint64(), 1, 20).Draw(t, "revisions")
		var at []ShardRevision
		for shard, revision := range revisions {
			at = append(at, ShardRevision{ShardID(shard), revision})
		}
		cluster, got, err := ParsePositionToken(PositionToken(someCluster, at...))
		if err != nil || cluster != someCluster || len(got) != len(at) {
			t.Fatalf("%v of %s, %v", got, cluster, err)
		}
		if !slices.IsSortedFunc(got, func(a, b ShardRevision) int { return int(int64(a.Shard) - int64(b.Shard)) }) {
			t.Fatalf("out of order: %v", got)
		}
		for _, a := range got {
			if revisions[uint32(a.Shard)] != a.Revision {
				t.Fatalf("%v of %v", a, revisions)
			}
		}
	})
}

func TestNoPositionTokens(t *testing.T) {
	encode := func(p *raftkvv1.Position) string {
		b, err := p.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	good := PositionToken(someCluster, ShardRevision{1, 7})
	for token, want := range map[string]error{
		good: nil, good + "=": ErrNoToken, "": ErrNoToken, "?": ErrNoToken,
		base64.RawURLEncoding.EncodeToString([]byte("watch this")):                                                       ErrNoToken,
		encode(&raftkvv1.Position{Version: 1}):                                                                           ErrNoToken,
		encode(&raftkvv1.Position{Version: 1, ClusterId: []byte("n1")}):                                                  ErrNoToken,
		encode(&raftkvv1.Position{Version: 1, ClusterId: make([]byte, 16), Shards: make([]*raftkvv1.Position_Shard, 0)}): nil,
		encode(&raftkvv1.Position{Version: 2, ClusterId: make([]byte, 16)}):                                              ErrTokenVersion,
	} {
		if _, _, err := ParsePositionToken(token); !errors.Is(err, want) {
			t.Errorf("token %q: %v, want %v", token, err, want)
		}
	}
	for _, cluster := range []string{"", "0011", "nothing hexadecimal"} {
		if token := PositionToken(cluster, ShardRevision{1, 7}); token != "" {
			t.Errorf("a token %q of cluster %q", token, cluster)
		}
	}
	if PositionToken(someCluster) != "" {
		t.Error("a token of nothing")
	}
}

func FuzzPositionToken(f *testing.F) {
	f.Add(PositionToken(someCluster, ShardRevision{1, 7}, ShardRevision{3, 1 << 60}))
	f.Add("?")
	f.Fuzz(func(t *testing.T, token string) {
		if _, at, err := ParsePositionToken(token); err == nil && len(at) > SlotCount {
			t.Errorf("%d shards", len(at))
		}
	})
}
