package raftnode

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// pageAttempts bounds how often a page is read again because slots moved between its shards.
const pageAttempts = 8

// Page reads one page of a range over all shards. Each shard's part is linearizable; a page that does not show every slot exactly once is
// read again (R17). No iterator outlives a page: the next one starts behind Page.Behind. stale bounds what it may miss; nil is nothing.
//
// A page at a revision (r.Revision) is of the one shard that has all keys of the range, however many pages it takes; a range that may have keys of several is
// refused, because each shard counts its own revisions.
func (n *Node) Page(ctx context.Context, r *peerv1.RangeRead, stale *peerv1.Stale) (*Page, error) {
	for _, bound := range []struct{ field, key string }{{"start", r.GetStart()}, {"end", r.GetEnd()}} {
		if len(bound.key) > KeyBytes+len("\x00") { // NextKey of the longest key
			return nil, limit(bound.field, KeyBytes, len(bound.key))
		}
		if !utf8.ValidString(bound.key) {
			return nil, &InvalidError{Field: bound.field, Problem: "a key is valid UTF-8"}
		}
	}
	if n.failed() || n.closing.Load() {
		return nil, ErrStopped
	}
	if !n.serving.Load() {
		return nil, ErrForming
	}
	var uncovered placement.Slot
	for range pageAttempts {
		// Each time anew: slots that have moved are with another shard.
		shards, slots := n.shards.data(), placement.AllSlots()
		if r.GetRevision() != 0 {
			if shards, slots = n.rangeShards(r.GetStart(), r.GetEnd()); len(shards) > 1 {
				return nil, rangeOfSeveral(shards, r.GetRevision())
			}
		}
		parts, err := n.readAll(ctx, shards, &peerv1.ReadRequest{Range: r, Stale: stale})
		if err != nil {
			return nil, err
		}
		if err := ofRevision(parts, r.GetRevision()); err != nil {
			return nil, err
		}
		slot, ok := covered(parts, slots)
		if ok {
			return n.merge(r, parts), nil
		}
		uncovered = slot
	}
	return nil, &StaleRouteError{Slot: uncovered}
}

// rangeShards returns the shards that may have keys of a range, and the slots of those keys: one of each for a range within a whole {tag}.
func (n *Node) rangeShards(start, end string) ([]placement.ShardID, placement.SlotSet) {
	if tagged := placement.TagPrefix(start); tagged != "" {
		if last := PrefixEnd(tagged); last == "" || end != "" && end <= last {
			slot := placement.SlotOf(tagged)
			var slots placement.SlotSet
			slots.Add(slot)
			return []placement.ShardID{n.shards.of(slot)}, slots
		}
	}
	return n.shards.data(), placement.AllSlots()
}

// rangeOfSeveral refuses to read a range at a revision.
func rangeOfSeveral(shards []placement.ShardID, revision uint64) error {
	e := &CrossShardError{Revision: revision}
	for _, shard := range shards {
		e.Groups = append(e.Groups, ShardKeys{Shard: shard})
	}
	return e
}

// ofRevision refuses parts that do not show the revision that was asked for: a node of a release that does not know ranges at a revision shows the
// present instead, and does not say so.
func ofRevision(parts []Result, revision uint64) error {
	for _, p := range parts {
		if shown := p.Origin.GetRevision(); revision != 0 && shown != revision {
			return &RevisionIgnoredError{Node: placement.NodeID(p.Origin.GetNodeId()), Shard: p.Shard, Revision: revision, Shown: shown}
		}
	}
	return nil
}

// readAll sends a read to some shards.
func (n *Node) readAll(ctx context.Context, shards []placement.ShardID, r *peerv1.ReadRequest) ([]Result, error) {
	answers := make(chan Result, len(shards))
	deadline, _ := ctx.Deadline()
	for _, shard := range shards {
		n.Submit(&Request{
			Shard: shard, Deadline: deadline, Read: r,
			Done: func(res Result) { answers <- res },
		})
	}
	parts := make([]Result, 0, len(shards))
	var failure error
	for range shards {
		select {
		case res := <-answers:
			if res.Err != nil {
				failure = res.Err
			}
			parts = append(parts, res)
		case <-ctx.Done():
			return nil, ErrTimeout
		case <-n.done:
			return nil, ErrStopped
		}
	}
	return parts, failure
}

