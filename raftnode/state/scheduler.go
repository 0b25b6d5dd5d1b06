package state

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// scheduler grants Pebble its compactions: as many at once as Pebble thinks right, and none while it is shut. Pebble's own has no way to be shut.
//
// Waiting in the compactions themselves was refused: they would keep what they have written, and Close would have to wait for them.
type scheduler struct {
	// db is set once, before anything is granted.
	db pebble.DBForCompaction
	// behind says that level 0 is deep. Store.Pressure keeps it up to date.
	behind atomic.Bool

	// mu guards the rest. It is taken while Pebble's locks are held, so that Pebble is called without it.
	mu       sync.Mutex
	running  int
	closed   bool
	ended    bool // the store is, or it has failed
	granting bool // somebody is in grant; asked: and has to look once more
	asked    bool
	rest     sync.Cond // nobody is in grant any more
	// asking are those that were started to call grant; Unregister waits for them. None is started after it.
	asking sync.WaitGroup
	// onShut hears of it; nil if nobody wants to.
	onShut func()
}

var (
	_ pebble.CompactionScheduler   = (*scheduler)(nil)
	_ pebble.CompactionGrantHandle = (*scheduler)(nil)
)

func newScheduler() *scheduler {
	s := &scheduler{}
	s.rest.L = &s.mu
	return s
}

// shut grants nothing any more, and says whether that is new. What runs goes on.
func (s *scheduler) shut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.closed
	s.closed = true
	if s.onShut != nil {
		s.onShut()
	}
	return !was
}

// open grants what waits, and what comes.
func (s *scheduler) open() {
	s.mu.Lock()
	was := s.closed
	s.closed = false
	s.mu.Unlock()
	if was {
		s.grant()
	}
}

// end grants nothing ever again. What runs goes on.
func (s *scheduler) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

func (s *scheduler) isShut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// whenShut has f called when it is shut, in place of what was to be called before, and at once if it is. f must not block or call the scheduler.
func (s *scheduler) whenShut(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onShut = f
	if f != nil && s.closed {
		f()
	}
}

// Register takes the store.
func (s *scheduler) Register(_ int, db pebble.DBForCompaction) { s.db = db }

// Unregister returns when nothing is granted any more.
func (s *scheduler) Unregister() {
	s.mu.Lock()
	s.ended = true
	for s.granting {
		s.rest.Wait()
	}
	s.mu.Unlock()
	s.asking.Wait()
}

// TrySchedule grants a compaction, or does not.
func (s *scheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.take() {
		return false, nil
	}
	return true, s
}

// take counts one more that runs, if it may. mu is held.
func (s *scheduler) take() bool {
	if s.ended || s.closed || s.running >= s.db.GetAllowedWithoutPermission() {
		return false
	}
	s.running++
	return true
}

// UpdateGetAllowedWithoutPermission hears that more may run than before. Pebble's locks are held.
func (s *scheduler) UpdateGetAllowedWithoutPermission() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.asking.Go(s.grant)
	}
}

// MeasureCPU is called by compactions after every 128 keys and every block. Each time they go to the end of the queue for a processor: a goroutine runs for up to 10 ms otherwise, and a
// write passes through a dozen of them on its way, each of which would wait that long while all replicas compact at the same moment. Behind by half of what Pebble would stall at, they do not
// give way: on a node that is never idle they would fall behind for good.
func (s *scheduler) MeasureCPU(pebble.CompactionGoroutineKind) {
	if !s.behind.Load() {
		runtime.Gosched()
	}
}

// Started and CumulativeStats are of no use here.
func (s *scheduler) Started()                                                {}
func (s *scheduler) CumulativeStats(stats pebble.CompactionGrantHandleStats) {}

// Done hears that a compaction has ended.
func (s *scheduler) Done() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.grant()
}

// grant starts what waits and may run.
func (s *scheduler) grant() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = true
	if s.granting {
		return
	}
	s.granting = true
	for s.asked {
		s.asked = false
		for s.take() && s.start() {
		}
	}
	s.granting = false
	s.rest.Broadcast()
}

// start starts one that take has counted, or takes the count back if none waits. mu is held, except while Pebble is called.
func (s *scheduler) start() bool {
	s.mu.Unlock()
	waits, _ := s.db.GetWaitingCompaction()
	started := waits && s.db.Schedule(s)
	s.mu.Lock()
	if !started {
		s.running--
	}
	return started
}
