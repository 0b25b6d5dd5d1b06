package raftnode

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// An answer for the process before a restart is not taken for that of a request of this one.
func TestLateAnswerForAnEarlierLife(t *testing.T) {
	life := func(seed uint64) *forwards {
		n := &Node{}
		n.seed(seed)
		return newForwards(n)
	}
	before, after := life(1), life(2)
	old, err := before.register(&forward{to: "leader", request: &Request{Shard: 1, Command: &storev1.Command{}}})
	if err != nil {
		t.Fatal(err)
	}
	answered := false
	if _, err := after.register(&forward{to: "leader", request: &Request{Shard: 1, Command: &storev1.Command{}, Done: func(Result) { answered = true }}}); err != nil {
		t.Fatal(err)
	}
	after.answer("leader", &peerv1.ForwardResponse{Id: old, Body: &peerv1.ForwardResponse_Write{Write: &storev1.WriteResult{Revision: 7}}})
	if answered {
		t.Fatal("a write was answered by what another one did")
	}
}

// What has reached a worker when the node fails, and what reaches it afterwards, is answered.
func TestRequestsAfterAFailureAreAnswered(t *testing.T) {
	w := &worker{n: &Node{}, wake: func() {}}
	w.n.forwards = newForwards(&Node{rng: rand.New(rand.NewPCG(1, 2))})
	done := false
	w.request(&member{}, &Request{Done: func(Result) { done = true }})
	err := ErrStopped
	w.n.failure.Store(&err)
	w.step()
	if !done {
		t.Fatal("a request is never answered")
	}
	done = false
	w.request(&member{}, &Request{Done: func(Result) { done = true }})
	if !done {
		t.Fatal("a request to a closed worker is never answered")
	}
}

// slowMachine holds its snapshot back until it is told to go on.
type slowMachine struct{ entered, release chan struct{} }

func (m *slowMachine) Apply(uint64, []byte) []byte  { return nil }
func (m *slowMachine) ReadSnapshot(io.Reader) error { return nil }
func (m *slowMachine) WriteSnapshot(io.Writer) error {
	if m.entered != nil {
		close(m.entered)
		<-m.release
		m.entered = nil
	}
	return nil
}

