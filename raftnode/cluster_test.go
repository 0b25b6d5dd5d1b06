package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// cluster is some nodes on loopback, with real disks.
type cluster struct {
	t       testing.TB
	dir     string
	members []raftnode.Member
	nodes   map[placement.NodeID]*raftnode.Node
	adjust  func(*raftnode.Options)
}

// nextPort is where listenPeer goes on. Other runs of these tests begin elsewhere.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(os.Getpid())) }

// listenPeer listens on a port that is still free when a node has been down and listens again: the system gives it to no connection.
func listenPeer(t testing.TB) net.Listener {
	t.Helper()
	const first, count = 30_000, 2_700
	for range count {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+nextPort.Add(1)%count)); err == nil {
			return l
		}
	}
	t.Fatal("there is no free port")
	return nil
}

// newCluster starts n nodes and waits until they have formed.
func newCluster(t testing.TB, n int, adjust func(*raftnode.Options)) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), nodes: make(map[placement.NodeID]*raftnode.Node), adjust: adjust}
	listeners := make(map[placement.NodeID]net.Listener)
	for i := range n {
		l := listenPeer(t)
		id := placement.NodeID(fmt.Sprintf("n%d", i+1))
		listeners[id] = l
		c.members = append(c.members, raftnode.Member{ID: id, PeerAddress: l.Addr().String(), ClientAddress: fmt.Sprintf("127.0.0.1:%d", i+1)})
	}
	for _, m := range c.members {
		c.start(m.ID, listeners[m.ID])
	}
	for _, m := range c.members {
		c.formed(m.ID)
	}
	t.Cleanup(c.stopAll)
	return c
}

func (c *cluster) options(id placement.NodeID) raftnode.Options {
	o := raftnode.Options{
		NodeID: id, Dir: filepath.Join(c.dir, string(id)), Members: c.members,
		HeartbeatInterval: 20 * time.Millisecond, ElectionTimeout: 200 * time.Millisecond,
		CacheBytes: 8 << 20, MemTableBytes: 4 << 20, SegmentBytes: 4 << 20,
		Logger: testLogger(),
	}
	if c.adjust != nil {
		c.adjust(&o)
	}
	return o
}

func testLogger() *slog.Logger {
	if os.Getenv("RAFTKV_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (c *cluster) start(id placement.NodeID, l net.Listener) *raftnode.Node {
	c.t.Helper()
	o := c.options(id)
	o.PeerListener = l
	n, err := raftnode.Open(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[id] = n
	return n
}

func (c *cluster) formed(id placement.NodeID) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.nodes[id].Formed(ctx); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) stop(id placement.NodeID) {
	c.t.Helper()
	if err := c.nodes[id].Close(); err != nil {
		c.t.Error(err)
	}
	delete(c.nodes, id)
}

func (c *cluster) stopAll() {
	for id := range c.nodes {
		c.stop(id)
	}
}

const (
	longTimeout  = 10 * time.Second
	shortTimeout = 500 * time.Millisecond
)

func (c *cluster) put(id placement.NodeID, key, value string) (*storev1.WriteResult, error) {
	return c.putWithin(id, key, value, longTimeout)
}

func (c *cluster) putWithin(id placement.NodeID, key, value string, d time.Duration) (*storev1.WriteResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte(value)}
	res := c.nodes[id].Do(ctx, &raftnode.Request{
		AutoShard: true,
		Command:   &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}}},
	})
	return res.Write, res.Err
}

var errMissing = errors.New("no such key")

func (c *cluster) get(id placement.NodeID, key string) (string, error) {
	return c.getWithin(id, key, longTimeout)
}

func (c *cluster) getWithin(id placement.NodeID, key string, d time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	res := c.nodes[id].Do(ctx, &raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{key}}})
	if res.Err != nil {
		return "", res.Err
	}
	r := res.Read.GetRecords()[0].GetRecord()
	if r == nil {
		return "", errMissing
	}
	return string(r.GetValue()), nil
}

// waitFor waits until something is so that comes about by itself.
func waitFor(t testing.TB, what string, so func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.NewTimer(longTimeout)
	defer timeout.Stop()
	for !so() {
		select {
		case <-ticker.C:
		case <-timeout.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
