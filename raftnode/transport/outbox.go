package transport

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// waiting is a message and what it takes in a batch.
type waiting struct {
	message *peerv1.Message
	bytes   int
}

// batchBytes is what a message takes as an element of MessageBatch.messages.
func batchBytes(m *peerv1.Message) int {
	return protowire.SizeTag(1) + protowire.SizeBytes(m.SizeVT())
}

// outbox holds what waits for one peer. It takes nothing unless a connection is up, so that nothing which was accepted for one
// connection ever travels on a later one: after PeerDown the owner may count everything before as lost.
type outbox struct {
	maxMessages, maxBytes int
	// wake has room for one token: there is something to take.
	wake chan struct{}

	mu       sync.Mutex // guards what follows; never held across I/O
	up       bool
	queue    []waiting
	messages int // in the queue or taken and not yet released
	bytes    int // of these
}

func newOutbox(maxMessages, maxBytes int) *outbox {
	return &outbox{maxMessages: maxMessages, maxBytes: maxBytes, wake: make(chan struct{}, 1)}
}

// put adds a message, or says that it cannot.
func (o *outbox) put(m *peerv1.Message, bytes int) bool {
	o.mu.Lock()
	if !o.up || o.messages >= o.maxMessages || o.messages > 0 && o.bytes+bytes > o.maxBytes {
		o.mu.Unlock()
		return false
	}
	first := len(o.queue) == 0
	o.queue = append(o.queue, waiting{m, bytes})
	o.messages++
	o.bytes += bytes
	o.mu.Unlock()
	if first {
		select {
		case o.wake <- struct{}{}:
		default: // there is a token already
		}
	}
	return true
}

// take returns all that waits, in order. The queue goes on in the memory of spent, whose elements must be cleared.
func (o *outbox) take(spent []waiting) []waiting {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.queue
	o.queue = spent[:0]
	return taken
}

// release makes room again for what has been written.
func (o *outbox) release(messages, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.messages -= messages
	o.bytes -= bytes
}

// open begins a connection.
func (o *outbox) open() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = true
}

// shut ends a connection and returns how many messages fall with it.
func (o *outbox) shut() (lost int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lost = o.messages
	o.up, o.queue, o.messages, o.bytes = false, nil, 0, 0
	select {
	case <-o.wake:
	default:
	}
	return lost
}
