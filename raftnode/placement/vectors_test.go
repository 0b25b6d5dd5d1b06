package placement

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/vectors.json anew; a change of it breaks every existing cluster")

// vectors is testdata/vectors.json. The SDKs in other languages read it as well.
type vectors struct {
	Comment     string             `json:"comment"`
	Keys        []keyVector        `json:"keys"`
	Assignments []assignmentVector `json:"assignments"`
	Placements  []placementVector  `json:"placements"`
}

type keyVector struct {
	Key         string `json:"key"`
	RoutingPart string `json:"routing_part"`
	Hash        string `json:"hash"` // 16 hexadecimal digits: JSON numbers do not hold 64 bits
	Slot        Slot   `json:"slot"`
}

type assignmentVector struct {
	Shards []ShardID `json:"shards"`
	// Slots are the runs of each shard, as SlotSet.String has them.
	Slots []string `json:"slots"`
}

type placementVector struct {
	Shards   []ShardID  `json:"shards"`
	Nodes    []string   `json:"nodes"` // id, or id@zone
	Replicas int        `json:"replicas"`
	Holders  [][]NodeID `json:"holders"`
}

var vectorKeys = []string{
	"", "a", "b", "key", "user/1", "user/2", "{user/1}/name", "{user/1}/mail", "x{user/1}", "x{user/1}{user/2}",
	"{}", "{}a", "a{}b{c}", "{", "}", "}{", "a}b{c}d", "{a", "a}", "{{a}}", "{{}}", "{a}{b}", "{ }", "{é}", "é", "日本語",
	"\U0001f600", "{\U0001f600}/x", "//", ".", "..", "a/../b", "%2F", "a b", "\n", "\u0000", strings.Repeat("k", 31),
	strings.Repeat("k", 32), strings.Repeat("k", 33), strings.Repeat("long/", 100), "{" + strings.Repeat("t", 64) + "}",
	"0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
}

func compute(t *testing.T) vectors {
	v := vectors{Comment: "Routing part: the text between the first { and the first } after it, or the whole key if " +
		"there is none. Hash: xxHash64 with seed 0 of the routing part in UTF-8. Slot: the highest 12 bits of the hash."}
	for _, k := range vectorKeys {
		part := RoutingPart(k)
		v.Keys = append(v.Keys, keyVector{k, part, fmt.Sprintf("%016x", xxhash.Sum64String(part)), SlotOf(k)})
	}
	for _, shards := range [][]ShardID{{1}, {1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 9}} {
		assigned, err := AssignSlots(shards)
		if err != nil {
			t.Fatal(err)
		}
		a := assignmentVector{Shards: shards}
		for _, s := range assigned {
			a.Slots = append(a.Slots, s.Slots.String())
		}
		v.Assignments = append(v.Assignments, a)
	}
	for _, nodes := range [][]string{{"n1"}, {"n1", "n2", "n3"}, {"n1", "n2", "n3", "n4", "n5"}, {"n1@a", "n2@a", "n3@b", "n4@b", "n5@c"}} {
		p := placementVector{Shards: []ShardID{0, 1, 2, 3, 4}, Nodes: nodes, Replicas: min(3, len(nodes))}
		var list []Node
		for _, n := range nodes {
			id, zone, _ := strings.Cut(n, "@")
			list = append(list, Node{ID: NodeID(id), Zone: zone})
		}
		placed, err := PlaceReplicas(p.Shards, list, p.Replicas)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range placed {
			p.Holders = append(p.Holders, s.Nodes)
		}
		v.Placements = append(v.Placements, p)
	}
	return v
}

// TestVectors compares everything that other nodes, other languages and disks rely on with the file.
func TestVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(compute(t)); err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the results differ from %s, so existing data would not be found again", file)
	}
}
