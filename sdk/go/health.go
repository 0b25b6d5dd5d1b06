package raftkv

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// ejectMin and ejectMax bound how long an endpoint that failed is passed over while there are others; the time doubles with each failure in a row.
	ejectMin = 50 * time.Millisecond
	ejectMax = 5 * time.Second
	// probeTime is how long the others wait for what came of a probe.
	probeTime = time.Second
	// strikesMax is how many failures in a row that may have another cause than the endpoint eject it.
	strikesMax = 3
)

// health says whether calls go to an endpoint. An endpoint is ejected when its connection fails, when it says that it is stopping, or after strikesMax
// failures in a row without an answer in between. It is then passed over for a time. After that one call probes it while the others still pass over
// it: an answer ends the ejection, another failure doubles its time. That never all endpoints are passed over is up to routes.
type health struct {
	now func() time.Duration
	// suspect is false while nothing speaks against the endpoint, which is all that a call looks at then.
	suspect atomic.Bool

	// mu guards what follows, and the writes of suspect.
	mu      sync.Mutex
	strikes int // failures in a row that did not eject
	ejected int // ejections in a row
	till    time.Duration
	probing bool
}

// admits reports whether a call may go to the endpoint. If it may because the time of an ejection is over, it is the probe.
func (h *health) admits() bool {
	if !h.suspect.Load() {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ejected == 0 {
		return true
	}
	now := h.now()
	if now < h.till {
		return false
	}
	h.probe(now)
	return true
}

// probe makes what comes of the next call count. h.mu is held.
func (h *health) probe(now time.Duration) {
	h.probing, h.till = true, now+probeTime
}

// force is for a call that must go somewhere while all endpoints are passed over.
func (h *health) force() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ejected > 0 {
		h.probe(h.now())
	}
}

// left is how long the endpoint is passed over from now; 0 if it is not.
func (h *health) left() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ejected == 0 {
		return 0
	}
	return max(h.till-h.now(), 0)
}

// failed notes a failure, and reports whether it ejects the endpoint. One that is not certain may have another cause.
func (h *health) failed(certain bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	if h.ejected > 0 && !h.probing && now < h.till {
		return false // what was under way at the ejection says nothing new
	}
	h.suspect.Store(true)
	if h.ejected == 0 && !certain {
		if h.strikes++; h.strikes < strikesMax {
			return false
		}
	}
	h.ejected++
	h.strikes, h.probing = 0, false
	h.till = now + jitter(min(ejectMin<<min(h.ejected-1, 10), ejectMax))
	return true
}

// works notes an answer.
func (h *health) works() {
	if !h.suspect.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ejected > 0 && !h.probing && h.now() < h.till {
		return // as in failed
	}
	h.strikes, h.ejected, h.probing, h.till = 0, 0, false, 0
	h.suspect.Store(false)
}
