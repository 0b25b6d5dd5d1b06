package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// times returns a hook that takes action on the first n operations.
func times(n int32, action raftkvtest.Action) func(raftkvtest.Operation) raftkvtest.Action {
	var taken atomic.Int32
	return func(raftkvtest.Operation) raftkvtest.Action {
		if taken.Add(1) <= n {
			return action
		}
		return raftkvtest.Action{}
	}
}

func TestRequestsGoToTheLeader(t *testing.T) {
	cluster, client := open(t, 3, 3)
	cluster.Redirect(true)
	ctx := within(t, time.Minute)
	for shard := 1; shard <= 3; shard++ {
		if _, err := client.Put(ctx, keyOn(t, cluster, shard), nil); err != nil {
			t.Fatal(err)
		}
	}
	for node := range 3 {
		if messages, _ := cluster.Messages(node); messages != 1 {
			t.Errorf("node %d received %d messages", node, messages)
		}
	}
}

func TestLeaderMoves(t *testing.T) {
	for _, hints := range []bool{true, false} {
		t.Run(fmt.Sprintf("hints=%t", hints), func(t *testing.T) {
			cluster, client := open(t, 3, 1)
			cluster.Redirect(hints)
			ctx := within(t, time.Minute)
			for i := range 10 {
				cluster.SetLeader(1, i%3)
				if _, err := client.Put(ctx, "k", nil); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Get(ctx, "k"); err != nil {
					t.Fatal(err)
				}
			}
			if n := cluster.Applied("k"); n != 10 {
				t.Fatalf("applied %d times", n)
			}
		})
	}
}

func TestForwardedAnswersTeachTheLeader(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	cluster.SetLeader(1, 2) // the client still believes in node 0, which forwards
	for range 5 {
		if _, err := client.Put(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, operations := cluster.Messages(0); operations != 1 {
		t.Fatalf("node 0 received %d operations", operations)
	}
}

func TestNoLeaderForAWhile(t *testing.T) {
	cluster, client := open(t, 3, 1)
	cluster.SetLeader(1, -1)
	refused := make(chan struct{})
	var once sync.Once
	var seen atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		if seen.Add(1) == 3 {
			once.Do(func() { close(refused) })
		}
		return raftkvtest.Action{}
	})
	done := make(chan error, 1)
	go func() { _, err := client.Put(within(t, time.Minute), "k", nil); done <- err }()
	<-refused
	cluster.SetLeader(1, 1)
	if err := <-done; err != nil || cluster.Applied("k") != 1 {
		t.Fatalf("%v; applied %d times", err, cluster.Applied("k"))
	}
}

// A write whose connection is lost is retried, and applies once whether or not the first attempt did.
func TestLostConnections(t *testing.T) {
	for name, action := range map[string]raftkvtest.Action{
		"before applying": {DropBefore: true},
		"after applying":  {DropAfter: true},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, client := open(t, 3, 1)
			ctx := within(t, time.Minute)
			for i := range 5 {
				cluster.SetHook(times(2, action))
				if _, err := client.Put(ctx, "k", nil); err != nil {
					t.Fatal(err)
				}
				if n := cluster.Applied("k"); n != i+1 {
					t.Fatalf("applied %d times instead of %d", n, i+1)
				}
			}
			cluster.SetHook(times(2, action))
			if item, err := client.Get(ctx, "k"); err != nil || item.Version != 5 {
				t.Fatalf("%+v, %v", item, err)
			}
			cluster.SetHook(times(2, action))
			if r, err := client.Batch(ctx, raftkv.PutOp("k", nil)); err != nil || r.Results[0].Version != 6 {
				t.Fatalf("%+v, %v", r, err)
			}
			cluster.SetHook(times(2, action))
			if r, err := client.Delete(ctx, "k"); err != nil || !r.Deleted {
				t.Fatalf("%+v, %v", r, err)
			}
		})
	}
}

