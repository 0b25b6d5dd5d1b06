package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func Example() {
	cluster := raftkvtest.New(3, 1)
	defer cluster.Close()
	ctx := context.Background()

	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	if _, err := client.Put(ctx, "greeting", []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	item, err := client.Get(ctx, "greeting")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s = %s, version %d\n", item.Key, item.Value, item.Version)

	_, err = client.Get(ctx, "nothing")
	fmt.Println("missing:", errors.Is(err, raftkv.ErrNotFound))
	// Output:
	// greeting = hello, version 1
	// missing: true
}

func ExampleClient_Batch() {
	cluster := raftkvtest.New(3, 4)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// Keys with one {tag} live on one shard, so they can be written together.
	r, err := client.Batch(ctx,
		raftkv.PutOp("{user:7}name", []byte("Ada")),
		raftkv.PutOp("{user:7}mail", []byte("ada@example.org")),
		raftkv.DeleteOp("{user:7}invitation"),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("writes:", len(r.Results), "deleted:", r.Results[2].Deleted)
	// Output: writes: 3 deleted: false
}

func ExampleIfRevision() {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	first, err := client.Put(ctx, "color", []byte("blue"), raftkv.IfAbsent())
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := client.Put(ctx, "color", []byte("green"), raftkv.IfRevision(first.Revision)); err != nil {
		fmt.Println(err)
		return
	}
	_, err = client.Put(ctx, "color", []byte("red"), raftkv.IfRevision(first.Revision))
	var failed *raftkv.PreconditionFailedError
	if errors.As(err, &failed) {
		fmt.Println("somebody was faster; the color is at revision", failed.Current)
	}
	// Output: somebody was faster; the color is at revision 2
}

func ExampleClient_Scan() {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	for _, key := range []string{"fruit/apple", "fruit/pear", "root/beet"} {
		if _, err := client.Put(ctx, key, nil); err != nil {
			fmt.Println(err)
			return
		}
	}
	for item, err := range client.Scan(ctx, raftkv.Prefix("fruit/"), raftkv.ScanOptions{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(item.Key)
	}
	// Output:
	// fruit/apple
	// fruit/pear
}

// What to do when nobody knows whether a write was applied: ask.
func ExampleOutcomeUnknownError() {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// The write is applied, its answer gets lost, and the caller gives up while the client tries again.
	patience, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var attempts atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		if attempts.Add(1) == 1 {
			return raftkvtest.Action{DropAfter: true}
		}
		giveUp()
		return raftkvtest.Action{DropBefore: true}
	})

	_, err = client.Put(patience, "k", []byte("v"))
	var unknown *raftkv.OutcomeUnknownError
	switch {
	case err == nil:
		fmt.Println("written")
	case errors.As(err, &unknown):
		outcome, err := client.Resolve(ctx, err) // with time of its own
		fmt.Println("unknown at first, then:", outcome.Kind, err)
	default:
		fmt.Println("not written")
	}
	// Output: unknown at first, then: applied <nil>
}

// After NotApplied the write may be made again: no attempt of the first one will ever be applied.
func ExampleClient_Resolve() {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// The write does not reach the cluster, and the caller gives up.
	patience, giveUp := context.WithCancel(ctx)
	defer giveUp()
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		giveUp()
		return raftkvtest.Action{DropBefore: true}
	})
	_, err = client.Put(patience, "k", []byte("v"))
	cluster.SetHook(nil)

	outcome, err := client.Resolve(ctx, err)
	if err != nil {
		fmt.Println(err) // ask again later
		return
	}
	fmt.Println(outcome.Kind)
	if outcome.Kind == raftkv.NotApplied {
		r, err := client.Put(ctx, "k", []byte("v"))
		fmt.Println("written again, version", r.Version, err)
	}
	// Output:
	// not applied
	// written again, version 1 <nil>
}

// A read that any replica may serve by itself, if what it has is at most so old.
func ExampleStaleWithin() {
	cluster := raftkvtest.New(3, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	if _, err := client.Put(ctx, "color", []byte("blue")); err != nil {
		fmt.Println(err)
		return
	}
	item, err := client.Get(ctx, "color", raftkv.StaleWithin(5*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, at most 5s old: %t\n", item.Value, item.Age <= 5*time.Second)
	// Output: blue, at most 5s old: true
}

// Who has been told of a write by somebody else reads it from any replica, and never what was before.
func ExampleAtLeast() {
	cluster := raftkvtest.New(3, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	other, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer other.Close()

	r, err := client.Put(ctx, "color", []byte("green"))
	if err != nil {
		fmt.Println(err)
		return
	}
	token := client.TokenAt(r.Shard, r.Revision) // text: pass it on, in a cookie, say

	item, err := other.Get(ctx, "color", raftkv.AtLeast(token))
	fmt.Printf("%s %v\n", item.Value, err)
	// Output: green <nil>
}

func ExampleClient_Async() {
	cluster := raftkvtest.New(3, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	var puts []*raftkv.Future[raftkv.Result]
	for _, key := range []string{"a", "b", "c"} {
		puts = append(puts, client.Async().Put(ctx, key, []byte("value"))) // all three share messages
	}
	for _, put := range puts {
		if _, err := put.Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("written:", len(puts))
	// Output: written: 3
}
