package placement

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// All keys that begin with the prefix of a tag have its slot.
func TestTagPrefix(t *testing.T) {
	for key, want := range map[string]string{"a": "", "{t}": "{t}", "a{t}b{u}": "a{t}", "{t": "", "a{}b": "", "{{x}}": "{{x}"} {
		got := TagPrefix(key)
		if got != want || want != "" && SlotOf(got+"more") != SlotOf(key) {
			t.Errorf("TagPrefix(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestRoutingPart(t *testing.T) {
	for key, want := range map[string]string{
		"":             "",
		"plain":        "plain",
		"{tag}":        "tag",
		"a{tag}b":      "tag",
		"{a}{b}":       "a",
		"{}{b}":        "{}{b}", // the first pair is empty: the whole key, as in Redis
		"a{}":          "a{}",
		"{open":        "{open",
		"close}":       "close}",
		"}a{b}":        "b",
		"{{a}}":        "{a",
		"{a{b}c}":      "a{b",
		"{\U0001f600}": "\U0001f600",
	} {
		if got := RoutingPart(key); got != want {
			t.Errorf("RoutingPart(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestKeysWithOneTagShareASlot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tag := rapid.StringN(1, 20, -1).Filter(func(s string) bool { return !strings.Contains(s, "}") }).Draw(t, "tag")
		head := rapid.String().Filter(func(s string) bool { return !strings.Contains(s, "{") }).Draw(t, "head")
		key := head + "{" + tag + "}" + rapid.String().Draw(t, "tail")
		if got, want := SlotOf(key), SlotOf("{"+tag+"}"); got != want || got >= SlotCount {
			t.Fatalf("SlotOf(%q) = %d, want %d", key, got, want)
		}
	})
}

func TestSlotSetIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s SlotSet
		model := map[Slot]bool{}
		slot := rapid.Custom(func(t *rapid.T) Slot { return Slot(rapid.IntRange(0, SlotCount-1).Draw(t, "slot")) })
		t.Repeat(map[string]func(*rapid.T){
			"add":    func(t *rapid.T) { x := slot.Draw(t, "x"); s.Add(x); model[x] = true },
			"remove": func(t *rapid.T) { x := slot.Draw(t, "x"); s.Remove(x); delete(model, x) },
			"addRun": func(t *rapid.T) {
				first := rapid.IntRange(0, SlotCount-1).Draw(t, "first")
				r := SlotRun{Slot(first), Slot(min(SlotCount-1, first+rapid.IntRange(0, 200).Draw(t, "more")))}
				s.AddRun(r)
				for x := int(r.First); x <= int(r.Last); x++ {
					model[Slot(x)] = true
				}
			},
			"": func(t *rapid.T) {
				want := slices.Sorted(maps.Keys(model))
				if !slices.Equal(s.Slots(), want) || s.Len() != len(want) || s.Empty() != (len(want) == 0) {
					t.Fatalf("slots %v, want %v", s.Slots(), want)
				}
				if x := slot.Draw(t, "has"); s.Has(x) != model[x] {
					t.Fatalf("Has(%d) = %v", x, s.Has(x))
				}
				runs := s.Runs()
				for i := 1; i < len(runs); i++ {
					if runs[i].First <= runs[i-1].Last+1 {
						t.Fatalf("runs %v touch", runs)
					}
				}
				if back, err := FromRuns(runs); err != nil || !back.Equal(s) {
					t.Fatalf("FromRuns(Runs()) = %v, %v", back, err)
				}
			},
		})
	})
}

func TestSlotSetAlgebra(t *testing.T) {
	set := rapid.Custom(func(t *rapid.T) (s SlotSet) {
		for _, x := range rapid.SliceOf(rapid.IntRange(0, SlotCount-1)).Draw(t, "slots") {
			s.Add(Slot(x))
		}
		return s
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := set.Draw(t, "a"), set.Draw(t, "b")
		for x := Slot(0); x < SlotCount; x++ {
			u, i, m := a.Union(b), a.Intersect(b), a.Minus(b)
			if u.Has(x) != (a.Has(x) || b.Has(x)) || i.Has(x) != (a.Has(x) && b.Has(x)) || m.Has(x) != (a.Has(x) && !b.Has(x)) {
				t.Fatalf("slot %d is wrong", x)
			}
		}
		if left := AllSlots().Minus(a); !left.Union(a).Equal(AllSlots()) || left.Len()+a.Len() != SlotCount {
			t.Fatal("a set and the rest are not everything")
		}
	})
}

