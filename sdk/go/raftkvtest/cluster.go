// Package raftkvtest is a stand-in for a raftkv cluster, for tests of programs that use the Go SDK.
//
//	func TestGreet(t *testing.T) {
//		client := raftkvtest.NewClient(t)
//		...
//	}
//
// Its nodes serve the real protocol on loopback ports of this process, over one map in memory: there is no consensus and
// nothing lasts. A test decides who leads, and can make nodes refuse, stall, drop connections before or after
// they apply a write, forget what they know of retries, and stop. Times to live and leases go by a clock that stands still until [Cluster.Advance] moves it.
package raftkvtest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Cluster is some nodes over one state.
type Cluster struct {
	// id is random, as that of a real cluster: tokens of another mean nothing here.
	id string
	// mu guards everything below, the nodes' fields included.
	mu     sync.Mutex
	nodes  []*node
	shards []*shard // by id, the meta shard first
	slots  [placement.SlotCount]*shard
	limits *raftkvv1.Limits
	// forward: a node that does not lead passes requests on; otherwise it answers NotLeader.
	forward bool
	// hints: NotLeader answers name the leader.
	hints bool
	hook  func(Operation) Action
	// applied counts writes by key.
	applied map[string]int

	callHook func(Call) Action
	// now is the clock of the cluster, which only Advance moves.
	now    time.Duration
	leases map[uint64]*lease
	// lastLease is the id of the newest lease; kept counts keep-alives; granted and revoked are the leases by request.
	lastLease        uint64
	kept             map[uint64]int
	granted, revoked map[string]uint64
	// changed is closed at the next change of a key, and replaced.
	changed     chan struct{}
	watches     map[*watch]struct{}
	watchEvents int
}

type shard struct {
	id       placement.ShardID
	leader   int // index of a node; -1 during an election
	term     uint64
	index    uint64
	revision uint64
	floor    uint64
	items    map[string]*raftkvv1.KeyValue
	versions map[string][]version // oldest first
	results  map[string]answer
	// acked is what each client has acknowledged.
	acked map[string]uint64
	// deadlines are of keys that live for a time, by the clock of the cluster.
	deadlines map[string]time.Duration
	// events are the history, by revision; what is older than the revision oldest is forgotten.
	events []event
	oldest uint64
	// replicas are the indices of the nodes that have one; nil: all.
	replicas []int
}

// answer is what came of a write: a result, or the error of a condition that did not hold.
type answer struct {
	result *raftkvv1.ExecResult
	err    *Error
}

// Operation is an operation of Exec as a hook sees it, before it is executed.
type Operation struct {
	// Node is the index of the node that received it.
	Node int
	// Message numbers the messages of all streams of the cluster from 1.
	Message int
	// Request is the operation.
	Request *raftkvv1.ExecOperation
}

// Action is what a node does with an operation. The zero Action serves it.
type Action struct {
	// Refuse answers with this error and applies nothing.
	Refuse *Error
	// Wait holds the operation up until it is closed, or the stream ends.
	Wait <-chan struct{}
	// DropBefore cuts the stream before the operation is applied, DropAfter after it is and before it is answered. They
	// do not go together with Wait.
	DropBefore, DropAfter bool
}

// New starts a cluster of nodes and shards, of which node i mod nodes leads shard i. Close it.
func New(nodes, shards int) *Cluster {
	c := &Cluster{
		id:      newID(),
		forward: true,
		hints:   true,
		applied: make(map[string]int),
		leases:  make(map[uint64]*lease),
		kept:    make(map[uint64]int),
		granted: make(map[string]uint64), revoked: make(map[string]uint64),
		changed: make(chan struct{}), watches: make(map[*watch]struct{}), watchEvents: watchEventsDefault,
		limits: &raftkvv1.Limits{
			KeyBytes: 4 << 10, ValueBytes: 1 << 20, BatchOperations: 1000, BatchBytes: 2 << 20,
			PageItems: 1000, PageBytes: 1 << 20, RequestBytes: 4 << 20, TimeoutMs: 30_000,
		},
	}
	for i := range shards + 1 {
		leader := 0
		if i > 0 {
			leader = (i - 1) % nodes
		}
		c.shards = append(c.shards, &shard{
			id: placement.ShardID(i), leader: leader, term: 1,
			items: make(map[string]*raftkvv1.KeyValue), versions: make(map[string][]version),
			results: make(map[string]answer), acked: make(map[string]uint64), deadlines: make(map[string]time.Duration),
		})
	}
	for slot := range c.slots {
		c.slots[slot] = c.shards[1+slot*shards/placement.SlotCount]
	}
	for i := range nodes {
		c.nodes = append(c.nodes, newNode(c, i))
	}
	return c
}

// Close stops every node.
func (c *Cluster) Close() {
	for i := range c.nodes {
		c.StopNode(i)
	}
}

// ID is the id of the cluster, random as that of a real one.
func (c *Cluster) ID() string { return c.id }

func newID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// Endpoints are the addresses of the nodes.
func (c *Cluster) Endpoints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var addresses []string
	for _, n := range c.nodes {
		addresses = append(addresses, n.address)
	}
	return addresses
}

