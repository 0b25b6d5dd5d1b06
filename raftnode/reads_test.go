package raftnode

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// manual is a Runtime whose stages run when the test says so.
type manual struct{ Runtime }

func (manual) Stage(string, func()) func() { return func() {} }

// A read of the past, which may take long, has no read of the present behind it; nor has a page of the past what a write waits for.
func TestReadsOfThePastHaveAReaderOfTheirOwn(t *testing.T) {
	n, m := &Node{runtime: manual{}}, &member{}
	n.readers, n.pastReaders = newReaderPool(n, "reader", 2), newReaderPool(n, "past reader", 1)
	n.pageReaders = newReaderPool(n, "past page reader", 1)
	present := &Request{Read: &peerv1.ReadRequest{Keys: []string{"a"}}}
	past := &Request{Read: &peerv1.ReadRequest{Past: []*peerv1.PastRead{{Key: "a", Revision: 1}}}}
	page := &Request{Read: &peerv1.ReadRequest{Range: &peerv1.RangeRead{Revision: 1}}}
	n.serveReads(m, []*Request{present, past, page, present}, true)
	n.serveReads(m, []*Request{present}, false)
	n.serveReads(m, []*Request{past}, true)
	count := func(p *readerPool) (n int) {
		for _, j := range p.queue.jobs {
			n += len(j.requests)
		}
		return n
	}
	if count(n.readers) != 3 || count(n.pastReaders) != 2 || count(n.pageReaders) != 1 || m.reading.Load() != 6 {
		t.Errorf("%d reads of the present, %d of the past, %d pages, %d counted",
			count(n.readers), count(n.pastReaders), count(n.pageReaders), m.reading.Load())
	}
}

// watched is an engine that counts what is read.
type watched struct {
	engine
	reads atomic.Int32
}

func (e *watched) view() engineView { return watchedView{e.engine.view(), e} }

type watchedView struct {
	engineView
	e *watched
}

func (v watchedView) read(shard placement.ShardID, r *peerv1.ReadRequest) (*peerv1.ReadResult, position, error) {
	v.e.reads.Add(1)
	return v.engineView.read(shard, r)
}

// Nothing is read for those who have gone: a page of the past takes long, and their retries come behind it.
func TestAReadPastItsDeadlineIsNotServed(t *testing.T) {
	n := alone(t, nil)
	e := &watched{engine: n.engine}
	pool := &readerPool{n: &Node{runtime: n.runtime, engine: e, options: n.options}}
	m := n.member(DataShard)
	serve := func(deadline time.Time) error {
		done := make(chan Result, 1)
		m.reading.Add(1)
		pool.serve(readJob{m: m, confirmed: true, requests: []*Request{{
			Deadline: deadline, Read: &peerv1.ReadRequest{Range: &peerv1.RangeRead{}}, Done: func(r Result) { done <- r },
		}}})
		return (<-done).Err
	}
	now := n.runtime.Now()
	if err := serve(now.Add(-time.Second)); !errors.Is(err, ErrTimeout) || e.reads.Load() != 0 {
		t.Errorf("%v, %d reads", err, e.reads.Load())
	}
	if err := serve(now.Add(time.Hour)); err != nil || e.reads.Load() != 1 {
		t.Errorf("%v, %d reads", err, e.reads.Load())
	}
}

// A node that is leaving stays until what a write shows has been read: the write keeps its room in the budget for so long.
func TestAWriteKeepsItsRoomUntilItIsAnswered(t *testing.T) {
	n := alone(t, nil)
	n.pastReaders.queue.Lock()
	r := putOf("first", 1)
	asked, done := make(chan struct{}), make(chan Result, 1)
	r.After = func(w *storev1.WriteResult) []*peerv1.PastRead {
		close(asked)
		return []*peerv1.PastRead{{Key: "first", Revision: w.GetRevision() - 1}}
	}
	r.Done = func(res Result) { done <- res }
	n.Submit(r)
	<-asked
	if n.requests.bytes.Load() == 0 {
		t.Error("nothing says that an answer is still to come")
	}
	n.pastReaders.queue.Unlock()
	if res := <-done; res.Err != nil || len(res.Read.GetRecords()) != 1 {
		t.Errorf("%v, %v", res.Read, res.Err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for n.requests.bytes.Load() != 0 { // The node has requests of its own.
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are held for ever", n.requests.bytes.Load())
		}
		runtime.Gosched()
	}
}

// The present is not taken for the past: a node that does not know ranges at a revision does not say so.
func TestAPageOfAnotherRevisionIsRefused(t *testing.T) {
	parts := []Result{{Shard: 3, Origin: &peerv1.Origin{NodeId: "n2", Revision: 9}}}
	for asked, right := range map[uint64]bool{0: true, 9: true, 7: false} {
		var ignored *RevisionIgnoredError
		err := ofRevision(parts, asked)
		if (err == nil) != right || !right && (!errors.As(err, &ignored) || *ignored != RevisionIgnoredError{"n2", 3, 7, 9}) {
			t.Errorf("revision %d: %v", asked, err)
		}
	}
}
