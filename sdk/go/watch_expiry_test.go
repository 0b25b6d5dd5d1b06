package raftkv_test

import (
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// Times to live and leases that end are deletes, and every key hangs on what it hangs on.
func TestWatchSeesTimeEnd(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	l, err := client.Grant(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	put(t, client, "ttl", "", raftkv.WithTTL(time.Second))
	put(t, client, "lease", "", raftkv.WithLease(l))
	w := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.FromRevision(1)))
	w.want("put ttl=@1")
	if e := w.event(); e.Item.Lease != l.ID() {
		t.Errorf("%+v", e)
	}
	cluster.Advance(time.Second)
	put(t, client, "own", "")
	if _, err := client.Delete(ctx, "own"); err != nil {
		t.Fatal(err)
	}
	if err := l.Revoke(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []raftkv.Event{
		{Type: raftkv.EventDelete, Revision: 3, Expired: true},
		{Type: raftkv.EventPut, Revision: 4},
		{Type: raftkv.EventDelete, Revision: 5},
		{Type: raftkv.EventDelete, Revision: 6, Expired: true},
	} {
		if e := w.event(); e.Type != want.Type || e.Revision != want.Revision || e.Expired != want.Expired {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
}
