package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// mortalPrefix is that of keys that do not live for ever; no other client writes such.
	mortalPrefix  = "mortal-"
	mortalClients = 3
	mortalThink   = 60 * time.Millisecond
	mortalTTLMin  = 200 * time.Millisecond
	mortalTTLMax  = 4 * time.Second
	// leasesMax bounds the leases that are kept at a time, recentKeys the keys that are looked at.
	leasesMax  = 12
	recentKeys = 60
	// expireWithin is how soon all keys and leases must be gone when nothing is wrong and nobody keeps them: their time, what the clock of a shard loses
	// with a leader, and some questions to the homes of leases.
	expireWithin = mortalTTLMax + 12*time.Second
)

// mortals put keys that do not live for ever, some of them on leases, and note when they are seen and when they are gone. No two puts have the same key, so that
// CheckExpiry need not know what else goes on.
type mortals struct {
	load *load
	// keepers are clients that wait for a lease to keep.
	keepers chan *client

	// mu guards what follows, and what it points to. It is a leaf.
	mu   sync.Mutex
	life *nodetest.Lifetimes
}

// mortal starts the clients. They end with ctx.
func (l *load) mortal(ctx context.Context) *mortals {
	m := &mortals{load: l, keepers: make(chan *client, leasesMax), life: &nodetest.Lifetimes{}}
	for i := range leasesMax {
		m.keepers <- l.client(clientCount + nodes + mortalClients + i)
	}
	for i := range mortalClients {
		c := l.client(clientCount + nodes + i)
		l.wait.Go(func() {
			for ctx.Err() == nil {
				m.one(ctx, c)
				pause(ctx, time.Duration(c.random.ExpFloat64()*float64(mortalThink)))
			}
		})
	}
	return m
}

// one does something of chance.
func (m *mortals) one(ctx context.Context, c *client) {
	switch n := c.random.IntN(20); {
	case n < 4:
		m.put(c, nil, between(c.random, mortalTTLMin, mortalTTLMax))
	case n < 6:
		select {
		case keeper := <-m.keepers:
			m.load.wait.Go(func() {
				m.lease(ctx, keeper)
				m.keepers <- keeper
			})
		default: // So many are kept already.
		}
	default:
		if k := m.recent(c); k != nil {
			m.look(c, k)
		}
	}
}

// recent is one of the keys that were put last; nil if there is none.
func (m *mortals) recent(c *client) *nodetest.KeyLife {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.life.Keys)
	if n == 0 {
		return nil
	}
	return m.life.Keys[n-1-c.random.IntN(min(n, recentKeys))]
}

// put puts a new key, on a lease or for a time, as one of three kinds of writes.
func (m *mortals) put(c *client, lease *nodetest.LeaseLife, ttl time.Duration) *nodetest.KeyLife {
	rec := m.load.rec
	k := &nodetest.KeyLife{TTL: ttl.Truncate(time.Millisecond), Lease: lease}
	m.mu.Lock()
	k.Name = fmt.Sprintf("%s%d", mortalPrefix, len(m.life.Keys))
	k.Called = rec.now()
	m.life.Keys = append(m.life.Keys, k)
	m.mu.Unlock()
	ask := mortalCall(k, c.random.IntN(3), c.id(m.load.keys.home(k.Name)))
	r, f, doubtful := m.sure(c, func(node int) (*result, *failure) { return c.send(ask, node) })
	m.mu.Lock()
	defer m.mu.Unlock()
	if f == nil {
		k.Put, k.Shard = rec.now(), placement.ShardID(r.header().GetShard())
	} else {
		k.Refused = f.leaseGone || f.definite && !doubtful // That the lease is gone is said of all attempts: none was applied, or is to be.
	}
	m.gone(lease, f)
	return k
}

// mortalCall is the put of a key in one of three forms.
func mortalCall(k *nodetest.KeyLife, form int, id *raftkvv1.RequestId) *call {
	ttl, lease := uint64(k.TTL.Milliseconds()), uint64(0) //nolint:gosec // not negative
	if k.Lease != nil {
		ttl, lease = 0, k.Lease.ID
	}
	switch form {
	case 0:
		return &call{put: &raftkvv1.PutRequest{Key: k.Name, Value: mortalValue, TtlMs: ttl, LeaseId: lease, RequestId: id}}
	case 1:
		return &call{batch: &raftkvv1.BatchRequest{RequestId: id, Operations: []*raftkvv1.BatchOperation{{Operation: &raftkvv1.BatchOperation_Put_{
			Put: &raftkvv1.BatchOperation_Put{Key: k.Name, Value: mortalValue, TtlMs: ttl, LeaseId: lease},
		}}}}}
	default:
		return &call{txn: &raftkvv1.TxnRequest{RequestId: id, Then: []*raftkvv1.TxnOperation{{Operation: &raftkvv1.TxnOperation_Put_{
			Put: &raftkvv1.TxnOperation_Put{Key: k.Name, Value: mortalValue, TtlMs: ttl, LeaseId: lease},
		}}}}}
	}
}

// mortalValue is that of all mortal keys: it is the name of a value without a size.
var mortalValue = []byte("m")

// gone notes that a lease is said not to live. mu is held.
func (m *mortals) gone(l *nodetest.LeaseLife, f *failure) {
	if l != nil && f != nil && f.leaseGone {
		l.Gone = append(l.Gone, m.load.rec.now())
	}
}