// Saving an image and taking over another's do not overtake each other: the newest stays on disk.
func TestImagesDoNotOvertake(t *testing.T) {
	fs := vfs.NewMem()
	o := Options{FS: fs, Machine: func(placement.ShardID) StateMachine { return &slowMachine{} }}
	opened, err := openOwn("own", o, func() {})
	if err != nil {
		t.Fatal(err)
	}
	e := opened.(*ownEngine)
	if _, err := e.open(DataShard); err != nil {
		t.Fatal(err)
	}
	s := e.shard(DataShard)
	image := func(index uint64) []byte {
		var b bytes.Buffer
		s.mu.Lock()
		defer s.mu.Unlock()
		was := s.at
		s.at = position{index: index, term: 1}
		if err := s.writeImage(&b); err != nil {
			t.Fatal(err)
		}
		s.at = was
		return b.Bytes()
	}
	newest := image(100)
	if _, err := e.stage("staged", bytes.NewReader(newest)); err != nil {
		t.Fatal(err)
	}
	slow := &slowMachine{entered: make(chan struct{}), release: make(chan struct{})}
	entered := slow.entered
	s.mu.Lock()
	s.machine, s.at = slow, position{index: 50, term: 1}
	s.mu.Unlock()
	saved, ingested := make(chan error, 1), make(chan error, 1)
	go func() { saved <- e.save(s) }()
	<-entered
	go func() { ingested <- e.ingest(DataShard, "staged") }()
	close(slow.release)
	for _, c := range []chan error{saved, ingested} {
		if err := <-c; err != nil {
			t.Fatal(err)
		}
	}
	reopened, err := openOwn("own", o, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if at, err := reopened.open(DataShard); err != nil || at.index != 100 {
		t.Errorf("the disk has the image at index %d, %v; want 100", at.index, err)
	}
}

// The reads that wait for the applier count against the bound as all others do.
func TestConfirmedReadsAreCounted(t *testing.T) {
	m := &member{}
	w := &worker{n: &Node{}}
	m.confirmed = []confirmedReads{{index: 5, requests: []*Request{{Deadline: time.Unix(1, 0), Done: func(Result) {}}}}}
	m.confirmedCount = 1
	w.expire(m, time.Unix(2, 0))
	if m.confirmedCount != 0 {
		t.Errorf("%d reads counted, none waits", m.confirmedCount)
	}
}

// The answer to a ReadIndex round confirms the reads that came in before the round started, and no others.
func TestRoundsConfirmTheReadsBeforeThem(t *testing.T) {
	m := &member{}
	var reads []*Request
	for number := range uint64(roundsMax + 2) {
		r := &Request{}
		reads = append(reads, r)
		m.beginRound(number+1, time.Duration(number), []*Request{r})
	}
	if got, _ := m.endRounds(1); len(got) != 0 {
		t.Errorf("%d reads confirmed by round 1, which was merged into round 3", len(got))
	}
	if got, began := m.endRounds(4); !slices.Equal(got, reads[:4]) || began != 3 {
		t.Errorf("%d reads confirmed by round 4, want those of rounds 1 to 4, the last of which began at %d", len(got), began)
	}
	if got := m.roundReads(); got != roundsMax-2 {
		t.Errorf("%d reads wait, want %d", got, roundsMax-2)
	}
	m.expireRounds(func([]*Request) []*Request { return nil })
	if got, _ := m.endRounds(^uint64(0)); len(m.rounds) != 0 || len(got) != 0 {
		t.Errorf("%d rounds and %d reads are left", len(m.rounds), len(got))
	}
}

// closing is a transport that tells when it is closed.
type closing struct {
	Transport
	closed chan struct{}
}

func (c closing) Close() error {
	select {
	case c.closed <- struct{}{}:
	default:
	}
	return c.Transport.Close()
}

// The peers of a node that has failed learn of it at once, and not when its process gets to closing it.
func TestAFailedNodeEndsItsConnections(t *testing.T) {
	closed := make(chan struct{}, 1)
	n := alone(t, func(o *Options) {
		o.NewTransport = func(t TransportOptions) (Transport, error) {
			tcp, err := newTCP(t)
			return closing{tcp, closed}, err
		}
	})
	n.fail(errors.New("the disk is gone"))
	<-n.Done()
	<-closed
}

// A client that is told who leads is told where, also when another node has said it.
func TestForwardedNotLeaderHasAnEndpoint(t *testing.T) {
	n := &Node{runtime: &later{}}
	n.seed(1)
	n.forwards = newForwards(n)
	n.identity.Store(&storev1.Identity{Formation: &storev1.Formation{
		Members: []*storev1.Formation_Member{{NodeId: "n2", ClientAddress: "10.0.0.2:7001"}},
	}})
	n.shards = newShardMap(&storev1.Formation{Shards: []*storev1.Formation_Shard{{Id: 1}}})
	var got error
	r := &Request{Shard: 1, Command: &storev1.Command{}, Deadline: n.runtime.Now(), Done: func(res Result) { got = res.Err }}
	n.forwards.failed(r, failureOf(&NotLeaderError{Shard: 1, Leader: "n2", Endpoint: "10.0.0.2:7001"}))
	var notLeader *NotLeaderError
	if !errors.As(got, &notLeader) || notLeader.Endpoint != "10.0.0.2:7001" {
		t.Errorf("answered %v", got)
	}
	if got := (&NotLeaderError{Shard: 1, Leader: "n2"}).Error(); strings.Contains(got, " at ") {
		t.Errorf("an address that is not known is shown: %s", got)
	}
}
