package raftkvtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// greet is what a user would want to test.
func greet(ctx context.Context, client *raftkv.Client, name string) (string, error) {
	r, err := client.Put(ctx, "greeted/"+name, nil, raftkv.WithTTL(time.Hour))
	if err != nil {
		return "", err
	}
	if r.Version > 1 {
		return "Hello again, " + name, nil
	}
	return "Hello, " + name, nil
}

// One line makes a client of a cluster in memory.
func TestNewClient(t *testing.T) {
	client := raftkvtest.NewClient(t)
	for _, want := range []string{"Hello, Ada", "Hello again, Ada"} {
		if got, err := greet(t.Context(), client, "Ada"); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}

// A test of more than one node, or one that moves the clock, has the cluster in its hands.
func TestClock(t *testing.T) {
	cluster := raftkvtest.New(3, 2)
	t.Cleanup(cluster.Close)
	client := cluster.Client(t)
	for _, want := range []string{"Hello, Ada", "Hello again, Ada", "Hello, Ada"} {
		if got, err := greet(t.Context(), client, "Ada"); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		cluster.Advance(40 * time.Minute)
		if want == "Hello again, Ada" {
			cluster.Advance(20 * time.Minute)
		}
	}
}

// A token, of a watch or of a read, leads nowhere at another cluster, though that has as many shards.
func TestTokensBelongToTheirCluster(t *testing.T) {
	ctx := t.Context()
	token := func(client *raftkv.Client, options ...raftkv.WatchOption) (string, error) {
		for e, err := range client.Watch(ctx, raftkv.Prefix("k"), append(options, raftkv.IncludeInitial())...) {
			if err != nil {
				return "", err
			}
			return e.Token(), nil
		}
		return "", errors.New("the watch has ended")
	}
	one, other := raftkvtest.NewClient(t), raftkvtest.NewClient(t)
	for _, client := range []*raftkv.Client{one, other} {
		for range 2 {
			if _, err := client.Put(ctx, "k", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	at, err := token(one, raftkv.FromRevision(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token(one, raftkv.FromToken(at)); err != nil {
		t.Errorf("its own cluster: %v", err)
	}
	var invalid *raftkv.InvalidError
	if _, err := token(other, raftkv.FromToken(at)); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "begin anew without it") {
		t.Errorf("a watch of another cluster: %v", err)
	}
	if _, err := other.Get(ctx, "k", raftkv.AtLeast(one.Token())); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "read without it") {
		t.Errorf("a read of another cluster: %v", err)
	}
}

// A late copy of a write whose answer its client has acknowledged is refused, with no floor: it is not that the cluster has not kept it. Once the client is
// forgotten, that is why.
func TestAcknowledgedWriteIsRefused(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	t.Cleanup(cluster.Close)
	api := raftkvv1connect.NewKvServiceClient(http.DefaultClient, "http://"+cluster.Endpoints()[0])
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	cluster.Forget(1) // so that there is a floor, which all attempts have seen
	put := func(sequence, acked uint64) error {
		_, err := api.Put(t.Context(), &raftkvv1.PutRequest{
			Key: "k", RequestId: &raftkvv1.RequestId{ClientId: make([]byte, 16), Sequence: sequence, AckedBelow: acked, Seen: 1},
		})
		return err
	}
	if err := errors.Join(put(1, 0), put(2, 2)); err != nil {
		t.Fatal(err)
	}
	if e := expired(t, put(1, 0)); e.GetFloor() != 0 || e.GetRevision() == 0 {
		t.Errorf("acknowledged: %v", e)
	}
	cluster.Forget(1)
	if e := expired(t, put(1, 0)); e.GetFloor() == 0 {
		t.Errorf("forgotten: %v", e)
	}
}

// expired is the SessionExpired that err carries.
func expired(t *testing.T, err error) *raftkvv1.SessionExpired {
	t.Helper()
	var refused *connect.Error
	if !errors.As(err, &refused) {
		t.Fatalf("%v", err)
	}
	for _, d := range refused.Details() {
		if m, err := d.Value(); err == nil {
			if e, ok := m.(*raftkvv1.SessionExpired); ok {
				return e
			}
		}
	}
	t.Fatalf("%v, with %v", refused, refused.Details())
	return nil
}

// Nothing but Advance ends what has a time to live.
func TestClockStandsStill(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	t.Cleanup(cluster.Close)
	client := cluster.Client(t)
	if _, err := client.Put(t.Context(), "k", nil, raftkv.WithTTL(time.Nanosecond)); err != nil {
		t.Fatal(err)
	}
	if item, err := client.Get(t.Context(), "k"); err != nil || item.TTL != time.Millisecond {
		t.Error(item, err)
	}
	cluster.Advance(-time.Hour)
	cluster.Advance(time.Millisecond)
	if _, err := client.Get(t.Context(), "k"); !errors.Is(err, raftkv.ErrNotFound) {
		t.Error(err)
	}
}

func Example() {
	cluster := raftkvtest.New(3, 1) // in a test of your own: client := raftkvtest.NewClient(t)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	cluster.StopNode(0) // what does the program do when the leader fails?
	cluster.SetLeader(1, 1)
	text, err := greet(ctx, client, "Ada")
	fmt.Println(text, err)
	// Output: Hello, Ada <nil>
}

// Scan shows a revision as List does.
func TestScanAtRevision(t *testing.T) {
	cluster := raftkvtest.New(1, 2)
	t.Cleanup(cluster.Close)
	client := cluster.Client(t)
	first, err := client.Put(t.Context(), "{t}a", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "{t}a", []byte("new")); err != nil {
		t.Fatal(err)
	}
	api := raftkvv1connect.NewKvServiceClient(http.DefaultClient, "http://"+cluster.Endpoints()[0])
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for _, r := range []*raftkvv1.KeyRange{{Prefix: "{t}"}, {Start: "{t}a", End: "{t}b"}, {}} {
		stream, err := api.Scan(t.Context(), &raftkvv1.ScanRequest{Range: r, Revision: first.Revision})
		if err != nil {
			t.Fatal(err)
		}
		shown := stream.Receive()
		several := r.Prefix == "" && r.Start == ""
		if shown == several || several != (connect.CodeOf(stream.Err()) == connect.CodeFailedPrecondition) {
			t.Errorf("%v: shown %t, %v", r, shown, stream.Err())
		}
		if shown && (string(stream.Msg().Kvs[0].Value) != "old" || stream.Msg().Header.Revision != first.Revision) {
			t.Errorf("%v: %v", r, stream.Msg())
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
}
