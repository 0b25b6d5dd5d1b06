package nodetest

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// drawPage draws a page that begins with the keys of a group, or shows only them; nil for a read of keys.
func (cs *clients) drawPage(group int) *peerv1.RangeRead {
	s := cs.c.scheduler
	if cs.load.Pages == 0 || !s.chance(1/float64(1+cs.load.Pages)) {
		return nil
	}
	own := fmt.Sprintf("{g%d}", group)
	if s.chance(0.3) {
		return &peerv1.RangeRead{Start: own, End: raftnode.PrefixEnd(own), Reverse: s.chance(0.5)}
	}
	// The groups behind it may be of other shards.
	return &peerv1.RangeRead{Start: own, End: raftnode.PrefixEnd("{g"), MaxItems: uint32(1 + s.random.IntN(2*GroupKeys))}
}

// turn reads the page of an operation. To wait for it is to block, so it has a goroutine of its own.
func (a *attempt) turn(l *life, try int, deadline time.Time) {
	s, c := a.cl.cs.c.scheduler, a.cl.cs.c
	c.asides = append(c.asides, newAside(l, func() func() {
		page, err := l.node.Page(virtualDeadline{context.Background(), deadline}, a.page, a.stale())
		return func() {
			if err != nil {
				a.answerPage(try, raftnode.Result{Err: err})
				return
			}
			c.checkPage(l.process, a.page, page)
			// A group is of one shard, whoever else took part; its part says what is shown of the group.
			shard := l.node.Locate(key(a.op.Group, 0)).Shard
			i := slices.IndexFunc(page.Parts, func(p raftnode.PagePart) bool { return p.Shard == shard })
			if i < 0 {
				c.violate("%s answers %v without a part of shard %d: %v", l.process.id, a.page, shard, page.Parts)
				return
			}
			a.answerPage(try, raftnode.Result{
				Shard: shard, Origin: page.Parts[i].Origin, Read: &peerv1.ReadResult{Records: page.Records, More: page.More},
			})
		}
	}))
	l.ends = append(l.ends, func() {
		s.after(s.between(time.Millisecond, 20*time.Millisecond), "client cut off", func() {
			a.answered(try, raftnode.Result{Err: errBroken}, false)
		})
	})
}

func (a *attempt) answerPage(try int, res raftnode.Result) {
	s := a.cl.cs.c.scheduler
	s.after(s.between(50*time.Microsecond, time.Millisecond), "answer", func() { a.answered(try, res, true) })
}

// checkPage says whether a page keeps what it was asked for: within the bounds, in order, and something on it if more is behind it.
func (c *Cluster) checkPage(p *process, r *peerv1.RangeRead, page *raftnode.Page) {
	c.seen(PageRead)
	if page.More {
		c.seen(PageGoesOn)
	}
	keys := page.Records
	bad := page.More != (page.Behind != "") || r.GetMaxItems() > 0 && len(keys) > int(r.GetMaxItems()) || page.More && (len(keys) == 0 || r.GetMaxItems() == 0)
	for i, k := range keys {
		outside := k.GetKey() < r.GetStart() || k.GetKey() >= r.GetEnd()
		misplaced := i > 0 && (keys[i-1].GetKey() < k.GetKey()) == r.GetReverse()
		bad = bad || outside || misplaced || k.GetRecord() == nil
	}
	if bad {
		c.violate("%s answers %v with %v, more %t", p.id, r, keys, page.More)
	}
}

// pageCells are the keys of a group on a page, up to where the page ends.
func pageCells(group int, page *peerv1.ReadResult) []Cell {
	records := make(map[string]*peerv1.KeyRecord)
	last := ""
	for _, r := range page.GetRecords() {
		records[r.GetKey()], last = r, r.GetKey()
	}
	var out []Cell
	for k := range GroupKeys {
		if page.GetMore() && key(group, k) > last {
			break
		}
		cell := Cell{}
		if r := records[key(group, k)]; r != nil {
			cell = cellOf(r)
		}
		out = append(out, cell)
	}
	return out
}

// aside is a call of a node that blocks. It takes its steps within events; what comes of it is taken up after the event that ended it.
type aside struct {
	life   *life
	done   atomic.Bool
	finish func()
}

func newAside(l *life, call func() (finish func())) *aside {
	a := &aside{life: l}
	go func() {
		a.finish = call()
		a.done.Store(true)
	}()
	return a
}

// finishAsides takes up what calls came to. Those of a dead node have ended too, and nobody hears of them.
func (c *Cluster) finishAsides() {
	waiting := c.asides
	c.asides = nil
	for _, a := range waiting {
		ended := a.life.process.life != a.life
		switch {
		case ended && !a.done.Load():
			c.violate("%s has ended and leaves a call without an answer", a.life.process.id)
		case ended:
		case a.done.Load():
			a.finish()
		default:
			c.asides = append(c.asides, a)
		}
	}
}

// virtualDeadline is a context that ends at a time of the node's clock. Nothing else ends it.
type virtualDeadline struct {
	context.Context
	at time.Time
}

func (d virtualDeadline) Deadline() (time.Time, bool) { return d.at, true }
