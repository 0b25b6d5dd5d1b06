package service

import (
	"errors"
	"fmt"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// Bounds of the contract. They stand in its annotations too (a test compares them), so configuration can only lower them.
const (
	keyBytesMax        = 4 << 10
	batchOperationsMax = 1000
	execOperationsMax  = 4096
	pageItemsMax       = 10_000
	pageItemsDefault   = 100 // of List; Scan takes Limits.PageItems
	clientIDBytes      = 16

	idempotencyWindowMax = 30 * 24 * time.Hour
)

// Limits bound what a request may ask for. A zero field takes its default.
type Limits struct {
	// ValueBytes is the longest value; 1 MiB.
	ValueBytes uint64
	// BatchOperations is how many writes a batch holds; 1,000, which is also the most.
	BatchOperations uint64
	// BatchBytes bounds the keys and values of a batch together; 4 MiB.
	BatchBytes uint64
	// PageItems is how many keys a page of Scan or List holds; 1,000, at most 10,000.
	PageItems uint64
	// PageBytes bounds the keys and values of a page together; 1 MiB. A page holds at least one key.
	PageBytes uint64
	// RequestBytes is the longest request message; 8 MiB.
	RequestBytes uint64
	// Timeout is how long the service works on a request that brings no timeout, and the longest it works on any; 10 s.
	Timeout time.Duration
	// IdempotencyWindow is for how long the answer to a write under an idempotency key is kept, by the clock of its shard; 1 h, a second to 30 days.
	IdempotencyWindow time.Duration
	// StreamOperations and StreamBytes bound what one Exec stream has in flight, from the receipt of an operation until its
	// result is sent; 16,384 and 64 MiB. Past them the stream is read no further until results have gone out.
	StreamOperations uint64
	StreamBytes      uint64
	// MemoryBytes bounds what the requests and answers of all clients hold in memory together, on all listeners; 256 MiB. Past it
	// requests are refused until some of it is free. It holds a few requests of the longest kind at least.
	MemoryBytes uint64
}

// withDefaults fills zero fields in and reports every impossible one.
func (l Limits) withDefaults() (Limits, error) {
	fill := func(field *uint64, value uint64) {
		if *field == 0 {
			*field = value
		}
	}
	fill(&l.ValueBytes, 1<<20)
	fill(&l.BatchOperations, batchOperationsMax)
	fill(&l.BatchBytes, 4<<20)
	fill(&l.PageItems, 1000)
	fill(&l.PageBytes, 1<<20)
	fill(&l.RequestBytes, 8<<20)
	fill(&l.StreamOperations, 16_384)
	fill(&l.StreamBytes, 64<<20)
	fill(&l.MemoryBytes, 256<<20)
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	if l.IdempotencyWindow == 0 {
		l.IdempotencyWindow = time.Hour
	}
	var errs []error
	if l.IdempotencyWindow < time.Second || l.IdempotencyWindow > idempotencyWindowMax {
		errs = append(errs, fmt.Errorf("limits: IdempotencyWindow is %s, it must be 1s to %s", l.IdempotencyWindow, idempotencyWindowMax))
	}
	if l.BatchOperations > batchOperationsMax {
		errs = append(errs, fmt.Errorf("limits: BatchOperations is %d, at most %d", l.BatchOperations, batchOperationsMax))
	}
	if l.PageItems > pageItemsMax {
		errs = append(errs, fmt.Errorf("limits: PageItems is %d, at most %d", l.PageItems, pageItemsMax))
	}
	if need := l.ValueBytes + 2*keyBytesMax; l.RequestBytes < need {
		errs = append(errs, fmt.Errorf("limits: RequestBytes is %d, but a request with a value of ValueBytes needs %d", l.RequestBytes, need))
	}
	if l.RequestBytes > 1<<30 {
		errs = append(errs, fmt.Errorf("limits: RequestBytes is %d, at most %d", l.RequestBytes, 1<<30))
	}
	if need := 4 * l.RequestBytes; l.MemoryBytes < need {
		errs = append(errs, fmt.Errorf("limits: MemoryBytes is %d, but a few requests of RequestBytes need %d", l.MemoryBytes, need))
	}
	if l.Timeout < 0 {
		errs = append(errs, fmt.Errorf("limits: Timeout is %s, it must be positive", l.Timeout))
	}
	return l, errors.Join(errs...)
}

// message is what GetLimits answers.
func (l Limits) message() *raftkvv1.Limits {
	return &raftkvv1.Limits{
		KeyBytes:        keyBytesMax,
		ValueBytes:      l.ValueBytes,
		BatchOperations: l.BatchOperations,
		BatchBytes:      l.BatchBytes,
		PageItems:       l.PageItems,
		PageBytes:       l.PageBytes,
		RequestBytes:    l.RequestBytes,
		TimeoutMs:       uint64(l.Timeout.Milliseconds()),

		IdempotencyWindowMs: uint64(l.IdempotencyWindow.Milliseconds()),
	}
}
