package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func ExampleClient_Txn() {
	cluster := raftkvtest.New(3, 4)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// Move an amount from one account to another, if nobody else has touched the first meanwhile.
	from, err := client.Put(ctx, "{bank}ada", []byte("100"))
	if err != nil {
		fmt.Println(err)
		return
	}
	move := raftkv.Txn{
		If:   []raftkv.Compare{raftkv.RevisionIs("{bank}ada", from.Revision), raftkv.Absent("{bank}bob")},
		Then: []raftkv.Op{raftkv.PutOp("{bank}ada", []byte("60")), raftkv.PutOp("{bank}bob", []byte("40"))},
		Else: []raftkv.Op{raftkv.GetOp("{bank}ada")},
	}
	for range 2 {
		r, err := client.Txn(ctx, move)
		if err != nil {
			fmt.Println(err)
			return
		}
		if r.Succeeded {
			fmt.Println("moved")
			continue
		}
		fmt.Printf("not moved: compare %d does not hold, ada has %s\n", r.Failed, r.Results[0].Item.Value)
	}
	// Output:
	// moved
	// not moved: compare 0 does not hold, ada has 60
}

func ExampleClient_Watch() {
	cluster := raftkvtest.New(3, 4)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	if _, err := client.Put(ctx, "{config}color", []byte("blue")); err != nil {
		fmt.Println(err)
		return
	}

	token := ""
	for event, err := range client.Watch(ctx, raftkv.Prefix("{config}"), raftkv.IncludeInitial()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		switch {
		case event.Initial:
			fmt.Printf("there is %s = %s\n", event.Item.Key, event.Item.Value)
		case event.Type == raftkv.EventInitialDone: // from here on, what changes
			if _, err := client.Put(ctx, "{config}color", []byte("green")); err != nil {
				fmt.Println(err)
				return
			}
		case event.Type == raftkv.EventPut:
			fmt.Printf("now %s = %s\n", event.Item.Key, event.Item.Value)
			token = event.Token() // store it, to go on from here another time
		}
		if token != "" {
			break
		}
	}
	if _, err := client.Delete(ctx, "{config}color"); err != nil {
		fmt.Println(err)
		return
	}
	for event, err := range client.Watch(ctx, raftkv.Prefix("{config}"), raftkv.FromToken(token)) {
		fmt.Println(event.Type, event.Item.Key, err)
		break
	}
	// Output:
	// there is {config}color = blue
	// now {config}color = green
	// delete {config}color <nil>
}

func ExampleClient_Grant() {
	cluster := raftkvtest.New(3, 4)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// The client keeps the lease alive. If this process dies, the key goes after ten seconds.
	lease, err := client.Grant(ctx, 10*time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := client.Put(ctx, "members/me", []byte("10.0.0.7:8080"), raftkv.WithLease(lease)); err != nil {
		fmt.Println(err)
		return
	}
	item, err := client.Get(ctx, "members/me")
	fmt.Println("on the lease:", item.Lease == lease.ID(), err)

	if err := lease.Revoke(ctx); err != nil { // or leave at once
		fmt.Println(err)
		return
	}
	<-lease.Done()
	_, err = client.Get(ctx, "members/me")
	fmt.Println(lease.Err(), "and the key is gone:", errors.Is(err, raftkv.ErrNotFound))
	// Output:
	// on the lease: true <nil>
	// the lease was revoked by its holder and the key is gone: true
}

func ExampleWithTTL() {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	if _, err := client.Put(ctx, "session", nil, raftkv.WithTTL(30*time.Minute)); err != nil {
		fmt.Println(err)
		return
	}
	cluster.Advance(10 * time.Minute) // the clock of a test cluster stands still until it is moved
	item, err := client.Get(ctx, "session")
	fmt.Println("left:", item.TTL, err)
	cluster.Advance(20 * time.Minute)
	_, err = client.Get(ctx, "session")
	fmt.Println("gone:", errors.Is(err, raftkv.ErrNotFound))
	// Output:
	// left: 20m0s <nil>
	// gone: true
}