// Many writers on a cluster that keeps losing streams, leaders and answers: every write is applied exactly once.
func TestExactlyOnceUnderFaults(t *testing.T) {
	cluster, client := open(t, 3, 2)
	cluster.Redirect(true)
	var count atomic.Uint64
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		switch n := count.Add(1); {
		case n%97 == 0:
			return raftkvtest.Action{DropAfter: true}
		case n%89 == 0:
			return raftkvtest.Action{DropBefore: true}
		case n%61 == 0:
			return raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Millisecond)}
		case n%53 == 0:
			return raftkvtest.Action{Refuse: raftkvtest.Unknown("a test")}
		case n%500 == 0:
			cluster.SetLeader(1, int(n/500)%3)
		}
		return raftkvtest.Action{}
	})
	ctx := within(t, time.Minute)
	const writers, writes = 16, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			key := fmt.Sprintf("key-%d", w)
			for i := range writes {
				r, err := client.Put(ctx, key, []byte(key))
				if err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
				if r.Version != uint64(i+1) {
					t.Errorf("%s: version %d after %d writes", key, r.Version, i+1)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestStoppedNode(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	if _, err := client.Put(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	cluster.StopNode(0) // the leader
	done := make(chan error, 1)
	go func() { _, err := client.Put(ctx, "k", nil); done <- err }()
	cluster.SetLeader(1, 1)
	if err := <-done; err != nil || cluster.Applied("k") != 2 {
		t.Fatalf("%v; applied %d times", err, cluster.Applied("k"))
	}
}

func TestOverload(t *testing.T) {
	cluster, client := open(t, 1, 1)
	cluster.SetHook(times(3, raftkvtest.Action{Refuse: raftkvtest.Overloaded(2 * time.Millisecond)}))
	if _, err := client.Put(within(t, time.Minute), "k", nil); err != nil {
		t.Fatal(err)
	}
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		return raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Hour)} // time runs out in the pause
	})
	_, err := client.Put(within(t, time.Second), "k", nil)
	var call *raftkv.CallError
	var overloaded *raftkv.OverloadedError
	if !errors.As(err, &call) || !errors.As(err, &overloaded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if len(call.Attempts) == 0 || call.Attempts[0].Endpoint != cluster.Endpoints()[0] || len(call.Attempts) > 8 {
		t.Fatalf("%+v", call.Attempts)
	}
}

// A node that cannot read its state is left for another, although it leads.
func TestReadFailed(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	if _, err := client.Put(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	before, _ := cluster.Messages(0)
	cluster.SetHook(times(1, raftkvtest.Action{Refuse: raftkvtest.ReadFailed()}))
	if _, err := client.Get(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if after, _ := cluster.Messages(0); after != before+1 {
		t.Errorf("the node that failed was asked %d times", after-before)
	}
}

func TestRefusalsAreFinal(t *testing.T) {
	cluster, client := open(t, 1, 1)
	cluster.SetHook(times(1, raftkvtest.Action{Refuse: raftkvtest.TooLarge("value", 1, 2)}))
	_, err := client.Put(within(t, time.Minute), "k", nil)
	var limit *raftkv.LimitError
	var call *raftkv.CallError
	if !errors.As(err, &limit) || !errors.As(err, &call) || len(call.Attempts) != 1 {
		t.Fatalf("%v", err)
	}
	cluster.SetHook(times(2, raftkvtest.Action{Refuse: raftkvtest.Stale(1, 7)}))
	if _, err := client.Put(within(t, time.Minute), "k", nil); err != nil {
		t.Fatal(err) // a stale route is not a refusal
	}
}

func TestSessionExpired(t *testing.T) {
	t.Run("on a first attempt", func(t *testing.T) {
		cluster, client := open(t, 1, 1)
		cluster.Forget(1) // at a revision that the client has not seen
		if _, err := client.Put(within(t, time.Minute), "k", nil); err != nil || cluster.Applied("k") != 1 {
			t.Fatalf("%v; applied %d times", err, cluster.Applied("k"))
		}
	})
	t.Run("after a lost attempt", func(t *testing.T) {
		cluster, client := open(t, 1, 1)
		var attempt atomic.Int32
		cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
			if attempt.Add(1) == 1 {
				return raftkvtest.Action{DropAfter: true}
			}
			cluster.Forget(1)
			return raftkvtest.Action{}
		})
		_, err := client.Put(within(t, time.Minute), "k", nil)
		var unknown *raftkv.OutcomeUnknownError
		var expired *raftkv.SessionExpiredError
		if !errors.As(err, &unknown) || !errors.As(err, &expired) || cluster.Applied("k") != 1 {
			t.Fatalf("%v; applied %d times", err, cluster.Applied("k"))
		}
	})
}