// Advertise makes the nodes tell another address for node i, at which something passes connections on to it.
func (c *Cluster) Advertise(i int, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i].address = address
}

// StopNode cuts the connections of node i and stops it. The shards that it led have no leader then.
func (c *Cluster) StopNode(i int) {
	c.mu.Lock()
	n := c.nodes[i]
	server := n.server
	n.server = nil
	for _, s := range c.shards {
		if s.leader == i {
			s.leader = -1
		}
	}
	c.mu.Unlock()
	if server != nil {
		n.cut()
		server.CloseClientConnections()
		server.Close()
	}
}

// SetLeader makes node i the leader of a shard; -1 leaves it without one.
func (c *Cluster) SetLeader(id placement.ShardID, i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shards[id].leader = i
	c.shards[id].term++
}

// Leader is the index of the node that leads a shard; -1 if none does.
func (c *Cluster) Leader(id placement.ShardID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shards[id].leader
}

// Redirect makes nodes that do not lead answer NotLeader, with or without a hint at the leader, instead of passing requests on.
func (c *Cluster) Redirect(hints bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forward, c.hints = false, hints
}

// SetHook makes hook decide about every operation of Exec from now on; nil serves them all. It is called from many
// goroutines.
func (c *Cluster) SetHook(hook func(Operation) Action) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hook = hook
}

// SetLimits changes the limits that the nodes tell. They enforce none.
func (c *Cluster) SetLimits(l *raftkvv1.Limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = l
}

// Forget makes a shard forget the results of all writes, as after many others: what an older client retries is then
// refused as SessionExpired. Its revision goes on by one.
func (c *Cluster) Forget(id placement.ShardID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shards[id]
	s.revision++
	s.floor = s.revision
	clear(s.results)
	clear(s.acked)
	maps.DeleteFunc(c.revoked, func(_ string, lease uint64) bool { return c.slots[placement.SlotOfLease(lease)] == s })
}

// Applied is how often writes to key were applied.
func (c *Cluster) Applied(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied[key]
}

// Kept is how many results of writes a shard keeps for retries.
func (c *Cluster) Kept(id placement.ShardID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.shards[id].results)
}

// Messages is how many Exec messages and operations node i has received.
func (c *Cluster) Messages(i int) (messages, operations int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].messages, c.nodes[i].operations
}

// ShardOf is the shard that serves key.
func (c *Cluster) ShardOf(key string) placement.ShardID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots[placement.SlotOf(key)].id
}

// node is one server.
type node struct {
	cluster *Cluster
	index   int
	id      string
	address string
	server  *httptest.Server // nil: stopped
	stopped chan struct{}
	once    sync.Once

	messages, operations int
}

func (n *node) cut() { n.once.Do(func() { close(n.stopped) }) }

// header says that node n answers for s. c.mu is held.
func (c *Cluster) header(s *shard) *raftkvv1.ResponseHeader {
	return &raftkvv1.ResponseHeader{
		ClusterId: c.id, NodeId: c.nodes[s.leader].id, Shard: uint32(s.id), Term: s.term,
		RaftIndex: s.index, Revision: s.revision, Role: raftkvv1.Role_ROLE_LEADER,
	}
}

// rangeAt are the keys of the one shard of a range as they were at a revision. c.mu is held.
func (c *Cluster) rangeAt(r *raftkvv1.ListRequest) ([]*raftkvv1.KeyValue, *raftkvv1.ResponseHeader, *Error) {
	s := c.shards[len(c.shards)-1]
	tagged := placement.TagPrefix(r.Prefix)
	if tagged == "" {
		// The keys of a {tag} end before {tag~.
		if t := placement.TagPrefix(r.Start); t != "" && r.End != "" && r.End <= strings.TrimSuffix(t, "}")+"~" {
			tagged = t
		}
	}
	if tagged != "" {
		s = c.slots[placement.SlotOf(tagged)]
	} else if len(c.shards) > 2 {
		return nil, nil, c.crossShardRange()
	}
	switch {
	case r.Revision > s.revision:
		return nil, nil, futureRevision(s, r.Revision)
	case r.Revision+1 < s.oldest:
		return nil, nil, compacted(s, r.Revision)
	}
	var all []*raftkvv1.KeyValue
	for _, key := range slices.Sorted(maps.Keys(s.versions)) {
		if kv := s.at(key, r.Revision); kv != nil {
			all = append(all, kv)
		}
	}
	h := c.header(s)
	h.Revision = r.Revision
	h.Token = placement.PositionToken(c.id, placement.ShardRevision{Shard: s.id, Revision: r.Revision})
	return all, h, nil
}

// sortedKeys are the keys of all shards. c.mu is held.
func (c *Cluster) sortedKeys() []*raftkvv1.KeyValue {
	var all []*raftkvv1.KeyValue
	for _, s := range c.shards {
		for _, kv := range s.items {
			all = append(all, kv)
		}
	}
	slices.SortFunc(all, func(a, b *raftkvv1.KeyValue) int {
		switch {
		case a.Key < b.Key:
			return -1
		case a.Key > b.Key:
			return 1
		}
		return 0
	})
	return all
}

func nodeID(i int) string { return fmt.Sprintf("n%d", i+1) }