// sure sends a request until it is known what came of it. Its failure is that of the last attempt; doubtful says that an earlier one may have been executed.
func (m *mortals) sure(c *client, send func(node int) (*result, *failure)) (r *result, f *failure, doubtful bool) {
	for range attemptsMax {
		r, f = send(c.random.IntN(nodes))
		if f == nil || f.leaseGone || f.definite && !doubtful {
			break
		}
		doubtful = doubtful || !f.definite
		pause(context.Background(), c.patience())
	}
	return r, f, doubtful
}

// look notes whether a key is there.
func (m *mortals) look(c *client, k *nodetest.KeyLife) {
	called := m.load.rec.now()
	r, f := c.send(&call{get: &raftkvv1.GetRequest{Key: k.Name}}, c.random.IntN(nodes))
	if f != nil && f.missing == nil {
		return
	}
	if f == nil {
		if err := livesRight(k, r.get.GetKv()); err != nil {
			m.load.rec.violate("%v", err)
		}
	}
	m.looked(k, called, f == nil)
}

// looked notes what a read that was begun at a time says of a key.
func (m *mortals) looked(k *nodetest.KeyLife, called time.Duration, there bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.Looks = append(k.Looks, nodetest.Look{Called: called, Answered: m.load.rec.now(), There: there})
}

// livesRight says whether a key is shown to live as it was put to.
func livesRight(k *nodetest.KeyLife, kv *raftkvv1.KeyValue) error {
	lease, left := uint64(0), time.Duration(kv.GetTtlRemainingMs())*time.Millisecond //nolint:gosec // some seconds
	if k.Lease != nil {
		lease = k.Lease.ID
	}
	if string(kv.GetValue()) != string(mortalValue) || kv.GetLeaseId() != lease || (left == 0) != (lease != 0) || left > k.TTL {
		return fmt.Errorf("%s is shown as %v", k, kv)
	}
	return nil
}

// passed waits until every key and every lease is gone through every node that is left: none lives for ever, whatever happened to the clocks of the shards.
func (m *mortals) passed(through []int) error {
	p := newPatience(expireWithin)
	defer p.end()
	for _, node := range through {
		for {
			left := m.left(node)
			if left == "" {
				break
			}
			if p.ended() {
				return fmt.Errorf("%s shows %s after %s in which nobody has kept anything", nodeID(node), left, expireWithin)
			}
			pause(context.Background(), 200*time.Millisecond)
		}
	}
	return nil
}

// left says what a node still shows of keys and leases, or why it shows nothing; empty if there are none.
func (m *mortals) left(node int) string {
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	called := m.load.rec.now()
	r, f := m.load.endpoints[node].do(ctx, &call{scan: &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: mortalPrefix}}}, byConnect)
	if f != nil {
		return f.err.Error()
	}
	m.still(called, r.kvs)
	leases, err := m.load.endpoints[node].lease[0].ListLeases(ctx, &raftkvv1.ListLeasesRequest{})
	switch {
	case err != nil:
		return err.Error()
	case len(r.kvs) > 0:
		return fmt.Sprintf("%d keys, first %v", len(r.kvs), r.kvs[0])
	case len(leases.GetLeases()) > 0:
		return fmt.Sprintf("%d leases, first %v", len(leases.GetLeases()), leases.GetLeases()[0])
	}
	return ""
}

// still notes that keys are there. One that was seen to have gone has come back.
func (m *mortals) still(called time.Duration, kvs []*raftkvv1.KeyValue) {
	m.mu.Lock()
	byName := make(map[string]*nodetest.KeyLife)
	for _, k := range m.life.Keys {
		byName[k.Name] = k
	}
	m.mu.Unlock()
	for _, kv := range kvs {
		if k := byName[kv.GetKey()]; k != nil {
			m.looked(k, called, true)
		} else {
			m.load.rec.violate("%s is there, which nobody has put", kv.GetKey())
		}
	}
}

// check is CheckExpiry. All processes go by one clock, that of this machine, so nothing may end any earlier.
func (m *mortals) check() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return nodetest.CheckExpiry(m.life)
}

// save writes what was seen.
func (m *mortals) save(path string) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return saveJSON(path, m.life)
}

// lives is what has come of the keys, in numbers: those put, those seen to have gone, and of these those on leases of their own shard and of another.
func (m *mortals) lives() string {
	if m == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	put, gone, home, elsewhere, kept, ended := 0, 0, 0, 0, 0, 0
	for _, k := range m.life.Keys {
		if k.Put == 0 {
			continue
		}
		put++
		if !slices.ContainsFunc(k.Looks, func(l nodetest.Look) bool { return !l.There && l.Called > k.Put }) {
			continue
		}
		switch gone++; {
		case k.Lease != nil && k.Lease.Shard == k.Shard:
			home++
		case k.Lease != nil:
			elsewhere++
		}
	}
	for _, l := range m.life.Leases {
		kept, ended = kept+len(l.Kept), ended+len(l.Gone)
	}
	return fmt.Sprintf("%d keys put for a time or on a lease, %d of them seen to have gone: %d on leases of their own shard, %d on leases of another; "+
		"%d leases, granted and kept alive %d times, found ended %d times", put, gone, home, elsewhere, len(m.life.Leases), kept, ended)
}

// leaseClients are those of both protocols.
func leaseClients(at func(port int) string, plain, h2 connect.HTTPClient) [2]raftkvv1connect.LeaseServiceClient {
	return [2]raftkvv1connect.LeaseServiceClient{
		raftkvv1connect.NewLeaseServiceClient(plain, at(clientPort)),
		raftkvv1connect.NewLeaseServiceClient(h2, at(grpcPort), connect.WithGRPC()),
	}
}
