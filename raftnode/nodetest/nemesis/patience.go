package main

import "time"

// A machine that is too busy to run this program on time does not run the nodes on time either. So what must happen within a time is waited for
// in ticks of this program, as nodes themselves do before they call a peer silent, and at most stretchMax times as long.
const (
	tickEvery  = 10 * time.Millisecond
	stretchMax = 4
)

// patience ends after a time in which this program was awake.
type patience struct {
	// over is closed when it ends, stop by who does not need it any more.
	over, stop chan struct{}
}

func newPatience(d time.Duration) *patience {
	p := &patience{over: make(chan struct{}), stop: make(chan struct{})}
	go p.run(d)
	return p
}

func (p *patience) run(d time.Duration) {
	tick, last := time.NewTicker(tickEvery), time.NewTimer(stretchMax*d)
	defer tick.Stop()
	defer last.Stop()
	defer close(p.over)
	for range d / tickEvery {
		select {
		case <-tick.C: // Those that were missed do not come later.
		case <-last.C:
			return
		case <-p.stop:
			return
		}
	}
}

// ended says whether it has ended.
func (p *patience) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// end lets it go.
func (p *patience) end() { close(p.stop) }
