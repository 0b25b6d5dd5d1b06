package raftkv

import (
	"fmt"
	"math"
	"time"
)

// Bounds of the contract.
const (
	ttlMax     = 10 * 365 * 24 * time.Hour
	leaseIDMax = math.MaxInt64
)

// Life is an option that says how long a key lives: WithTTL or WithLease. Without one it is for ever. A later put replaces it, also by for ever. It goes into
// Put, and into PutOp for batches and transactions.
type Life interface {
	PutOption
	applyLife(*life)
}

// WithTTL is the option of a put that the key lives for d, at least and some seconds longer at the most. It is rounded up to milliseconds, and ten
// years at the most.
func WithTTL(d time.Duration) Life { return ttlOption(d) }

// WithLease is the option of a put that the key hangs on a lease: when the lease ends, the key goes. lease is a *Lease, or the LeaseID of one that somebody
// else keeps. If the lease does not exist or has ended, nothing is written and the error is a *LeaseNotFoundError; a *Lease that is known to be lost or
// revoked is not even sent, and the error is the reason.
func WithLease(lease LeaseRef) Life { return leaseOption{lease} }

// LeaseRef names a lease: a *Lease or a LeaseID.
type LeaseRef interface {
	// reference is the id of the lease, and why nothing can be put on it.
	reference() (LeaseID, error)
}

// LeaseID is the id of a lease: 63 bits, never 0.
type LeaseID uint64

func (id LeaseID) reference() (LeaseID, error) { return id, nil }

type ttlOption time.Duration

func (o ttlOption) applyPut(w *writeOptions) { o.applyLife(&w.life) }
func (o ttlOption) applyLife(l *life)        { l.ttl, l.options = time.Duration(o), l.options+1 }

type leaseOption struct{ lease LeaseRef }

func (o leaseOption) applyPut(w *writeOptions) { o.applyLife(&w.life) }
func (o leaseOption) applyLife(l *life)        { l.lease, l.leased, l.options = o.lease, true, l.options+1 }

// life is how long a key is to live, as its put says.
type life struct {
	ttl    time.Duration
	lease  LeaseRef
	leased bool
	// options counts those that were given; there may be one.
	options int
}

func lifeOf(options []Life) life {
	var l life
	for _, o := range options {
		o.applyLife(&l)
	}
	return l
}

// resolve returns what the contract has of l. at is where the put is in its request.
func (l *life) resolve(at string) (ttlMs, leaseID uint64, err error) {
	switch {
	case l.options == 0:
		return 0, 0, nil
	case l.options > 1:
		return 0, 0, &InvalidError{Problem: at + "a put takes one of WithTTL and WithLease, once"}
	case !l.leased:
		ttlMs, err = ttlMillis(at+"ttl", l.ttl)
		return ttlMs, 0, err
	case l.lease == nil || l.lease == LeaseRef((*Lease)(nil)):
		return 0, 0, &InvalidError{Problem: at + "lease is nil"}
	}
	id, err := l.lease.reference()
	if err == nil {
		err = checkLeaseID(at, id)
	}
	return 0, uint64(id), err
}

// must is resolve of what was checked. A lease that was lost in between is for the servers to refuse.
func (l *life) must() (ttlMs, leaseID uint64) {
	if l.lease != nil {
		id, _ := l.lease.reference()
		return 0, uint64(id)
	}
	return uint64(ceilMillis(l.ttl)), 0
}

// ttlMillis is d in milliseconds, rounded up: a key must not go before its time.
func ttlMillis(field string, d time.Duration) (uint64, error) {
	switch {
	case d <= 0:
		return 0, &InvalidError{Problem: fmt.Sprintf("%s must be more than 0, it is %s", field, d)}
	case d > ttlMax:
		return 0, &InvalidError{Problem: fmt.Sprintf("%s is %s, at most ten years (%s) are possible; leave it out for a key that lives for ever", field, d, ttlMax)}
	}
	return uint64(ceilMillis(d)), nil
}

func ceilMillis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func checkLeaseID(at string, id LeaseID) error {
	if id == 0 || id > leaseIDMax {
		return &InvalidError{Problem: fmt.Sprintf("%slease is %d: the id of a lease is not 0 and at most %d; Grant makes one", at, id, uint64(leaseIDMax))}
	}
	return nil
}

// millis is a time of the contract.
func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
}
