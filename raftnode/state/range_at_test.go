package state

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// fillPast fills a page at a revision.
func fillPast(t *testing.T, v *View, r *peerv1.RangeRead, most Effort) *pastPage {
	t.Helper()
	p := &pastPage{page: page{view: v, shard: testShard, read: r}, most: most}
	if err := p.fill(); err != nil {
		t.Fatal(err)
	}
	return p
}

// The history of a batch is read once for all keys of a page, also where single writes have come after it, and where the keys are not
// there any more or were not there yet.
func TestAPageReadsTheHistoryOfABatchOnce(t *testing.T) {
	const keys, batches = 100, 21
	m := newServing(t, Options{})
	key := func(i int) string { return fmt.Sprintf("{t}/%03d", i) }
	var ops []*storev1.Operation
	for i := range keys {
		ops = append(ops, putOp(key(i), strings.Repeat("v", 500)))
	}
	for range batches {
		m.commit(writeCommand(ops...))
	}
	for i := 1; i < keys; i += 2 {
		m.commit(putCommand(key(i), "single"))
	}
	v := m.store.View()
	defer func() { _ = v.Close() }()
	plenty := Effort{10_000, 1 << 30}
	for _, revision := range []uint64{1, 20} {
		p := fillPast(t, v, &peerv1.RangeRead{Revision: revision, MaxItems: keys}, plenty)
		if want := keys + keys/2 + batches - int(revision); len(p.records) != keys || p.behind != "" || p.spent.Records > want {
			t.Errorf("revision %d: %d keys, behind %q: %v, want %d at the most", revision, len(p.records), p.behind, p.spent, want)
		}
	}
	// None of them is there at revision 0: what is gathered for the one that is asked for grows.
	if p := fillPast(t, v, &peerv1.RangeRead{Revision: 0, MaxItems: 1}, plenty); p.spent.Records > keys+keys/2+8*batches || p.behind != "" {
		t.Errorf("keys that were not there: %v, behind %q", p.spent, p.behind)
	}
	// A page ends by the bytes of what it has read, behind one key at least.
	p := fillPast(t, v, &peerv1.RangeRead{Revision: 1, MaxItems: keys}, Effort{10_000, 1})
	if len(p.records) != 1 || p.behind != key(0) || p.spent.Records != batches {
		t.Errorf("%d keys, behind %q, %v", len(p.records), p.behind, p.spent)
	}
	// The keys that need no more than what was read for the first are on it, too.
	p = fillPast(t, v, &peerv1.RangeRead{Revision: 1, MaxItems: keys}, Effort{10_000, 200 << 10})
	if len(p.records) != keys || p.behind != "" || p.spent.Records > keys+batches {
		t.Errorf("%d keys, behind %q, %v", len(p.records), p.behind, p.spent)
	}
}

// Keys without their values are shown without reading these.
func TestKeysAtARevisionAreShownWithoutTheirValues(t *testing.T) {
	m := newServing(t, Options{})
	big := strings.Repeat("x", separateBytes)
	m.commit(putCommand("a", big))
	m.commit(putCommand("a", big+big))
	for revision := uint64(1); revision <= 2; revision++ {
		at := appendRevisionKey(nil, testShard, sectionValue, revision, "a")
		if err := m.store.db.Set(at, []byte("damaged"), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	v := m.store.View()
	defer func() { _ = v.Close() }()
	for revision := uint64(1); revision <= 2; revision++ {
		r := &peerv1.RangeRead{Revision: revision, KeysOnly: true}
		records, _, err := v.RangeAt(testShard, r, Effort{10, 1 << 20})
		if err != nil || len(records) != 1 || records[0].GetRecord().GetModRevision() != revision || records[0].GetRecord().Content != nil {
			t.Errorf("revision %d: %v, %v", revision, records, err)
		}
		r.KeysOnly = false
		if _, _, err := v.RangeAt(testShard, r, Effort{10, 1 << 20}); err == nil {
			t.Error("a damaged value is shown")
		}
	}
}