func TestSlotRuns(t *testing.T) {
	for _, bad := range [][2]uint32{{1, 0}, {0, SlotCount}, {SlotCount, SlotCount}, {1 << 16, 1<<16 + 1}} {
		if _, err := NewSlotRun(bad[0], bad[1]); !errors.Is(err, ErrBadRun) {
			t.Errorf("NewSlotRun(%d, %d): %v, want ErrBadRun", bad[0], bad[1], err)
		}
	}
	if _, err := FromRuns([]SlotRun{{0, 1}, {5, SlotCount}}); !errors.Is(err, ErrBadRun) {
		t.Errorf("FromRuns: %v, want ErrBadRun", err)
	}
	s, err := FromRuns([]SlotRun{{4000, 4095}, {0, 5}, {3, 9}, {12, 12}})
	if err != nil || s.String() != "0-9,12,4000-4095" || s.Len() != 107 {
		t.Errorf("FromRuns = %v (%d), %v", s, s.Len(), err)
	}
	if s.Has(SlotCount) || s.Has(65535) {
		t.Error("a set has slots beyond the last")
	}
}

func shardList(t *rapid.T, most int) []ShardID {
	id := rapid.Map(rapid.IntRange(1, 1000), func(i int) ShardID { return ShardID(i) })
	return rapid.SliceOfNDistinct(id, 1, most, rapid.ID[ShardID]).Draw(t, "shards")
}

func owners(t interface{ Fatal(...any) }, shards []ShardID) map[Slot]ShardID {
	assigned, err := AssignSlots(shards)
	if err != nil {
		t.Fatal(err)
	}
	of := map[Slot]ShardID{}
	for i, a := range assigned {
		if i > 0 && assigned[i-1].Shard >= a.Shard {
			t.Fatal("shards are not ascending")
		}
		for _, s := range a.Slots.Slots() {
			if other, twice := of[s]; twice {
				t.Fatal("slot", s, "belongs to", other, "and", a.Shard)
			}
			of[s] = a.Shard
		}
	}
	if len(of) != SlotCount {
		t.Fatal("only", len(of), "slots are assigned")
	}
	return of
}

// TestAssignSlots: every slot once, nobody above the bound, the order of the list is nothing, and a new shard moves
// little more than its fair share.
func TestAssignSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := shardList(t, 24)
		before := owners(t, shards)
		load := map[ShardID]int{}
		for _, s := range before {
			load[s]++
		}
		for s, n := range load {
			if limit := bound(SlotCount, len(shards), slotLoadPercent); n > limit {
				t.Fatalf("shard %d has %d slots, at most %d are allowed", s, n, limit)
			}
		}
		mixed := rapid.Permutation(shards).Draw(t, "mixed")
		if !maps.Equal(owners(t, mixed), before) {
			t.Fatal("the order of the list matters")
		}
		moved := 0
		for s, now := range owners(t, append(mixed, 1001)) {
			if before[s] != now {
				moved++
			}
		}
		if fair := SlotCount / (len(shards) + 1); moved > fair*3/2 {
			t.Fatalf("a new shard beside %d moves %d slots, its fair share is %d", len(shards), moved, fair)
		}
	})
}

func TestAssignSlotsRefuses(t *testing.T) {
	many := make([]ShardID, SlotCount+1)
	for i := range many {
		many[i] = ShardID(i + 1)
	}
	for name, shards := range map[string][]ShardID{"none": nil, "meta": {1, MetaShard}, "twice": {3, 1, 3}, "many": many} {
		if _, err := AssignSlots(shards); !errors.Is(err, ErrBadShards) {
			t.Errorf("%s: %v, want ErrBadShards", name, err)
		}
	}
}

func nodeList(t *rapid.T, least int) []Node {
	zones := rapid.IntRange(1, 4).Draw(t, "zones")
	nodes := make([]Node, rapid.IntRange(least, 9).Draw(t, "nodes"))
	for i := range nodes {
		nodes[i] = Node{ID: NodeID(fmt.Sprintf("n%d", i+1)), Zone: fmt.Sprintf("z%d", rapid.IntRange(1, zones).Draw(t, "zone"))}
	}
	return nodes
}

