package raftkv_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// Stale reads go to the replicas in turn, whoever leads, and do not wait for an election.
func TestStaleReads(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := t.Context()
	put, err := client.Put(ctx, "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	item, err := client.Get(ctx, "a")
	if err != nil || item.Age != 0 {
		t.Fatalf("a read of the newest: %+v, %v", item, err)
	}
	cluster.SetLeader(1, -1)
	nodes := make(map[int]bool)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		nodes[o.Node] = true
		return raftkvtest.Action{}
	})
	for range 6 {
		item, err := client.Get(ctx, "a", raftkv.StaleWithin(time.Second), raftkv.AtLeast(client.TokenAt(put.Shard, put.Revision)))
		if err != nil || string(item.Value) != "1" || item.Age != time.Millisecond {
			t.Fatalf("%+v, %v", item, err)
		}
	}
	cluster.SetHook(nil)
	if len(nodes) != 3 {
		t.Errorf("asked the nodes %v", nodes)
	}
	page, err := client.List(ctx, raftkv.Range{}, raftkv.ScanOptions{Stale: true, AtLeast: client.Token()}, "")
	if err != nil || len(page.Items) != 1 || page.Token == "" || page.Age != time.Millisecond || page.Items[0].Age != page.Age {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestTokens(t *testing.T) {
	cluster, client := open(t, 1, 4)
	ctx := t.Context()
	other, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		if _, err := client.Put(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.Get(ctx, "a", raftkv.AtLeast(client.Token())); err != nil {
		t.Error(err)
	}
	var invalid *raftkv.InvalidError
	for name, call := range map[string]func() error{
		"a token of nobody": func() error { _, err := client.Get(ctx, "a", raftkv.AtLeast("nothing")); return err },
		"a negative bound":  func() error { _, err := client.Get(ctx, "a", raftkv.StaleWithin(-1)); return err },
		"a tiny bound":      func() error { _, err := client.Get(ctx, "a", raftkv.StaleWithin(1)); return err },
		"more than a day":   func() error { _, err := client.Get(ctx, "a", raftkv.StaleWithin(25*time.Hour)); return err },
		"a revision":        func() error { _, err := client.Get(ctx, "a", raftkv.StaleWithin(0), raftkv.AtRevision(1)); return err },
		"a page of nobody": func() error {
			_, err := client.List(ctx, raftkv.Range{}, raftkv.ScanOptions{Stale: true, AtLeast: "nothing"}, "")
			return err
		},
		"a page with a bound": func() error {
			_, err := client.List(ctx, raftkv.Range{}, raftkv.ScanOptions{MaxStaleness: time.Second}, "")
			return err
		},
	} {
		if err := call(); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTooStaleSays(t *testing.T) {
	for want, err := range map[string]*raftkv.TooStaleError{
		"lacked what the token names": {Shard: 1},
		"did not know how old":        {Shard: 1, Bound: time.Second},
		"might be 2s old, which is":   {Shard: 1, Bound: time.Second, Age: 2 * time.Second},
	} {
		if !strings.Contains(err.Error(), want) || !errors.Is(err, raftkv.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	}
}
