package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// A program that is awake waits as long as it says.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, p := time.Now(), newPatience(2*time.Second)
		if p.ended() {
			t.Error("it has ended at once")
		}
		<-p.over
		if took := time.Since(began); took != 2*time.Second || !p.ended() {
			t.Errorf("it took %s", took)
		}
		p = newPatience(time.Hour)
		p.end()
		<-p.over
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("nobody needs it, and it took %s", took)
		}
	})
}

func TestParsePressure(t *testing.T) {
	got, err := parsePressure("some avg10=97.60 avg60=97.98 avg300=95.92 total=6790259124\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
	if err != nil || got != 6790259124*time.Microsecond {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := parsePressure("none\n"); err == nil {
		t.Error("no figure passes")
	}
}
