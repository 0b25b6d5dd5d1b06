package main

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// Several shards, a lock on each with a tag or without, and a lease that may be of another: those who wait get it in order, also if one gives up, and leave nothing.
func TestLockQueue(t *testing.T) {
	configs := startCluster(t, 3, 4)
	client := openClient(t, configs)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	keys := func(prefix string) (n int) {
		for _, err := range client.Scan(ctx, raftkv.Prefix(prefix), raftkv.ScanOptions{KeysOnly: true}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	for key, places := range map[string]string{"{a}/lock": "{a}/lock/waiting/", "job": "{job}/waiting/untagged/", "{c}": "{c}/waiting/", "nightly": "{nightly}/waiting/untagged/"} {
		first, err := recipes.Acquire(ctx, client, key)
		if err != nil {
			t.Fatal(err)
		}
		var order []int
		var done sync.WaitGroup
		last := first.Token()
		for i := range 5 {
			waiting, giveUp := context.WithCancel(ctx)
			defer giveUp()
			done.Go(func() {
				err := recipes.WithLock(waiting, client, key, func(_ context.Context, l *recipes.Lock) error {
					if l.Token() <= last {
						t.Errorf("%s: token %d behind %d", key, l.Token(), last)
					}
					order, last = append(order, i), l.Token()
					return nil
				})
				if err != nil && i != 2 {
					t.Errorf("%s: %v", key, err)
				}
			})
			for keys(places) <= i-i/3 {
			}
			if i == 2 {
				giveUp()
				for keys(places) > 2 {
				}
			}
		}
		if err := first.Release(ctx); err != nil {
			t.Error(err)
		}
		done.Wait()
		if !slices.Equal(order, []int{0, 1, 3, 4}) {
			t.Errorf("%s: order %v", key, order)
		}
	}
	if n := keys(""); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}
