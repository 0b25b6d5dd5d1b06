package raftkv_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// proxy stands between clients and a node.
type proxy struct {
	listener net.Listener
	// silent: what arrives is swallowed, on both sides, as on a path that is cut without a word.
	silent atomic.Bool
	// open counts the connections that clients have, sent the bytes of clients.
	open, sent atomic.Int64
	serving    sync.WaitGroup
}

// behindProxy puts a proxy in front of node i, which the cluster tells as its address.
func behindProxy(t *testing.T, cluster *raftkvtest.Cluster, i int) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, node := &proxy{listener: l}, cluster.Endpoints()[i]
	cluster.Advertise(i, l.Addr().String())
	p.serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.open.Add(1)
			server, err := net.Dial("tcp", node)
			if err != nil {
				p.open.Add(-1)
				_ = client.Close()
				continue
			}
			p.serving.Go(func() {
				p.pass(server, client, &p.sent)
				p.open.Add(-1)
			})
			p.serving.Go(func() { p.pass(client, server, new(atomic.Int64)) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.serving.Wait()
	})
	return p
}

func (p *proxy) pass(to, from net.Conn, count *atomic.Int64) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		count.Add(int64(n))
		if err != nil {
			return
		}
		if p.silent.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			_, _ = io.Copy(io.Discard, from)
			return
		}
	}
}

// settles waits until clients have want connections. Two calls that find none at the same moment both dial; the HTTP transport closes at once what it does
// not need.
func (p *proxy) settles(t *testing.T, want int64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); p.open.Load() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want %d", p.open.Load(), want)
		}
	}
}

// proxied is a cluster of which node 0 is behind a proxy, and a client of it. Both end with the test, the client first and the cluster before the proxy.
func proxied(t *testing.T, nodes int, opts ...raftkv.Option) (*raftkvtest.Cluster, *proxy, *raftkv.Client) {
	t.Helper()
	cluster := raftkvtest.New(nodes, 1)
	p := behindProxy(t, cluster, 0)
	t.Cleanup(cluster.Close)
	client, err := raftkv.Open(t.Context(), cluster.Endpoints(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return cluster, p, client
}

// Every lane has a connection to itself if there are enough; otherwise both share the only one.
func TestConnections(t *testing.T) {
	for connections, want := range map[int]int64{1: 1, 2: 2, 5: 5} {
		t.Run(fmt.Sprint(connections), func(t *testing.T) {
			_, p, client := proxied(t, 1, raftkv.WithConnections(connections))
			ctx := within(t, time.Minute)
			for range 2 * connections {
				if _, err := client.Put(ctx, "k", nil); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Get(ctx, "k"); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Cluster().Nodes(ctx); err != nil {
					t.Fatal(err)
				}
			}
			p.settles(t, want)
			// Watches and leases share one beside those: neither load nor a watch that nobody reads delays a keep-alive.
			for e, err := range client.Watch(ctx, raftkv.Key("k"), raftkv.WithProgress(0)) {
				if err != nil || e.Type != raftkv.EventProgress {
					t.Fatalf("%v, %v", e, err)
				}
				if _, err := client.Grant(ctx, time.Hour, raftkv.WithoutKeepAlive()); err != nil {
					t.Fatal(err)
				}
				p.settles(t, want+1)
				break
			}
		})
	}
	for _, n := range []int{0, -1, 65} {
		if c, err := raftkv.Open(t.Context(), []string{"127.0.0.1:1"}, raftkv.WithConnections(n)); err == nil {
			c.Close()
			t.Errorf("%d connections were taken", n)
		}
	}
}

// A path that is cut without a word is noticed by pings, long before the patience of a call ends.
func TestDeadPathIsNoticed(t *testing.T) {
	cluster, p, client := proxied(t, 3, raftkv.WithTimeout(time.Hour), raftkv.WithPings(20*time.Millisecond, 200*time.Millisecond))
	if _, err := client.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	p.silent.Store(true)
	cluster.SetLeader(1, 1)
	if _, err := client.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	if n := cluster.Applied("k"); n != 2 {
		t.Errorf("applied %d times", n)
	}
	if _, err := client.Get(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
}

// Messages of 1 KiB and more are compressed if that is asked for, those of streams, too.
func TestGzip(t *testing.T) {
	value := make([]byte, 256<<10)
	_, plain, client := proxied(t, 1)
	if _, err := client.Put(within(t, time.Minute), "k", value); err != nil {
		t.Fatal(err)
	}
	if n := plain.sent.Load(); n < int64(len(value)) {
		t.Errorf("%d bytes were sent for a value of %d", n, len(value))
	}
	_, packed, client := proxied(t, 1, raftkv.WithGzip())
	ctx := within(t, time.Minute)
	if _, err := client.Put(ctx, "k", value); err != nil {
		t.Fatal(err)
	}
	if n := packed.sent.Load(); n > int64(len(value))/8 {
		t.Errorf("%d bytes were sent for a compressible value of %d", n, len(value))
	}
	if item, err := client.Get(ctx, "k"); err != nil || len(item.Value) != len(value) {
		t.Fatalf("%d bytes, %v", len(item.Value), err)
	}
	before := packed.sent.Load()
	if _, err := client.Put(ctx, "k", value[:900]); err != nil {
		t.Fatal(err)
	}
	if n := packed.sent.Load() - before; n < 900 {
		t.Errorf("%d bytes were sent for a value of 900: it was compressed", n)
	}
}
