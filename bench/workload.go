package bench

import (
	"bytes"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
)

// poolBytes is the random data from which values are cut. It is so much larger than what a compressor sees at once
// that values do not repeat for it.
const poolBytes = 8 << 20

// workload decides what each operation does.
type workload struct {
	options *Options
	pool    []byte
}

func newWorkload(o *Options) *workload {
	w := &workload{options: o}
	if o.Compressible {
		line := []byte("raftkv benchmark value ")
		w.pool = bytes.Repeat(line, (poolBytes+o.ValueBytes)/len(line)+1)
		return w
	}
	w.pool = make([]byte, poolBytes+o.ValueBytes)
	_, _ = crand.Read(w.pool) // never fails
	return w
}

// key names key i. All are equally long.
func key(i int) string { return fmt.Sprintf(keyPrefix+"%012d", i) }

// keyPrefix begins all keys.
const keyPrefix = "bench/"

func (w *workload) randomKey(r *rand.Rand) string { return key(r.IntN(w.options.KeySpace)) }

// value is shared with other values: it must not be written to.
func (w *workload) value(r *rand.Rand) []byte {
	from := r.IntN(poolBytes)
	return w.pool[from : from+w.options.ValueBytes : from+w.options.ValueBytes]
}

// reads says whether the next operation is a read.
func (w *workload) reads(r *rand.Rand) bool {
	switch w.options.Op {
	case Get:
		return true
	case Mixed:
		return r.IntN(100) < w.options.ReadPercent
	}
	return false
}
