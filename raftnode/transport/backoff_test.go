package transport

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	var b backoff
	for _, want := range []time.Duration{20, 40, 80, 160, 320, 640, 1000, 1000} {
		want *= time.Millisecond
		c := b
		if got := c.next(0); got != want/2 {
			t.Fatalf("shortest wait %s, want %s", got, want/2)
		}
		if got := b.next(1); got != want {
			t.Fatalf("longest wait %s, want %s", got, want)
		}
	}
	b.reset()
	if got := b.next(1); got != backoffMin {
		t.Fatalf("wait %s after a reset", got)
	}
}
