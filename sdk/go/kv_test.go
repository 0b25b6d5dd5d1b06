package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	raftkv "github.com/raftkv/raftkv/sdk/go"
)

func TestPutGetDelete(t *testing.T) {
	_, client := open(t, 3, 4)
	ctx := within(t, time.Minute)
	for i := range 100 {
		key, value := fmt.Sprintf("key-%d", i), fmt.Sprintf("value-%d", i)
		first, err := client.Put(ctx, key, []byte("old"))
		if err != nil {
			t.Fatal(err)
		}
		second, err := client.Put(ctx, key, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		if second.Revision <= first.Revision || second.CreateRevision != first.Revision || second.Version != 2 {
			t.Fatalf("put %s: %+v after %+v", key, second, first)
		}
		item, err := client.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		want := raftkv.Item{
			Key: key, Value: []byte(value), CreateRevision: first.Revision, ModRevision: second.Revision, Version: 2,
		}
		if d := cmp.Diff(want, item); d != "" {
			t.Fatal(d)
		}
		if r, err := client.Delete(ctx, key); err != nil || !r.Deleted || r.Shard != first.Shard {
			t.Fatalf("delete %s: %+v, %v", key, r, err)
		}
		if r, err := client.Delete(ctx, key); err != nil || r.Deleted {
			t.Fatalf("delete of nothing: %+v, %v", r, err)
		}
		_, err = client.Get(ctx, key)
		var missing *raftkv.KeyNotFoundError
		if !errors.Is(err, raftkv.ErrNotFound) || !errors.As(err, &missing) || missing.Key != key || missing.Shard != first.Shard {
			t.Fatalf("get of nothing: %v", err)
		}
	}
}

func TestBatch(t *testing.T) {
	cluster, client := open(t, 3, 4)
	ctx := within(t, time.Minute)
	if _, err := client.Put(ctx, "{a}gone", nil); err != nil {
		t.Fatal(err)
	}
	r, err := client.Batch(ctx, raftkv.PutOp("{a}1", []byte("x")), raftkv.DeleteOp("{a}gone"), raftkv.PutOp("{a}2", []byte("yy")))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != 3 || !r.Results[1].Deleted || r.Results[2].Revision != r.Revision || r.Results[2].Version != 1 {
		t.Fatalf("%+v", r)
	}
	for key, want := range map[string]string{"{a}1": "x", "{a}2": "yy"} {
		if item, err := client.Get(ctx, key); err != nil || string(item.Value) != want {
			t.Fatalf("%s: %+v, %v", key, item, err)
		}
	}
	_, err = client.Batch(ctx, raftkv.PutOp(keyOn(t, cluster, 1), nil), raftkv.PutOp(keyOn(t, cluster, 2), nil))
	var cross *raftkv.CrossShardError
	if !errors.As(err, &cross) || len(cross.Groups) != 2 {
		t.Fatalf("keys of two shards: %v", err)
	}
}

func TestScan(t *testing.T) {
	_, client := open(t, 3, 4)
	ctx := within(t, time.Minute)
	var all []string
	for i := range 2500 { // more than two pages
		key := fmt.Sprintf("k/%05d", i)
		all = append(all, key)
	}
	for from := 0; from < len(all); from += 500 {
		errs := make(chan error, 500)
		for _, key := range all[from : from+500] {
			go func() { _, err := client.Put(ctx, key, []byte(key)); errs <- err }()
		}
		for range 500 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
	collect := func(r raftkv.Range, o raftkv.ScanOptions) (keys []string) {
		for item, err := range client.Scan(ctx, r, o) {
			if err != nil {
				t.Fatal(err)
			}
			if (string(item.Value) == item.Key) == o.KeysOnly {
				t.Fatalf("value of %s is %q", item.Key, item.Value)
			}
			keys = append(keys, item.Key)
		}
		return keys
	}
	if d := cmp.Diff(all, collect(raftkv.Prefix("k/"), raftkv.ScanOptions{})); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff(all[100:1300], collect(raftkv.Range{Start: all[100]}, raftkv.ScanOptions{Limit: 1200, KeysOnly: true})); d != "" {
		t.Fatal(d)
	}
	if d := cmp.Diff([]string{all[9], all[8]}, collect(raftkv.Range{End: all[10]}, raftkv.ScanOptions{Limit: 2, Reverse: true})); d != "" {
		t.Fatal(d)
	}
	for _, err := range client.Scan(ctx, raftkv.Range{}, raftkv.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		break // leaves nothing behind
	}
	page, err := client.List(ctx, raftkv.Prefix("k/"), raftkv.ScanOptions{Limit: 3}, "")
	if err != nil || len(page.Items) != 3 || page.Next == "" {
		t.Fatalf("%+v, %v", page, err)
	}
	page, err = client.List(ctx, raftkv.Prefix("k/"), raftkv.ScanOptions{Limit: 3}, page.Next)
	if err != nil || page.Items[0].Key != all[3] {
		t.Fatalf("%+v, %v", page, err)
	}
}

// Pages come one by one, and only those that are asked for.
// All pages of a scan at a revision are of that revision, whatever is written meanwhile.
func TestScanAtRevision(t *testing.T) {
	_, client := open(t, 2, 4)
	ctx := within(t, time.Minute)
	var at uint64
	var want []string
	for i := range 1500 { // more than a page
		key := fmt.Sprintf("{t}%04d", i)
		r, err := client.Put(ctx, key, []byte("old"))
		if err != nil {
			t.Fatal(err)
		}
		at, want = r.Revision, append(want, key)
	}
	var got []string
	for item, err := range client.Scan(ctx, raftkv.Prefix("{t}"), raftkv.ScanOptions{Revision: at}) {
		if err != nil || string(item.Value) != "old" {
			t.Fatalf("%+v, %v", item, err)
		}
		if got = append(got, item.Key); len(got)%700 == 1 {
			for _, key := range []string{"{t}0000", "{t}1400", "{t}2000"} {
				if _, err := client.Put(ctx, key, []byte("new")); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	page, err := client.List(ctx, raftkv.Prefix("{t}"), raftkv.ScanOptions{Revision: at, Limit: 1}, "")
	if err != nil || len(page.Parts) != 1 || page.Parts[0].Revision != at || page.Parts[0].Shard == 0 {
		t.Errorf("%+v, %v", page, err)
	}
	if page, err = client.List(ctx, raftkv.Range{}, raftkv.ScanOptions{Stale: true, Limit: 1}, ""); err != nil || len(page.Parts) != 4 || page.Parts[3].Age != page.Age {
		t.Errorf("%+v, %v", page, err)
	}
	page, err = client.List(ctx, raftkv.Range{Start: "{t}0003", End: "{t}0005"}, raftkv.ScanOptions{Revision: at}, "")
	if err != nil || len(page.Items) != 2 || page.Token != client.TokenAt(page.Parts[0].Shard, at) {
		t.Errorf("a range within a tag: %+v, %v", page, err)
	}
	var (
		cross   *raftkv.CrossShardError
		future  *raftkv.FutureRevisionError
		invalid *raftkv.InvalidError
	)
	if _, err := client.List(ctx, raftkv.Prefix("{"), raftkv.ScanOptions{Revision: at}, ""); !errors.As(err, &cross) || len(cross.Groups) != 4 {
		t.Errorf("a range of several shards: %v", err)
	}
	if _, err := client.List(ctx, raftkv.Prefix("{t}"), raftkv.ScanOptions{Revision: at + 100}, ""); !errors.As(err, &future) {
		t.Errorf("a revision of the future: %v", err)
	}
	if _, err := client.List(ctx, raftkv.Prefix("{t}"), raftkv.ScanOptions{Revision: at, Stale: true}, ""); !errors.As(err, &invalid) {
		t.Errorf("a stale one: %v", err)
	}
}

func TestPages(t *testing.T) {
	_, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	for _, err := range client.Pages(ctx, raftkv.Prefix("none"), raftkv.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 25 {
		if _, err := client.Put(ctx, fmt.Sprintf("k/%02d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	var sizes []int
	for p, err := range client.Pages(ctx, raftkv.Prefix("k/"), raftkv.ScanOptions{Limit: 10}) {
		if err != nil || p.Items[0].Key != fmt.Sprintf("k/%02d", 10*len(sizes)) {
			t.Fatalf("%+v, %v", p, err)
		}
		sizes = append(sizes, len(p.Items))
	}
	if d := cmp.Diff([]int{10, 10, 5}, sizes); d != "" {
		t.Fatal(d)
	}
	pages := 0
	for _, err := range client.Pages(ctx, raftkv.Prefix("k/"), raftkv.ScanOptions{Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		if pages++; pages == 2 {
			break // leaves nothing behind
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	errs := 0
	for p, err := range client.Pages(cancelled, raftkv.Prefix("k/"), raftkv.ScanOptions{}) {
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%+v, %v", p, err)
		}
		errs++
	}
	if errs != 1 {
		t.Fatalf("the error came %d times", errs)
	}
}

func TestBadInput(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	before, _ := cluster.Messages(0)
	long := strings.Repeat("x", 5000)
	for name, try := range map[string]func() error{
		"empty key":     func() error { _, err := client.Put(ctx, "", nil); return err },
		"bad UTF-8":     func() error { _, err := client.Get(ctx, "\xff"); return err },
		"empty batch":   func() error { _, err := client.Batch(ctx); return err },
		"batch UTF-8":   func() error { _, err := client.Batch(ctx, raftkv.DeleteOp("\xff")); return err },
		"locate no key": func() error { _, err := client.Cluster().Locate(ctx, ""); return err },
	} {
		var invalid *raftkv.InvalidError
		if err := try(); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for field, try := range map[string]func() error{
		"key":                 func() error { _, err := client.Get(ctx, long); return err },
		"value":               func() error { _, err := client.Put(ctx, "k", make([]byte, 1<<20+1)); return err },
		"operations":          func() error { _, err := client.Batch(ctx, make([]raftkv.Op, 1001)...); return err },
		"operations[0].value": func() error { _, err := client.Batch(ctx, raftkv.PutOp("k", make([]byte, 1<<20+1))); return err },
		"operations[1].key": func() error {
			_, err := client.Batch(ctx, raftkv.PutOp("k", nil), raftkv.DeleteOp(long))
			return err
		},
	} {
		var limit *raftkv.LimitError
		if err := try(); !errors.As(err, &limit) || limit.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if after, _ := cluster.Messages(0); after != before {
		t.Errorf("%d messages were sent", after-before)
	}
}

func TestValueIsCopied(t *testing.T) {
	cluster, client := open(t, 1, 1)
	value := []byte("before")
	if _, err := client.Put(within(t, time.Minute), "k", value); err != nil {
		t.Fatal(err)
	}
	copy(value, "after!")
	item, err := client.Get(within(t, time.Minute), "k")
	if err != nil || string(item.Value) != "before" || cluster.Applied("k") != 1 {
		t.Fatalf("%q, %v", item.Value, err)
	}
}

func TestLargeValues(t *testing.T) {
	_, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	errs := make(chan error, 20)
	for i := range 20 { // each larger than a message may be together with another
		go func() {
			value := strings.Repeat(string(rune('a'+i)), 300<<10)
			key := fmt.Sprint(i)
			_, err := client.Put(ctx, key, []byte(value))
			if err == nil {
				var item raftkv.Item
				if item, err = client.Get(ctx, key); err == nil && string(item.Value) != value {
					err = fmt.Errorf("value of %s differs", key)
				}
			}
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func TestClusterCalls(t *testing.T) {
	cluster, client := open(t, 3, 2)
	ctx := within(t, time.Minute)
	if s, err := client.Cluster().Status(ctx, cluster.Endpoints()[1]); err != nil || s.NodeId != "n2" {
		t.Fatalf("%v, %v", s, err)
	}
	if nodes, err := client.Cluster().Nodes(ctx); err != nil || len(nodes) != 3 {
		t.Fatalf("%v, %v", nodes, err)
	}
	if shards, err := client.Cluster().Shards(ctx); err != nil || len(shards) != 3 {
		t.Fatalf("%v, %v", shards, err)
	}
	if l, err := client.Cluster().Limits(ctx); err != nil || l.ValueBytes != 1<<20 {
		t.Fatalf("%v, %v", l, err)
	}
	if l, err := client.Cluster().Locate(ctx, "a{b}c"); err != nil || l.RoutingPart != "b" {
		t.Fatalf("%v, %v", l, err)
	}
	if r, err := client.Cluster().TransferLeader(ctx, 1, "n3"); err != nil || r.LeaderNodeId != "n3" || cluster.Leader(1) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	var invalid *raftkv.InvalidError
	if _, err := client.Cluster().TransferLeader(ctx, 1, "n9"); !errors.As(err, &invalid) {
		t.Fatalf("%v", err)
	}
	if _, err := client.Cluster().Status(ctx, "nowhere"); !errors.As(err, &invalid) {
		t.Fatalf("%v", err)
	}
}

func TestLimitsAreOptional(t *testing.T) {
	cluster, _ := open(t, 1, 1)
	cluster.SetLimits(&raftkvv1.Limits{})
	client, err := raftkv.Open(t.Context(), cluster.Endpoints(), raftkv.WithGzip())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(within(t, time.Minute), "k", make([]byte, 1<<20+1)); err != nil {
		t.Fatal(err) // the stand-in enforces nothing
	}
}
