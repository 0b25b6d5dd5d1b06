package raftkv

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Retries are a part of the calls, plus what is kept.
func TestBudget(t *testing.T) {
	c := &clock{}
	b := newBudget(10, 20, c.now)
	taken := func(most int) (n int) {
		for n < most && b.take() {
			n++
		}
		return n
	}
	if n := taken(100); n != 20 {
		t.Fatalf("%d retries were kept", n)
	}
	for range 95 {
		b.called()
	}
	if n := taken(100); n != 9 {
		t.Fatalf("%d retries for 95 calls", n)
	}
	for range 5 {
		b.called()
	}
	if n := taken(100); n != 1 {
		t.Fatalf("%d retries for 5 calls more", n)
	}
	c.pass(retriesRefill / 4)
	if n := taken(100); n != 5 {
		t.Fatalf("%d retries after a quarter of the time", n)
	}
	c.pass(time.Hour)
	for range 1000 {
		b.called()
	}
	if n := taken(100); n != 20 {
		t.Fatalf("%d retries after a long time", n)
	}
}

func TestBudgetIsSharedByManyCalls(t *testing.T) {
	b := newBudget(10, 100, new(clock).now)
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.called()
				if b.take() {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := taken.Load(); n > 100+800 || n < 800 {
		t.Fatalf("%d retries for 8000 calls", n)
	}
}

func TestAttemptTimes(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		time.Hour:               attemptMax,
		9 * time.Second:         3 * time.Second,
		1200 * time.Millisecond: 500 * time.Millisecond,
		900 * time.Millisecond:  900 * time.Millisecond, // the rest would be too short for another
		time.Millisecond:        time.Millisecond,
		-time.Second:            -time.Second,
	} {
		if got := attemptTime(left); got != want {
			t.Errorf("an attempt takes %s of %s, want %s", got, left, want)
		}
	}
	attempts := 0
	for left := 10 * time.Second; left > 0; left -= attemptTime(left) {
		attempts++
	}
	if attempts < 5 || attempts > 10 {
		t.Errorf("%d attempts within 10 seconds", attempts)
	}
	for range 1000 {
		if d := later(100); d < 100 || d > 150 {
			t.Fatalf("a wait of %d for one of 100", d)
		}
	}
}

// Each wait is twice the one before, up to a bound, less up to a half by chance: callers that have failed together do not come back together.
func TestBackoff(t *testing.T) {
	const callers = 1000
	all := make([]backoff, callers)
	for step := range 12 {
		full := min(backoffMin<<step, backoffMax)
		early, late := 0, 0
		for i := range all {
			wait := all[i].next()
			if wait < full/2 || wait > full {
				t.Fatalf("wait %d is %s, want %s to %s", step, wait, full/2, full)
			}
			switch {
			case wait < full*5/8:
				early++
			case wait > full*7/8:
				late++
			}
		}
		if early == 0 || late == 0 {
			t.Errorf("wait %d: %d callers in the first quarter, %d in the last, of %d", step, early, late, callers)
		}
	}
}