// When time runs out, the error says whether the write may have been applied.
func TestTimeouts(t *testing.T) {
	never := make(chan struct{})
	t.Run("unknown, by context", func(t *testing.T) {
		cluster, client := open(t, 1, 1)
		cluster.SetHook(times(1, raftkvtest.Action{Wait: never}))
		_, err := client.Put(within(t, 50*time.Millisecond), "k", nil)
		var unknown *raftkv.OutcomeUnknownError
		if !errors.As(err, &unknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
	})
	t.Run("unknown, by default", func(t *testing.T) {
		cluster, client := open(t, 1, 1, raftkv.WithTimeout(50*time.Millisecond))
		cluster.SetHook(times(1, raftkvtest.Action{Wait: never}))
		_, err := client.Put(t.Context(), "k", nil)
		var unknown *raftkv.OutcomeUnknownError
		if !errors.As(err, &unknown) || !errors.Is(err, raftkv.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
		if _, err := client.Put(within(t, time.Minute), "k", nil); err != nil {
			t.Fatalf("the stream is stuck: %v", err)
		}
	})
	t.Run("a read", func(t *testing.T) {
		cluster, client := open(t, 1, 1)
		cluster.SetHook(times(1, raftkvtest.Action{Wait: never}))
		_, err := client.Get(within(t, 50*time.Millisecond), "k")
		var call *raftkv.CallError
		if !errors.As(err, &call) {
			t.Fatalf("%v", err)
		}
	})
}

// When time runs out before anything was sent, or after refusals only, the write was not applied.
func TestDefiniteTimeouts(t *testing.T) {
	t.Run("no leader", func(t *testing.T) {
		cluster, client := open(t, 1, 1, raftkv.WithTimeout(time.Second))
		cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
			return raftkvtest.Action{Refuse: raftkvtest.NoLeader(1, time.Hour)} // time runs out in the pause
		})
		_, err := client.Put(t.Context(), "k", nil)
		var call *raftkv.CallError
		var notLeader *raftkv.NotLeaderError
		if !errors.As(err, &call) || !errors.As(err, &notLeader) || !errors.Is(err, raftkv.ErrTimeout) {
			t.Fatalf("%v", err)
		}
		if !strings.Contains(err.Error(), cluster.Endpoints()[0]) {
			t.Fatalf("the error does not name the endpoint: %v", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		cluster, client := open(t, 1, 1, raftkv.WithTimeout(200*time.Millisecond))
		cluster.StopNode(0)
		_, _ = client.Put(t.Context(), "k", nil) // perhaps on the connection that is just being cut
		_, err := client.Put(t.Context(), "k", nil)
		var call *raftkv.CallError
		if !errors.As(err, &call) || len(call.Attempts) < 2 {
			t.Fatalf("%v", err)
		}
	})
	t.Run("no connection", func(t *testing.T) {
		cluster := raftkvtest.New(1, 1)
		defer cluster.Close()
		client, err := raftkv.Open(t.Context(), cluster.Endpoints(), raftkv.WithTimeout(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		cluster.StopNode(0)
		_, _ = client.Put(t.Context(), "k", nil)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err = client.Put(ctx, "k", nil)
			cancel()
			var call *raftkv.CallError
			if !errors.As(err, &call) {
				t.Fatalf("%v", err)
			}
		}
	})
}

func TestClose(t *testing.T) {
	cluster, client := open(t, 1, 1)
	arrived := make(chan struct{}, 2)
	never := make(chan struct{})
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		arrived <- struct{}{}
		return raftkvtest.Action{Wait: never}
	})
	write, read := make(chan error, 1), make(chan error, 1)
	go func() { _, err := client.Put(t.Context(), "k", nil); write <- err }()
	go func() { _, err := client.Get(t.Context(), "k"); read <- err }()
	<-arrived
	<-arrived
	client.Close()
	var unknown *raftkv.OutcomeUnknownError
	if err := <-write; !errors.As(err, &unknown) || !errors.Is(err, raftkv.ErrClosed) {
		t.Fatalf("%v", err)
	}
	var call *raftkv.CallError
	if err := <-read; !errors.As(err, &call) || !errors.Is(err, raftkv.ErrClosed) {
		t.Fatalf("%v", err)
	}
	if _, err := client.Put(t.Context(), "k", nil); !errors.As(err, &call) || !errors.Is(err, raftkv.ErrClosed) {
		t.Fatalf("%v", err)
	}
	if _, err := client.Cluster().Nodes(t.Context()); !errors.Is(err, raftkv.ErrClosed) {
		t.Fatalf("%v", err)
	}
	client.Close() // again is harmless
}

func TestOpen(t *testing.T) {
	for name, endpoints := range map[string][]string{
		"none":        nil,
		"no port":     {"localhost"},
		"bad scheme":  {"ftp://localhost:1"},
		"both":        {"http://localhost:1", "https://localhost:2"},
		"no host":     {":8080"},
		"bad timeout": {"localhost:1"},
	} {
		var opts []raftkv.Option
		if name == "bad timeout" {
			opts = append(opts, raftkv.WithTimeout(0))
		}
		if c, err := raftkv.Open(t.Context(), endpoints, opts...); err == nil {
			c.Close()
			t.Errorf("%s: no error", name)
		}
	}
	cluster, _ := open(t, 3, 1)
	dead := deadAddress(t)
	client, err := raftkv.Open(within(t, time.Minute), []string{dead, "http://" + cluster.Endpoints()[2]})
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if _, err := raftkv.Open(within(t, 50*time.Millisecond), []string{dead}); err == nil || !strings.Contains(err.Error(), dead) {
		t.Fatalf("%v", err)
	}
}

// Something that is no node is told apart at once, not at the end of the timeout.
func TestWrongServer(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	if _, err := raftkv.Open(within(t, time.Minute), []string{server.Listener.Addr().String()}); !errors.Is(err, raftkv.ErrRefused) {
		t.Fatalf("%v", err)
	}
}

// A port for native gRPC is named as what it is.
func TestGRPCPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	_, err = raftkv.Open(within(t, time.Minute), []string{l.Addr().String()})
	if !errors.Is(err, raftkv.ErrRefused) || !strings.Contains(err.Error(), "native gRPC only") {
		t.Errorf("%v", err)
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// deadAddress is one at which nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
