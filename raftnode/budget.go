package raftnode

import "sync/atomic"

// budget counts the bytes of all requests that a node has taken and not answered, wherever they are: in an inbox, a queue, passed on to
// another node, or proposed. The bounds of the queues count requests, and a request may be large.
type budget struct {
	bytes atomic.Int64
}

// requestBytesMin is what a request takes besides its keys and values.
const requestBytesMin = 512

// take makes a request count until it is answered, or refuses it. One that is alone is never too large.
func (b *budget) take(r *Request) error {
	if r.Read != nil {
		r.bytes = r.Read.SizeVT()
	}
	bytes := int64(r.bytes) + requestBytesMin
	held := b.bytes.Add(bytes)
	if held > requestBytesMax && held > bytes {
		b.bytes.Add(-bytes)
		return overloaded("bytes of requests in the node", requestBytesMax, uint64(max(0, held-bytes)))
	}
	r.budget = b
	return nil
}

// release ends what take began.
func (r *Request) release() {
	if r.budget != nil {
		r.budget.bytes.Add(-int64(r.bytes) - requestBytesMin)
		r.budget = nil
	}
}
