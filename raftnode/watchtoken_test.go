package raftnode

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/watch"
)

func TestWatchTokensComeBack(t *testing.T) {
	cluster := make([]byte, 16)
	rapid.Check(t, func(t *rapid.T) {
		hash := rapid.Uint64().Draw(t, "hash")
		var places []watchPlace
		for _, shard := range rapid.SliceOfNDistinct(rapid.Uint32(), 1, 9, rapid.ID).Draw(t, "shards") {
			p := watchPlace{shard: placement.ShardID(shard), next: rapid.Uint64Range(1, 1<<63).Draw(t, "next")}
			if p.initial = rapid.Bool().Draw(t, "initial"); p.initial {
				p.key = rapid.String().Draw(t, "key")
			}
			places = append(places, p)
		}
		slices.SortFunc(places, func(a, b watchPlace) int { return int(int64(a.shard) - int64(b.shard)) })
		token := encodeWatchToken(cluster, hash, places)
		got, err := decodeWatchToken(token, cluster, hash)
		if err != nil || !slices.Equal(got, places) {
			t.Fatal(got, err)
		}
		// A token of which anything is changed is refused.
		b, _ := base64.RawURLEncoding.DecodeString(token)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		if got, err := decodeWatchToken(base64.RawURLEncoding.EncodeToString(b), cluster, hash); err == nil {
			t.Fatal(got)
		}
	})
}

func TestBadWatchTokens(t *testing.T) {
	cluster := []byte("0123456789abcdef")
	f := &watch.Filter{Prefix: "a"}
	good := encodeWatchToken(cluster, watchHash(f), []watchPlace{{shard: 1, next: 5}})
	for _, row := range []struct{ token, cluster, problem string }{
		{"", "0123456789abcdef", "not a token"},
		{"!", "0123456789abcdef", "not a token"},
		{good[:20], "0123456789abcdef", "not a token"},
		{"Ag" + good[2:], "0123456789abcdef", "another release"},
		{good[:len(good)-3] + "AAA", "0123456789abcdef", "damaged"},
		{good, "xxxxxxxxxxxxxxxx", "is of cluster 30313233"},
		{encodeWatchToken(cluster, watchHash(&watch.Filter{Prefix: "b"}), []watchPlace{{shard: 1, next: 5}}), "0123456789abcdef", "other keys"},
		{encodeWatchToken(cluster, watchHash(f), nil), "0123456789abcdef", "no shards"},
		{encodeWatchToken(cluster, watchHash(f), []watchPlace{{shard: 1}}), "0123456789abcdef", "damaged"},
		{encodeWatchToken(cluster, watchHash(f), []watchPlace{{shard: 2, next: 1}, {shard: 1, next: 1}}), "0123456789abcdef", "damaged"},
		{encodeWatchToken(cluster, watchHash(f), []watchPlace{{shard: 1, next: 1, initial: true, key: strings.Repeat("x", 5000)}}), "0123456789abcdef", "damaged"},
	} {
		_, err := decodeWatchToken(row.token, []byte(row.cluster), watchHash(f))
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "token" || !strings.Contains(invalid.Problem, row.problem) {
			t.Errorf("%q: %v, want %q", row.token, err, row.problem)
		}
	}
	// What a watch carries beside an event does not bind its token.
	if watchHash(f) != watchHash(&watch.Filter{Prefix: "a", Before: true}) || watchHash(f) == watchHash(&watch.Filter{Prefix: "a", NoPuts: true}) {
		t.Error("the hash is of something else than what is watched")
	}
}

func FuzzWatchToken(f *testing.F) {
	cluster := make([]byte, 16)
	f.Add(encodeWatchToken(cluster, 1, []watchPlace{{shard: 1, next: 5}, {shard: 2, next: 9, initial: true, key: "k"}}))
	f.Fuzz(func(t *testing.T, token string) {
		places, err := decodeWatchToken(token, cluster, 1)
		if err != nil {
			return
		}
		again, err := decodeWatchToken(encodeWatchToken(cluster, 1, places), cluster, 1)
		if err != nil || !slices.Equal(again, places) {
			t.Fatal(places, again, err)
		}
	})
}