// TestPlaceReplicas: distinct nodes, as even over zones as their sizes allow, and the order of the lists is nothing.
func TestPlaceReplicas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes, shards := nodeList(t, 1), append(shardList(t, 40), MetaShard)
		replicas := rapid.IntRange(1, min(5, len(nodes))).Draw(t, "replicas")
		placed, err := PlaceReplicas(shards, nodes, replicas)
		if err != nil || len(placed) != len(shards) {
			t.Fatalf("%d shards placed, %v", len(placed), err)
		}
		zone, size := map[NodeID]string{}, map[string]int{}
		for _, n := range nodes {
			zone[n.ID] = n.Zone
			size[n.Zone]++
		}
		for _, p := range placed {
			in, distinct := map[string]int{}, map[NodeID]bool{}
			for _, n := range p.Nodes {
				in[zone[n]]++
				distinct[n] = true
			}
			if len(distinct) != replicas || len(p.Nodes) != replicas {
				t.Fatalf("shard %d is on %v, want %d nodes", p.Shard, p.Nodes, replicas)
			}
			for a := range size { // even: no zone with room has two fewer than another
				for b := range size {
					if in[a] < size[a] && in[b] > in[a]+1 {
						t.Fatalf("shard %d has %d replicas in %s and %d in %s", p.Shard, in[b], b, in[a], a)
					}
				}
			}
		}
		mixed, err := PlaceReplicas(rapid.Permutation(shards).Draw(t, "s"), rapid.Permutation(nodes).Draw(t, "n"), replicas)
		if err != nil || fmt.Sprint(mixed) != fmt.Sprint(placed) {
			t.Fatalf("the order of the lists matters: %v, %v and %v", err, mixed, placed)
		}
	})
}

// TestPlaceReplicasBalancesAndMovesLittle uses clusters whose zones are of one size, where load can be bounded.
func TestPlaceReplicasBalancesAndMovesLittle(t *testing.T) {
	for _, zones := range []int{1, 3} {
		for _, count := range []int{3, 6, 9, 12, 24} {
			nodes := make([]Node, count)
			for i := range nodes {
				nodes[i] = Node{ID: NodeID(fmt.Sprintf("n%d", i+1)), Zone: fmt.Sprint(i % zones)}
			}
			shards := make([]ShardID, 65)
			for i := range shards {
				shards[i] = ShardID(i)
			}
			before := holders(t, shards, nodes)
			load := map[NodeID]int{}
			for h := range before {
				load[h.node]++
			}
			for n, l := range load {
				if limit := bound(65*3, count, replicaLoadPercent); l > limit {
					t.Errorf("%d zones, %d nodes: %s has %d replicas, at most %d are allowed", zones, count, n, l, limit)
				}
			}
			moved := 0
			for h := range holders(t, shards, append(nodes, Node{ID: "new", Zone: "0"})) {
				if !before[h] {
					moved++
				}
			}
			if fair := 65 * 3 / (count + 1); moved > fair*8/5+3 {
				t.Errorf("%d zones, %d nodes: a new node moves %d replicas, its fair share is %d", zones, count, moved, fair)
			}
		}
	}
}

type holder struct {
	shard ShardID
	node  NodeID
}

func holders(t *testing.T, shards []ShardID, nodes []Node) map[holder]bool {
	placed, err := PlaceReplicas(shards, nodes, 3)
	if err != nil {
		t.Fatal(err)
	}
	all := map[holder]bool{}
	for _, p := range placed {
		for _, n := range p.Nodes {
			all[holder{p.Shard, n}] = true
		}
	}
	return all
}

func TestPlaceReplicasRefuses(t *testing.T) {
	a, b := Node{ID: "a"}, Node{ID: "b"}
	for name, c := range map[string]struct {
		shards   []ShardID
		nodes    []Node
		replicas int
		want     error
	}{
		"no replicas":       {[]ShardID{1}, []Node{a}, 0, ErrBadNodes},
		"too many replicas": {[]ShardID{1}, []Node{a, b}, 3, ErrBadNodes},
		"a node twice":      {[]ShardID{1}, []Node{a, b, a}, 1, ErrBadNodes},
		"no name":           {[]ShardID{1}, []Node{a, {}}, 1, ErrBadNodes},
		"a shard twice":     {[]ShardID{1, 1}, []Node{a, b}, 1, ErrBadShards},
	} {
		if _, err := PlaceReplicas(c.shards, c.nodes, c.replicas); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
