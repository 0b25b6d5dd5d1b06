package raftkv_test

import (
	"errors"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// A lease is kept alive also when other calls have used the retries of the client up: it would be lost for what they did.
func TestKeepAlivesAreOutsideOfTheRetryBudget(t *testing.T) {
	cluster, client := open(t, 1, 1, raftkv.WithRetryBudget(0, 1))
	ctx := within(t, time.Minute)
	l, err := client.Grant(ctx, time.Hour, raftkv.WithoutKeepAlive())
	if err != nil {
		t.Fatal(err)
	}
	overloaded := raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Millisecond)}
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action { return overloaded })
	var starved *raftkv.RetryBudgetError
	for !errors.As(err, &starved) {
		_, err = client.Put(within(t, 200*time.Millisecond), "k", nil)
	}
	refused := 0
	cluster.SetCallHook(func(raftkvtest.Call) raftkvtest.Action {
		if refused++; refused <= 3 {
			return overloaded
		}
		return raftkvtest.Action{}
	})
	if err := l.KeepAlive(within(t, 3*time.Second)); err != nil || refused != 4 {
		t.Errorf("after %d attempts: %v", refused, err)
	}
}
