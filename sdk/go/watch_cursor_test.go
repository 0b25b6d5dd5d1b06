package raftkv

import (
	"testing"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// What parses is what was made, and nothing else does.
func FuzzCursor(f *testing.F) {
	for _, token := range []string{"", "AVx", "AVx~1.17.3", "AVx~1.17.3~2.a2V5~7.9.1", "~1.2.3", "AVx~", "AVx~1", "AVx~2.1.1~1.1.1", "AVx~1.1.0", "AVx~1.a", "AVx~01.1.1"} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := parseCursor(token)
		if err != nil {
			return
		}
		again, err := parseCursor(c.token())
		if err != nil || again.token() != c.token() {
			t.Errorf("%q: %q, then %q (%v)", token, c.token(), again.token(), err)
		}
	})
}

// A place in the keys of the start and one in the events are no measure of each other.
func TestToldCovers(t *testing.T) {
	initial := func(key string) told { return told{shard: 1, initial: true, key: key} }
	event := func(revision, count uint64) told { return told{shard: 1, revision: revision, count: count} }
	for _, c := range []struct {
		told, place told
		want        bool
	}{
		{initial("b"), initial("a"), true},
		{initial("b"), initial("b"), true},
		{initial("b"), initial("c"), false},
		{initial("b"), event(1, 1), false},
		{event(9, 9), initial("a"), false},
		{event(3, 2), event(2, 7), true},
		{event(3, 2), event(3, 2), true},
		{event(3, 2), event(3, 3), false},
		{event(3, 2), event(4, 1), false},
	} {
		if got := c.told.covers(&c.place); got != c.want {
			t.Errorf("%+v covers %+v: %t", c.told, c.place, got)
		}
	}
}

// The places of events count within one revision of one shard.
func TestPlace(t *testing.T) {
	at := func(revision uint64) *raftkvv1.Event { return &raftkvv1.Event{Shard: 1, Revision: revision} }
	first := place(at(4), nil)
	second := place(at(4), &first)
	next := place(at(5), &second)
	if first.count != 1 || second.count != 2 || next != (told{shard: 1, revision: 5, count: 1}) {
		t.Error(first, second, next)
	}
	key := place(&raftkvv1.Event{Shard: 1, Revision: 4, Initial: true, Kv: &raftkvv1.KeyValue{Key: "k"}}, &second)
	if key != (told{shard: 1, initial: true, key: "k"}) || place(at(4), &key).count != 1 {
		t.Error(key)
	}
}
