package recipes_test

import (
	"context"
	"fmt"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// A lock, and a write that is applied only while the lock is held.
func ExampleWithLock() {
	cluster := raftkvtest.New(3, 4)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	err = recipes.WithLock(ctx, client, "{job}lock", func(ctx context.Context, lock *recipes.Lock) error {
		// ctx ends when the lock is lost.
		_, err := lock.Write(ctx, raftkv.PutOp("{job}state", []byte("done")))
		return err
	})
	item, getErr := client.Get(ctx, "{job}state")
	fmt.Printf("%v, state %s %v\n", err, item.Value, getErr)
	// Output: <nil>, state done <nil>
}

// A service of which one instance leads, and the others know which.
func ExampleElection() {
	cluster := raftkvtest.New(3, 4)
	defer cluster.Close()
	ctx := context.Background()
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	election := recipes.NewElection(client, "{service}leader")
	for _, name := range []string{"a:8080", "b:8080"} {
		leadership, err := election.Campaign(ctx, []byte(name)) // waits until this instance leads
		if err != nil {
			fmt.Println(err)
			return
		}
		leader, err := election.Leader(ctx)
		fmt.Printf("%s leads, %v\n", leader.Value, err)
		if err := leadership.Resign(ctx); err != nil {
			fmt.Println(err)
			return
		}
	}
	_, err = election.Leader(ctx)
	fmt.Println(err)
	// Output:
	// a:8080 leads, <nil>
	// b:8080 leads, <nil>
	// nobody leads
}
