package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is put and removed, a key has its newest record or none, and the bytes are bounded.
func TestRecentRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, model := &recentRecords{}, make(map[string][]byte)
		most := rapid.SampledFrom([]int{0, recentBytesFirst, 3 * recentBytesFirst, 1 << 20}).Draw(t, "most")
		hits := 0
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				for range 1 + rapid.IntRange(0, 40).Draw(t, "puts") {
					key := fmt.Sprintf("key-%d", rapid.IntRange(0, 30).Draw(t, "key"))
					record := bytes.Repeat([]byte{byte(rapid.Int().Draw(t, "byte"))}, 1+rapid.IntRange(0, recentRecordMax+10).Draw(t, "length"))
					r.put(key, record, most)
					model[key] = record
				}
			},
			"remove": func(t *rapid.T) {
				key := fmt.Sprintf("key-%d", rapid.IntRange(0, 30).Draw(t, "key"))
				r.remove(key)
				delete(model, key)
			},
			"share": func(t *rapid.T) { most = rapid.IntRange(0, 1<<20).Draw(t, "most") },
			"": func(t *rapid.T) {
				for i := range 31 {
					key := fmt.Sprintf("key-%d", i)
					got := r.get(key)
					if got != nil && !bytes.Equal(got, model[key]) {
						t.Fatalf("%s has another record than was put last", key)
					}
					if got != nil {
						hits++
					}
				}
				if len(r.ring) > 1<<20 || len(r.index) != len(r.ring)/recentPlaceBytes {
					t.Fatalf("a ring of %d bytes and %d places", len(r.ring), len(r.index))
				}
			},
		})
	})
}

// What was put last is there, as long as it fits.
func TestRecentRecordsHit(t *testing.T) {
	r := &recentRecords{}
	key := func(i int) string { return fmt.Sprintf("key-%04d", i) }
	for i := range 5000 {
		r.put(key(i), []byte(key(i)), recentBytesFirst)
		if r.get(key(i)) == nil {
			t.Fatalf("key %d is gone", i)
		}
	}
	hits := 0
	for i := range 1000 { // The ring holds 2,900 of them, and there are 512 places.
		if r.get(key(4999-i)) != nil {
			hits++
		}
	}
	if hits < 300 {
		t.Errorf("of 1000 keys %d are still there", hits)
	}
	if r.get(key(0)) != nil {
		t.Error("what was written over is still there")
	}
	if r.put("large", make([]byte, recentRecordMax+1), recentBytesFirst); r.get("large") != nil {
		t.Error("a large record is kept")
	}
	r.put("a", []byte("1"), 0)
	if got := testing.AllocsPerRun(100, func() { r.put("a", []byte("2"), 0); r.get("a") }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// Where nearly all fits, nearly all is there: keys do not drive each other out by their hashes.
func TestRecentRecordsOverwritten(t *testing.T) {
	const most, keys = 1 << 20, 3000
	r, random := &recentRecords{}, rand.New(rand.NewPCG(1, 2)) //nolint:gosec // for a test
	record := make([]byte, most*9/10/keys-recentHeader-len("key-0000"))
	hits := 0
	for i := range 100 * keys {
		key := fmt.Sprintf("key-%04d", random.IntN(keys))
		if r.get(key) != nil && i >= 50*keys {
			hits++
		}
		r.put(key, record, most)
	}
	if hits < 97*50*keys/100 {
		t.Errorf("%d of %d looks found the record", hits, 50*keys)
	}
}
