package raftnode_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Shards with one replica each, on different nodes: every node serves every key by passing requests on, and pages merge all shards.
func TestEveryNodeServesEveryShard(t *testing.T) {
	c := newCluster(t, 3, func(o *raftnode.Options) { o.Shards, o.Replicas = 4, 1 })
	var want []string
	for i := range 300 {
		key := fmt.Sprintf("key-%03d", i)
		if _, err := c.put(c.members[i%3].ID, key, key); err != nil {
			t.Fatal(err)
		}
		want = append(want, key)
	}
	shards, _ := c.nodes["n1"].Shards()
	holders := make(map[placement.ShardID]string)
	for _, s := range shards {
		holders[s.ID] = string(s.Replicas[0].NodeID)
	}
	for _, m := range c.members {
		for _, reverse := range []bool{false, true} {
			var got []string
			r := &peerv1.RangeRead{Start: "key-", End: raftnode.PrefixEnd("key-"), Reverse: reverse, MaxItems: 37}
			for {
				page, err := c.nodes[m.ID].Page(t.Context(), r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Records) > 37 || len(page.Parts) != 4 {
					t.Fatalf("a page of %d, %d parts", len(page.Records), len(page.Parts))
				}
				for i, p := range page.Parts {
					if o := p.Origin; int(p.Shard) != i+1 || o.GetNodeId() != holders[p.Shard] || o.GetRevision() == 0 || o.GetTerm() == 0 {
						t.Fatalf("part of shard %d: %v, its replica is on %s", p.Shard, p.Origin, holders[p.Shard])
					}
				}
				for _, rec := range page.Records {
					got = append(got, rec.GetKey())
				}
				if !page.More {
					break
				}
				if reverse {
					r.End = page.Behind
				} else {
					r.Start = raftnode.NextKey(page.Behind)
				}
			}
			expect := slices.Clone(want)
			if reverse {
				slices.Reverse(expect)
			}
			if !slices.Equal(got, expect) {
				t.Fatalf("via %s, reverse %v: %d keys, want %d in order", m.ID, reverse, len(got), len(expect))
			}
		}
	}
}

// An atomic write of keys of several shards is refused with the keys by shard; keys of one tag are of one shard.
func TestCrossShard(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) { o.Shards = 4 })
	put := func(keys ...string) raftnode.Result {
		w := &storev1.Write{}
		for _, k := range keys {
			w.Operations = append(w.Operations, &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: k})
		}
		return c.nodes["n1"].Do(t.Context(), &raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Write{Write: w}}})
	}
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	var cross *raftnode.CrossShardError
	if err := put(keys...).Err; !errors.As(err, &cross) {
		t.Fatalf("%v", err)
	}
	seen := 0
	for _, g := range cross.Groups {
		for _, k := range g.Keys {
			seen++
			if at := c.nodes["n1"].Locate(k).Shard; at != g.Shard {
				t.Errorf("key %s is of shard %d, not %d", k, at, g.Shard)
			}
		}
	}
	if seen != len(keys) {
		t.Errorf("%d keys in the groups, want %d", seen, len(keys))
	}
	for _, k := range keys {
		if _, err := c.get("n1", k); !errors.Is(err, errMissing) {
			t.Errorf("%s after a refused write: %v", k, err)
		}
	}
	if err := put("{tag}a", "{tag}b", "x{tag}c").Err; err != nil {
		t.Errorf("keys of one tag: %v", err)
	}
}

// Requests that can never be executed are refused before anything is proposed, with the field, the limit and the value.
func TestBadRequests(t *testing.T) {
	c := newCluster(t, 1, nil)
	long, big := string(make([]byte, raftnode.KeyBytes+1)), make([]byte, 1<<20+1)
	for name, op := range map[string]*storev1.Operation{
		"empty key":     {Kind: storev1.OperationKind_OPERATION_KIND_PUT},
		"long key":      {Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: long},
		"not UTF-8":     {Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "a\xff"},
		"big value":     {Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "a", Value: big},
		"no kind":       {Key: "a"},
		"unknown kind":  {Kind: 99, Key: "a"},
		"nul is a byte": {Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "a\x00b"},
	} {
		res := c.nodes["n1"].Do(t.Context(), &raftnode.Request{
			AutoShard: true,
			Command:   &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}}},
		})
		var bound *raftnode.LimitError
		var invalid *raftnode.InvalidError
		if name == "nul is a byte" {
			if res.Err != nil {
				t.Errorf("%s: %v", name, res.Err)
			}
			continue
		}
		if !errors.As(res.Err, &bound) && !errors.As(res.Err, &invalid) {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
	for name, r := range map[string]*raftnode.Request{
		"nothing":          {},
		"no such shard":    {Shard: 77, Read: &peerv1.ReadRequest{Keys: []string{"a"}}},
		"no keys to route": {AutoShard: true, Read: &peerv1.ReadRequest{}},
		"opaque":           {Shard: 1, Command: &storev1.Command{Body: &storev1.Command_Opaque{Opaque: []byte("x")}}},
		"empty command":    {Shard: 1, Command: &storev1.Command{}},
	} {
		var invalid *raftnode.InvalidError
		if res := c.nodes["n1"].Do(t.Context(), r); !errors.As(res.Err, &invalid) {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
	if _, err := c.put("n1", "a", "fine"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// What begins with a prefix is what is from it up to its end.
func TestPrefixEnd(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune{'a', 'b', 0x7F, 0x80, 0xD7FF, 0xE000, 0xFFFF, 0x10000, utf8.MaxRune}), 0, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		prefix, key := text.Draw(t, "prefix"), text.Draw(t, "key")
		if rapid.Bool().Draw(t, "inside") {
			key = prefix + key
		}
		end := raftnode.PrefixEnd(prefix)
		if !utf8.ValidString(end) {
			t.Fatalf("prefix %q ends at %q", prefix, end)
		}
		inside := key >= prefix && (end == "" || key < end)
		if has := len(key) >= len(prefix) && key[:len(prefix)] == prefix; has != inside {
			t.Fatalf("prefix %q ends at %q; key %q: has the prefix %v, in the range %v", prefix, end, key, has, inside)
		}
	})
}
