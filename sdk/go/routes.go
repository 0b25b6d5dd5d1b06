package raftkv

import (
	"sync"
	"sync/atomic"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// shard is what the client knows of a shard. It lives as long as the client.
type shard struct {
	id placement.ShardID
	// seen is the highest revision that the client has been told.
	seen   atomic.Uint64
	leader atomic.Pointer[leader]
	// replicas are the nodes that hold a replica, the leader included; nil if unknown. turn is whose turn it is.
	replicas atomic.Pointer[[]*endpoint]
	turn     atomic.Uint32
}

// leader is a guess of who leads a shard.
type leader struct {
	node     string
	endpoint *endpoint // nil: unknown
	// term is the highest that the client has heard of for the shard; older news are ignored.
	term uint64
}

// observe notes a revision of the shard.
func (s *shard) observe(revision uint64) {
	for {
		seen := s.seen.Load()
		if revision <= seen || s.seen.CompareAndSwap(seen, revision) {
			return
		}
	}
}

// table is one version of the shard map.
type table struct {
	version uint64
	slots   [placement.SlotCount]*shard
}

// routes is the client's view of the cluster. All of it is hints: the shards themselves decide, and a wrong hint costs a
// hop.
type routes struct {
	client *Client
	table  atomic.Pointer[table]
	limits atomic.Pointer[raftkvv1.Limits]
	turn   atomic.Uint32
	// cluster is the id of the cluster; nil before the first answer.
	cluster atomic.Pointer[string]
	// ring is every endpoint, for requests whose leader is unknown.
	ring atomic.Pointer[[]*endpoint]
	// refresh asks the background for a new map.
	refresh chan struct{}

	// mu guards the maps; writes to table, ring and every leader happen under it.
	mu        sync.RWMutex
	shards    map[placement.ShardID]*shard
	endpoints map[string]*endpoint // by address
	nodes     map[string]string    // node id → address
}

func newRoutes(c *Client, addresses []string) *routes {
	r := &routes{
		client:    c,
		refresh:   make(chan struct{}, 1),
		shards:    make(map[placement.ShardID]*shard),
		endpoints: make(map[string]*endpoint),
		nodes:     make(map[string]string),
	}
	r.table.Store(&table{})
	r.limits.Store(&raftkvv1.Limits{})
	r.ring.Store(&[]*endpoint{})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range addresses {
		r.endpoint(a)
	}
	return r
}

// endpoint returns the one at address. r.mu is held for writing.
func (r *routes) endpoint(address string) *endpoint {
	e := r.endpoints[address]
	if e == nil {
		e = newEndpoint(r.client, address)
		r.endpoints[address] = e
		ring := append([]*endpoint{e}, *r.ring.Load()...)
		r.ring.Store(&ring)
	}
	return e
}

// shard returns what is known of shard id.
func (r *routes) shard(id placement.ShardID) *shard {
	r.mu.RLock()
	s := r.shards[id]
	r.mu.RUnlock()
	if s != nil {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.makeShard(id)
}

// makeShard is shard with r.mu held for writing.
func (r *routes) makeShard(id placement.ShardID) *shard {
	s := r.shards[id]
	if s == nil {
		s = &shard{id: id}
		s.leader.Store(&leader{})
		r.shards[id] = s
	}
	return s
}

// owner returns the shard that serves slot; nil if unknown.
func (r *routes) owner(slot placement.Slot) *shard { return r.table.Load().slots[slot] }

// pick returns where to send a request for s, which may be nil: to the leader, or in turn to any node, which forwards. not, if there is another, is
// passed over.
func (r *routes) pick(s *shard, not *endpoint) *endpoint {
	if s != nil {
		if e := s.leader.Load().endpoint; e != nil && e != not && e.health.admits() {
			return e
		}
	}
	return r.any(not)
}

// replica returns where to send what any replica of s may serve: to those that the shard map names in turn, or to where other requests go if it names none
// that is not ejected.
func (r *routes) replica(s *shard, not *endpoint) *endpoint {
	if s == nil || s.replicas.Load() == nil {
		return r.pick(s, not)
	}
	replicas := *s.replicas.Load()
	from := s.turn.Add(1)
	for i := range uint32(len(replicas)) {
		if e := replicas[(from+i)%uint32(len(replicas))]; e != not && e.health.admits() {
			return e
		}
	}
	return r.pick(s, not)
}

// any returns the next endpoint in turn that is not ejected. If all are, it is the one whose time ends first: a call must go somewhere.
func (r *routes) any(not *endpoint) *endpoint {
	ring := *r.ring.Load()
	from := r.turn.Add(1)
	for i := range uint32(len(ring)) {
		if e := ring[(from+i)%uint32(len(ring))]; e != not && e.health.admits() {
			return e
		}
	}
	var soonest *endpoint
	var least time.Duration
	for i := range uint32(len(ring)) {
		e := ring[(from+i)%uint32(len(ring))]
		if e == not && len(ring) > 1 {
			continue
		}
		if left := e.health.left(); soonest == nil || left < least {
			soonest, least = e, left
		}
	}
	soonest.health.force()
	return soonest
}

// learnSoon asks the background for a new map.
func (r *routes) learnSoon() {
	select {
	case r.refresh <- struct{}{}:
	default: // asked for already
	}
}

// served learns from the header of an answer. at is the shard to which the request was routed; it may be nil.
func (r *routes) served(h *raftkvv1.ResponseHeader, at *shard) {
	if h == nil {
		return
	}
	if at == nil || uint32(at.id) != h.Shard {
		at = r.shard(placement.ShardID(h.Shard))
	}
	at.observe(h.Revision)
	if h.ClusterId != "" && r.cluster.Load() == nil {
		id := h.ClusterId // and not the header
		r.cluster.Store(&id)
	}
	if h.Role != raftkvv1.Role_ROLE_LEADER {
		return
	}
	if l := at.leader.Load(); l.endpoint != nil && l.node == h.NodeId && l.term == h.Term {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setLeader(at, h.NodeId, h.Term)
}

// setLeader notes that node leads s in term, unless a later term is known. r.mu is held for writing.
func (r *routes) setLeader(s *shard, node string, term uint64) {
	if term < s.leader.Load().term {
		return
	}
	l := &leader{node: node, term: term}
	if address := r.nodes[node]; address != "" {
		l.endpoint = r.endpoint(address)
	}
	s.leader.Store(l)
}

// redirected learns from a NotLeader answer of asked, and reports whether it names another node to ask.
func (r *routes) redirected(e *NotLeaderError, asked *endpoint) bool {
	s := r.shard(e.Shard)
	r.mu.Lock()
	defer r.mu.Unlock()
	known := s.leader.Load()
	if e.Endpoint != "" && e.Endpoint != asked.address {
		s.leader.Store(&leader{node: string(e.Leader), endpoint: r.endpoint(e.Endpoint), term: known.term})
		return true
	}
	if known.endpoint == asked {
		s.leader.Store(&leader{term: known.term})
	}
	return false
}

// install takes over a shard map, the nodes and the limits.
func (r *routes) install(shards *raftkvv1.ListShardsResponse, nodes []*raftkvv1.Node, limits *raftkvv1.Limits) {
	if limits != nil {
		r.limits.Store(limits)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range nodes {
		if n.ClientAddress != "" {
			r.nodes[n.Id] = n.ClientAddress
			r.endpoint(n.ClientAddress)
		}
	}
	t := &table{version: shards.MapVersion}
	for _, sh := range shards.Shards {
		s := r.makeShard(placement.ShardID(sh.Id))
		for _, run := range sh.Slots {
			for slot := run.First; slot <= run.Last && slot < placement.SlotCount; slot++ {
				t.slots[slot] = s
			}
		}
		if sh.LeaderNodeId != "" {
			r.setLeader(s, sh.LeaderNodeId, sh.Term)
		}
		r.setReplicas(s, sh.Replicas)
		s.observe(sh.Revision)
	}
	if t.version >= r.table.Load().version {
		r.table.Store(t)
	}
}

// setReplicas notes who holds s, without learners: they may be far behind. A node that does not hold s itself may not know them. r.mu is held for writing.
func (r *routes) setReplicas(s *shard, replicas []*raftkvv1.Replica) {
	var at []*endpoint
	for _, m := range replicas {
		if address := r.nodes[m.NodeId]; address != "" && m.Role != raftkvv1.Role_ROLE_LEARNER {
			at = append(at, r.endpoint(address))
		}
	}
	if len(at) > 0 {
		s.replicas.Store(&at)
	}
}

// timeoutMax is the longest that servers work on a request.
func (r *routes) timeoutMax() time.Duration {
	if ms := r.limits.Load().TimeoutMs; ms > 0 && ms < uint64(time.Hour/time.Millisecond) {
		return time.Duration(ms) * time.Millisecond
	}
	return time.Hour
}

// replicas is how many nodes are known to hold a replica of a shard.
func (r *routes) replicas(id placement.ShardID) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.shards[id]
	if s == nil || s.replicas.Load() == nil {
		return 0
	}
	return len(*s.replicas.Load())
}
