package raftkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// pipe is an Exec stream whose far end is the test.
type pipe struct {
	requests  chan []uint64 // the ids of a message's operations
	responses chan *raftkvv1.ExecResponse
	ctx       context.Context
}

func (p *pipe) Send(r *raftkvv1.ExecRequest) error {
	var ids []uint64
	for _, o := range r.Operations {
		ids = append(ids, o.Id)
	}
	select {
	case p.requests <- ids:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) Receive() (*raftkvv1.ExecResponse, error) {
	select {
	case r := <-p.responses:
		return r, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p *pipe) answer(ids ...uint64) {
	r := &raftkvv1.ExecResponse{}
	for _, id := range ids {
		r.Results = append(r.Results, &raftkvv1.ExecResult{Id: id, Result: &raftkvv1.ExecResult_Put{Put: &raftkvv1.PutResponse{}}})
	}
	p.responses <- r
}

// testStream starts a stream over a pipe. end stops it and waits.
func testStream(t *testing.T, queue chan *op) (s *stream, p *pipe, end func()) {
	t.Helper()
	c := &Client{epoch: time.Now()}
	c.routes = newRoutes(c, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	s = &stream{
		endpoint: &endpoint{client: c}, cancel: cancel,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), messages: make(map[uint64]*message),
	}
	p = &pipe{requests: make(chan []uint64), responses: make(chan *raftkvv1.ExecResponse), ctx: ctx}
	var wg sync.WaitGroup
	wg.Go(func() { s.receive(p) })
	wg.Go(func() { s.send(p, queue) })
	return s, p, func() { cancel(errors.New("the test ended")); wg.Wait() }
}

func queued(key string) *op {
	o := newOp("put", key)
	o.setPut(nil, nil, false)
	o.deadline = time.Now().Add(time.Minute)
	o.state.Store(opQueued)
	return o
}

// While two messages are under way what follows waits, and goes together when half of one is answered.
func TestTwoMessagesInFlight(t *testing.T) {
	queue := make(chan *op, 100)
	s, p, end := testStream(t, queue)
	var all []*op
	add := func(n int) {
		for range n {
			o := queued(fmt.Sprint(len(all)))
			all = append(all, o)
			queue <- o
		}
	}
	add(1)
	first := <-p.requests
	add(1)
	second := <-p.requests
	if len(first) != 1 || len(second) != 1 {
		t.Fatalf("%d and %d operations", len(first), len(second))
	}
	// Stalled messages leave flight after a while; this test is about those that are not.
	s.mu.Lock()
	for _, m := range s.messages {
		m.sent = time.Now().Add(time.Hour)
	}
	inFlight := s.inFlight
	s.mu.Unlock()
	if inFlight != 2 {
		t.Fatalf("%d messages in flight", inFlight)
	}
	add(10)
	if s.room() == 0 {
		t.Fatal("there is room for a third message")
	}
	p.answer(first...)
	third := <-p.requests
	if len(third) != 10 {
		t.Fatalf("%d operations in the third message", len(third))
	}
	p.answer(third[:5]...)
	p.answer(third[:1]...) // a second answer to one operation changes nothing
	p.answer(second...)
	p.answer(third[5:]...)
	for _, o := range all {
		<-o.done
		if o.failure != nil || o.result == nil {
			t.Fatalf("%+v", o.failure)
		}
	}
	end()
	if s.inFlight != 0 || s.unanswered != 0 || len(s.messages) != 0 {
		t.Fatalf("%d in flight, %d unanswered, %d messages", s.inFlight, s.unanswered, len(s.messages))
	}
}

func TestMessagesAreBounded(t *testing.T) {
	queue := make(chan *op, 2*messageOpsMax)
	for i := range 2*messageOpsMax - 1 {
		queue <- queued(fmt.Sprint(i))
	}
	batch, next := gatherBatch(queued("first"), queue)
	if len(batch) != messageOpsMax || next != nil {
		t.Fatalf("%d operations", len(batch))
	}
	big := func() *op {
		o := newOp("put", "k")
		o.setPut(make([]byte, messageBytesMax/3), nil, false)
		o.state.Store(opQueued)
		return o
	}
	queue = make(chan *op, 3)
	queue <- big()
	queue <- big()
	if batch, next = gatherBatch(big(), queue); len(batch) != 2 || next == nil {
		t.Fatalf("%d operations, next %v", len(batch), next != nil)
	}
	left := queued("left")
	left.state.Store(opAbandoned)
	queue <- left
	if batch, next = gatherBatch(next, queue); len(batch) != 1 || next != nil {
		t.Fatalf("an abandoned operation was sent")
	}
}

func TestSessionsAckOnlyWhatIsAnswered(t *testing.T) {
	var s sessions
	a, b, c := queued("a"), queued("b"), queued("c")
	s.begin(a)
	s.begin(b)
	s.begin(c)
	if a.id.Sequence != 1 || c.id.Sequence != 3 || c.id.AckedBelow != 1 || len(c.id.ClientId) != 16 {
		t.Fatalf("%v", &c.id)
	}
	s.end(b)
	d := queued("d")
	if s.begin(d); d.id.AckedBelow != 1 {
		t.Fatalf("%v", &d.id)
	}
	s.end(a)
	e := queued("e")
	if s.begin(e); e.id.AckedBelow != 3 {
		t.Fatalf("%v", &e.id)
	}
	s.end(c)
	f := queued("f")
	if s.begin(f); f.id.Sequence != 6 || f.id.AckedBelow != 4 || string(f.id.ClientId) != string(e.id.ClientId) {
		t.Fatalf("%v", &f.id)
	}
}

// One write that gets no answer does not make the cluster keep the results of all that follow.
func TestSessionsAreBounded(t *testing.T) {
	var s sessions
	stuck := queued("stuck")
	s.begin(stuck)
	first := string(stuck.id.ClientId)
	for range sessionWindow {
		o := queued("o")
		s.begin(o)
		if string(o.id.ClientId) != first || o.id.AckedBelow != 1 {
			t.Fatalf("%v", &o.id)
		}
		s.end(o)
	}
	next := queued("next")
	if s.begin(next); string(next.id.ClientId) == first || next.id.Sequence != 1 {
		t.Fatalf("%v goes on with a full session", &next.id)
	}
	s.end(stuck)
	s.end(next)
	last := queued("last")
	if s.begin(last); string(last.id.ClientId) != string(next.id.ClientId) || last.id.Sequence != 2 || last.id.AckedBelow != 2 {
		t.Fatalf("%v", &last.id)
	}
}

func TestCodecMatchesProtobuf(t *testing.T) {
	want := &raftkvv1.ExecRequest{TimeoutMs: 7, Operations: []*raftkvv1.ExecOperation{{Id: 3, Operation: &raftkvv1.ExecOperation_Get{
		Get: &raftkvv1.GetRequest{Key: "k"},
	}}}}
	data, err := codec{}.MarshalAppend([]byte("before"), want)
	if err != nil || string(data[:6]) != "before" {
		t.Fatalf("%q, %v", data, err)
	}
	var got raftkvv1.ExecRequest
	if err := (codec{}).Unmarshal(data[6:], &got); err != nil || got.Operations[0].GetGet().GetKey() != "k" {
		t.Fatalf("%v, %v", &got, err)
	}
	if err := (codec{}).Unmarshal([]byte{0xff}, &got); err == nil {
		t.Fatal("garbage was read")
	}
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Fatal("a string was marshalled")
	}
}
