package placement

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// ErrBadNodes says that a list of nodes cannot hold the replicas.
var ErrBadNodes = errors.New("placement: bad list of nodes")

// Node is a place for replicas.
type Node struct {
	ID NodeID
	// Zone is what fails together: a rack, a site. Nodes without a zone share the empty one.
	Zone string
}

// ShardReplicas says which nodes should hold a shard, the strongest wish first.
type ShardReplicas struct {
	Shard ShardID
	Nodes []NodeID
}

// replicaLoadPercent bounds the replicas of a node, in percent of the fair share.
const replicaLoadPercent = 110

// PlaceReplicas chooses replicas distinct nodes for every shard, MetaShard included, by rendezvous hashing with bounded
// load, and returns the result by ascending shard id. It depends only on which shards and nodes there are.
//
// The replicas of a shard are spread over zones as evenly as the zones' sizes allow. Within that, no node gets more than
// 110 % of its fair share, rounded up, unless a shard would otherwise find too few nodes; then the least loaded takes it.
// Adding or removing one node moves little more than that node's replicas.
func PlaceReplicas(shards []ShardID, nodes []Node, replicas int) ([]ShardReplicas, error) {
	shards = slices.Sorted(slices.Values(shards))
	if err := checkDistinct(shards); err != nil {
		return nil, err
	}
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	if err := checkNodes(nodes, replicas); err != nil {
		return nil, err
	}
	p := newPlacer(shards, nodes, replicas)
	for perZone := 1; p.missing > 0; perZone++ {
		p.fillBounded(perZone)
		p.fillRest(perZone)
	}
	return p.result(), nil
}

func checkNodes(nodes []Node, replicas int) error {
	if replicas < 1 || replicas > len(nodes) {
		return fmt.Errorf("%w: %d replicas on %d nodes, want at least 1 and at most one per node",
			ErrBadNodes, replicas, len(nodes))
	}
	for i, n := range nodes {
		if n.ID == "" {
			return fmt.Errorf("%w: a node has no name", ErrBadNodes)
		}
		if i > 0 && n.ID == nodes[i-1].ID {
			return fmt.Errorf("%w: node %q is in it twice", ErrBadNodes, n.ID)
		}
	}
	return nil
}

// placer is one run of PlaceReplicas. Shards, nodes and zones are positions in sorted lists.
type placer struct {
	shards   []ShardID
	nodes    []Node
	replicas int
	pairs    []pair           // item: shard, bin: node
	limit    int              // replicas per node
	missing  int              // replicas not placed yet
	load     []int            // by node
	chosen   []map[int]bool   // by shard: nodes
	inZone   []map[string]int // by shard: replicas by zone
}

func newPlacer(shards []ShardID, nodes []Node, replicas int) *placer {
	p := &placer{
		shards:   shards,
		nodes:    nodes,
		replicas: replicas,
		limit:    bound(len(shards)*replicas, len(nodes), replicaLoadPercent),
		missing:  len(shards) * replicas,
		load:     make([]int, len(nodes)),
	}
	for s, shard := range shards {
		p.chosen = append(p.chosen, map[int]bool{})
		p.inZone = append(p.inZone, map[string]int{})
		for n, node := range nodes {
			key := binary.BigEndian.AppendUint32(nil, uint32(shard))
			p.pairs = append(p.pairs, pair{score: xxhash.Sum64(append(key, node.ID...)), item: s, bin: n})
		}
	}
	sortPairs(p.pairs)
	return p
}

// may reports whether shard s can take node n when a zone may hold at most perZone of its replicas.
func (p *placer) may(s, n, perZone int) bool {
	return len(p.chosen[s]) < p.replicas && !p.chosen[s][n] && p.inZone[s][p.nodes[n].Zone] < perZone
}

func (p *placer) take(s, n int) {
	p.chosen[s][n] = true
	p.inZone[s][p.nodes[n].Zone]++
	p.load[n]++
	p.missing--
}

// fillBounded serves the wishes, strongest first, while nodes are below the limit.
func (p *placer) fillBounded(perZone int) {
	for _, w := range p.pairs {
		if p.load[w.bin] < p.limit && p.may(w.item, w.bin, perZone) {
			p.take(w.item, w.bin)
		}
	}
}

// fillRest gives the shards that found only full nodes in the zones left to them the least loaded of those: the spread
// over zones survives a zone's failure and therefore comes before the bound on load.
func (p *placer) fillRest(perZone int) {
	for s := range p.shards {
		for {
			best := -1
			for n := range p.nodes {
				if p.may(s, n, perZone) && (best < 0 || p.load[n] < p.load[best]) {
					best = n
				}
			}
			if best < 0 {
				break
			}
			p.take(s, best)
		}
	}
}

func (p *placer) result() []ShardReplicas {
	result := make([]ShardReplicas, len(p.shards))
	for s, shard := range p.shards {
		result[s] = ShardReplicas{Shard: shard, Nodes: make([]NodeID, 0, p.replicas)}
	}
	for _, w := range p.pairs {
		if p.chosen[w.item][w.bin] {
			result[w.item].Nodes = append(result[w.item].Nodes, p.nodes[w.bin].ID)
		}
	}
	return result
}