// covered says whether the parts show every one of some slots exactly once, and if not, a slot that is missing or doubled.
func covered(parts []Result, wanted placement.SlotSet) (placement.Slot, bool) {
	var seen placement.SlotSet
	for _, p := range parts {
		slots := servedSlots(p.Read.GetSlots())
		if both := seen.Intersect(slots); !both.Empty() {
			return both.Runs()[0].First, false
		}
		seen = seen.Union(slots)
	}
	if missing := wanted.Minus(seen); !missing.Empty() {
		return missing.Runs()[0].First, false
	}
	return 0, true
}

// merge makes one page of the parts: in order, within the bounds, and not beyond the end of a part that goes on, because what comes next
// there is not known.
func (n *Node) merge(r *peerv1.RangeRead, parts []Result) *Page {
	page := &Page{Origin: &peerv1.Origin{NodeId: string(n.options.NodeID)}}
	for _, p := range parts {
		page.Parts = append(page.Parts, PagePart{Shard: p.Shard, Origin: p.Origin})
	}
	slices.SortFunc(page.Parts, func(a, b PagePart) int { return cmp.Compare(a.Shard, b.Shard) })
	if len(parts) == 1 {
		page.Origin, page.Shard = parts[0].Origin, parts[0].Shard
		page.Records, page.More = parts[0].Read.GetRecords(), parts[0].Read.GetMore()
		page.goesOn(parts[0].Read.GetBehind())
		return page // The shard has kept the bounds.
	}
	compare := func(a, b string) int {
		if r.GetReverse() {
			return strings.Compare(b, a)
		}
		return strings.Compare(a, b)
	}
	fence, fenced := "", false
	for _, p := range parts {
		page.Origin.FreshnessMs = max(page.Origin.FreshnessMs, p.Origin.GetFreshnessMs())
		page.Origin.FreshnessUnknown = page.Origin.FreshnessUnknown || p.Origin.GetFreshnessUnknown()
		records := p.Read.GetRecords()
		page.Records = append(page.Records, records...)
		if !p.Read.GetMore() || len(records) == 0 || planted.Is(planted.PageBeyondItsParts) { // R17
			continue
		}
		if last := records[len(records)-1].GetKey(); !fenced || compare(last, fence) < 0 {
			fence, fenced = last, true
		}
	}
	slices.SortFunc(page.Records, func(a, b *peerv1.KeyRecord) int { return compare(a.GetKey(), b.GetKey()) })
	page.More = fenced
	maxItems := int(min(orMax(r.GetMaxItems()), uint32(n.options.Limits.PageItems)))
	maxBytes := min(orMax(r.GetMaxBytes()), uint64(n.options.Limits.PageBytes))
	var size uint64
	for i, record := range page.Records {
		size += uint64(len(record.GetKey()) + len(record.GetRecord().GetValue()))
		full := i > 0 && (i >= maxItems || size > maxBytes)
		if full || fenced && compare(record.GetKey(), fence) > 0 {
			page.Records, page.More = page.Records[:i], true
			break
		}
	}
	page.goesOn("")
	return page
}

// goesOn sets where the range goes on: behind the last record, unless that is told.
func (p *Page) goesOn(behind string) {
	if n := len(p.Records); p.More && behind == "" && n > 0 {
		behind = p.Records[n-1].GetKey()
	}
	p.Behind = behind
}

// NextKey is where a page starts that follows one which ended with key: the smallest key behind it.
func NextKey(key string) string { return key + "\x00" }

// PrefixEnd is the smallest key behind all that begin with prefix, which is valid UTF-8; empty if there is none. Bytes of UTF-8 are in the
// order of their code points, so the next code point is the next prefix of the same length.
func PrefixEnd(prefix string) string {
	for prefix != "" {
		last, size := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-size]
		switch {
		case last == utf8.MaxRune:
			continue
		case last+1 == surrogateMin:
			return prefix + string(surrogateMax+1)
		default:
			return prefix + string(last+1)
		}
	}
	return ""
}

// Surrogates are no code points of UTF-8.
const (
	surrogateMin = rune(0xd800)
	surrogateMax = rune(0xdfff)
)
