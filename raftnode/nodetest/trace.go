package nodetest

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"
)

// trace is a hash over everything that has happened, in order. Two runs of one seed have the same.
type trace struct {
	hash   *xxhash.Digest
	events uint64
	// print, if set, gets every event as text: to find where two runs part.
	print io.Writer
}

func newTrace() trace { return trace{hash: xxhash.New()} }

// event notes that something happened to a process (-1: to the simulation).
func (t *trace) event(at time.Duration, process int, name string) {
	t.events++
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(at))
	binary.BigEndian.PutUint64(b[8:], uint64(process))
	_, _ = t.hash.Write(b[:]) // a hash never fails
	_, _ = t.hash.WriteString(name)
	if t.print != nil {
		fmt.Fprintf(t.print, "%d %s %d %s\n", t.events, at, process, name)
	}
}

// content notes bytes that were sent or answered.
func (t *trace) content(b []byte) {
	_, _ = t.hash.Write(b)
	if t.print != nil {
		fmt.Fprintf(t.print, "  %x\n", xxhash.Sum64(b))
	}
}

func (t *trace) text(s string) {
	_, _ = t.hash.WriteString(s)
	if t.print != nil {
		fmt.Fprintf(t.print, "  %s\n", s)
	}
}
