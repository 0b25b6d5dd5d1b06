package raftkv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// Lease is a lease that this client holds: a time to live that keys share (WithLease) and that the client prolongs in the background until Revoke or
// Close. When it ends, its keys go. It is safe for concurrent use.
//
// The client counts from when it sent the last keep-alive that was answered, by its own monotonic clock, and leaves a hundredth for clocks that do not run
// alike. So Done is closed before the cluster can have ended the lease, also if no node is reached. But no signal stops a
// process that is held up between looking at it and acting, and the monotonic clock of a machine may stand still while that is suspended: what must not be
// done twice needs a fencing token; see the package recipes.
type Lease struct {
	client *Client
	id     LeaseID
	ttl    time.Duration
	// life ends with the lease, for the reason that is its cause. It is below the client's own.
	life context.Context
	end  context.CancelCauseFunc

	// mu guards until, when the holder can no longer count on the lease, and failure, the error of the last keep-alive, nil if that was answered. A leaf.
	mu      sync.Mutex
	until   time.Duration // of the client's clock
	failure error
}

const (
	// driftShare is the part of a time to live that the client does not count on: its clock may be slower than the cluster's.
	driftShare = 100
	// keepAliveShare: the next keep-alive is due after a fifth to two fifths of the time to live, so that several may fail.
	keepAliveShare = 2.0 / 5
	// keepAliveTime bounds an attempt, so that a node that hangs does not use up the time to ask others; of a short time to live it is a quarter.
	keepAliveTime = 2 * time.Second
	// lateShare: a grant that took more than this part of the time to live is followed by a keep-alive.
	lateShare = 4
	// grantsMax is how often Grant asks for another lease because the answer did not fit: an id that is taken, a session that is forgotten.
	grantsMax = 5
)

// GrantOption changes what Grant does.
type GrantOption interface{ applyGrant(*grantOptions) }

type grantOptions struct{ byHand bool }

type byHand struct{}

func (byHand) applyGrant(o *grantOptions) { o.byHand = true }

// WithoutKeepAlive leaves it to the holder to call KeepAlive.
func WithoutKeepAlive() GrantOption { return byHand{} }

// Grant begins a lease that lives for ttl, rounded up to milliseconds, and keeps it alive. If the outcome is unknown a lease may be left behind, which
// ends by itself.
func (c *Client) Grant(ctx context.Context, ttl time.Duration, options ...GrantOption) (*Lease, error) {
	ms, err := ttlMillis("ttl", ttl)
	if err != nil {
		return nil, &CallError{Operation: "grant", Err: err}
	}
	for range grantsMax {
		id, lives, sent, err := c.grant(ctx, ms)
		if err != nil {
			return nil, err
		}
		if c.now()-sent <= lives/lateShare {
			return c.hold(id, lives, sent, options)
		}
		// An attempt was given up, and if that was the one that granted the lease, little is left of it, or nothing.
		switch l, err := c.ResumeLease(ctx, id, options...); {
		case err == nil:
			return l, nil
		case !errors.As(err, new(*LeaseNotFoundError)):
			return c.hold(id, lives, sent, options)
		}
	}
	return nil, &CallError{Operation: "grant", Err: fmt.Errorf("%d leases of %v ended before their grants were answered; take a longer time to live", grantsMax, ttl)}
}

// grant grants a lease. It returns when the first attempt was sent, which may be the one that the answer is of.
func (c *Client) grant(ctx context.Context, ttlMs uint64) (id LeaseID, ttl, sent time.Duration, err error) {
	err = c.identified(func(request *raftkvv1.RequestId) error {
		sent = c.now()
		return c.unary(ctx, "grant", nil, writesOnce, func(ctx context.Context, e *endpoint) error {
			r, err := c.leaseService(e).Grant(ctx, &raftkvv1.GrantRequest{TtlMs: ttlMs, RequestId: request})
			id, ttl = LeaseID(r.GetLease().GetId()), millis(r.GetLease().GetTtlMs())
			return err
		})
	})
	return id, ttl, sent, err
}

// ResumeLease goes on with a lease that was granted before, by another process perhaps: it keeps it alive, once and then as Grant does. If the lease
// does not exist or has ended, the error is a *LeaseNotFoundError.
func (c *Client) ResumeLease(ctx context.Context, id LeaseID, options ...GrantOption) (*Lease, error) {
	if err := checkLeaseID("", id); err != nil {
		return nil, &CallError{Operation: "resume lease", Err: err}
	}
	sent, ttl, err := c.keepAlive(ctx, id, keepAliveTime)
	if err != nil {
		return nil, err
	}
	return c.hold(id, ttl, sent, options)
}

// hold begins to look after a lease.
func (c *Client) hold(id LeaseID, ttl, sent time.Duration, options []GrantOption) (*Lease, error) {
	var o grantOptions
	for _, option := range options {
		option.applyGrant(&o)
	}
	l := &Lease{client: c, id: id, ttl: ttl}
	l.life, l.end = context.WithCancelCause(c.stopped)
	l.kept(sent)
	if !c.start(func(context.Context) { l.keep(!o.byHand, sent) }) {
		l.end(ErrClosed)
		return nil, &CallError{Operation: fmt.Sprintf("hold lease %d", id), Err: ErrClosed}
	}
	return l, nil
}

// identified makes a write outside Exec under an identity of the client's session, so that the attempts of do apply once. If the cluster has forgotten the session or
// an id is taken, do is called again for another write: for a lease that is no harm.
func (c *Client) identified(do func(*raftkvv1.RequestId) error) error {
	var err error
	seen := uint64(0)
	for range grantsMax {
		o := newOp("lease", "")
		c.sessions.begin(o)
		err = do(&raftkvv1.RequestId{ClientId: o.id.ClientId, Sequence: o.id.Sequence, AckedBelow: o.id.AckedBelow, Seen: seen})
		c.sessions.end(o)
		o.release()
		var expired *SessionExpiredError
		switch {
		case errors.As(err, &expired):
			seen = expired.Revision
		case !errors.As(err, new(*LeaseExistsError)):
			return err
		}
	}
	return err
}

// keepAlive prolongs a lease. It returns when the attempt was sent that was answered. attempt bounds each.
func (c *Client) keepAlive(ctx context.Context, id LeaseID, attempt time.Duration) (sent, ttl time.Duration, err error) {
	err = c.unary(ctx, fmt.Sprintf("keep lease %d alive", id), nil, prolongs, func(ctx context.Context, e *endpoint) error {
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		sent = c.now()
		r, err := c.leaseService(e).KeepAlive(ctx, &raftkvv1.KeepAliveRequest{Id: uint64(id)})
		ttl = millis(r.GetLease().GetTtlMs())
		return err
	})
	return sent, ttl, err
}

// ID is the id of the lease.
func (l *Lease) ID() LeaseID { return l.id }

// TTL is how long the lease lives on after each keep-alive.
func (l *Lease) TTL() time.Duration { return l.ttl }

// Done is closed when the holder can no longer count on the lease: it was revoked, it is lost, or the client was closed. Err tells which.
func (l *Lease) Done() <-chan struct{} { return l.life.Done() }

// Context is parent, which ends with the lease, with Err as its cause.
func (l *Lease) Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(l.life, func() { cancel(l.Err()) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// Err is nil as long as the holder can count on the lease, by the clock and not only when Done is closed. Then it is ErrLeaseRevoked, ErrClosed, or a
// *LeaseLostError.
func (l *Lease) Err() error {
	if l.life.Err() == nil && l.Remaining() > 0 {
		return nil
	}
	l.end(l.lost())
	cause := context.Cause(l.life)
	if !errors.Is(cause, ErrLeaseLost) && !errors.Is(cause, ErrLeaseRevoked) { // the client has ended
		return ErrClosed
	}
	return cause
}

// Remaining is for how long the holder can count on the lease if no further keep-alive is answered; 0 if it cannot any more.
func (l *Lease) Remaining() time.Duration {
	if l.life.Err() != nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.until-l.client.now())
}

// KeepAlive prolongs the lease at once. It is needed only WithoutKeepAlive.
func (l *Lease) KeepAlive(ctx context.Context) error {
	if err := l.Err(); err != nil {
		return &CallError{Operation: fmt.Sprintf("keep lease %d alive", l.id), Err: err}
	}
	sent, _, err := l.client.keepAlive(ctx, l.id, l.attemptTime())
	if err == nil {
		l.kept(sent)
	} else if errors.As(err, new(*LeaseNotFoundError)) {
		l.end(&LeaseLostError{ID: l.id, Err: err})
	}
	return err
}

// Revoke ends the lease; its keys go, those on the shard of the lease before Revoke returns if they are not more than a thousand, the others within
// seconds. Done is closed at once. A lease that has ended by itself is no error.
func (l *Lease) Revoke(ctx context.Context) error {
	l.end(ErrLeaseRevoked)
	err := RevokeLease(ctx, l.client, l.id)
	if errors.As(err, new(*LeaseNotFoundError)) {
		return nil
	}
	return err
}

// RevokeLease ends a lease that somebody else has granted, as its Revoke does, without prolonging it first as ResumeLease would. If the lease does not exist or has ended
// by itself, the error is a *LeaseNotFoundError. If the lease has gone and the cluster cannot tell any more whether this call has ended it, that is no error.
func RevokeLease(ctx context.Context, c *Client, id LeaseID) error {
	if err := checkLeaseID("", id); err != nil {
		return &CallError{Operation: "revoke lease", Err: err}
	}
	name := fmt.Sprintf("revoke lease %d", id)
	// Attempts under an identity before the last one: the cluster may have executed one of them, and forgotten that.
	forgotten := false
	err := c.identified(func(request *raftkvv1.RequestId) error {
		attempts := 0
		err := c.unary(ctx, name, nil, writesOnce, func(ctx context.Context, e *endpoint) error {
			attempts++
			_, err := c.leaseService(e).Revoke(ctx, &raftkvv1.RevokeRequest{Id: uint64(id), RequestId: request})
			return err
		})
		if attempts > 1 && errors.As(err, new(*SessionExpiredError)) {
			forgotten = true
		}
		return err
	})
	if forgotten && errors.As(err, new(*LeaseNotFoundError)) {
		return nil
	}
	return err
}

// reference makes *Lease a LeaseRef.
func (l *Lease) reference() (LeaseID, error) { return l.id, l.Err() }

// kept notes that a keep-alive was answered which was sent then.
func (l *Lease) kept(sent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = max(l.until, sent+l.ttl-l.ttl/driftShare)
	l.failure = nil
}

// lost is the error of a lease whose time is over.
func (l *Lease) lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &LeaseLostError{ID: l.id, Err: l.failure}
}

func (l *Lease) attemptTime() time.Duration { return min(l.ttl/4+time.Millisecond, keepAliveTime) }

// keep looks after the lease until it ends, which was sent for first then. It prolongs it if automatic.
func (l *Lease) keep(automatic bool, sent time.Duration) {
	defer l.end(nil) // frees what the context holds; the first cause counts
	share := time.Duration(float64(l.ttl) * keepAliveShare)
	due := sent + jitter(share)
	var retry backoff
	timer := time.NewTimer(0)
	defer timer.Stop()
	for l.Err() == nil {
		wait := l.Remaining()
		if automatic {
			wait = min(wait, due-l.client.now())
		}
		timer.Reset(max(wait, 0))
		select {
		case <-timer.C:
		case <-l.life.Done():
			return
		}
		if !automatic || l.client.now() < due {
			continue
		}
		// The attempts of one call go to one node after the other, until the time of the lease is over.
		ctx, cancel := context.WithTimeout(l.life, l.Remaining())
		sent, _, err := l.client.keepAlive(ctx, l.id, l.attemptTime())
		cancel()
		switch {
		case err == nil:
			l.kept(sent)
			due, retry = sent+jitter(share), backoff{}
		case errors.As(err, new(*LeaseNotFoundError)):
			l.end(&LeaseLostError{ID: l.id, Err: err})
		default:
			l.mu.Lock()
			l.failure = err
			l.mu.Unlock()
			due = l.client.now() + retry.next()
		}
	}
}

// LeaseInfo describes a lease.
type LeaseInfo struct {
	ID LeaseID
	// TTL is how long it lives on after each keep-alive, Remaining how long it lives on if there is none, as the answering node knows.
	TTL, Remaining time.Duration
}

func leaseInfo(l *raftkvv1.Lease) LeaseInfo {
	return LeaseInfo{ID: LeaseID(l.GetId()), TTL: millis(l.GetTtlMs()), Remaining: millis(l.GetRemainingMs())}
}

// GetLease describes a lease. If it does not exist or has ended, the error is a *LeaseNotFoundError.
func (c *Client) GetLease(ctx context.Context, id LeaseID) (LeaseInfo, error) {
	r, err := c.getLease(ctx, &raftkvv1.GetLeaseRequest{Id: uint64(id)})
	return leaseInfo(r.GetLease()), err
}

func (c *Client) getLease(ctx context.Context, request *raftkvv1.GetLeaseRequest) (*raftkvv1.GetLeaseResponse, error) {
	if err := checkLeaseID("", LeaseID(request.Id)); err != nil {
		return nil, &CallError{Operation: "get lease", Err: err}
	}
	var response *raftkvv1.GetLeaseResponse
	err := c.unary(ctx, fmt.Sprintf("get lease %d", request.Id), nil, reads, func(ctx context.Context, e *endpoint) (err error) {
		response, err = c.leaseService(e).GetLease(ctx, request)
		return err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// LeaseKeys returns the keys that hang on a lease, in order, of all shards. It reads page by page, as Scan does.
func (c *Client) LeaseKeys(ctx context.Context, id LeaseID) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for after, more := "", true; more; {
			r, err := c.getLease(ctx, &raftkvv1.GetLeaseRequest{Id: uint64(id), Keys: true, KeysAfter: after})
			if err != nil {
				yield("", err)
				return
			}
			for _, key := range r.Keys {
				if !yield(key, nil) {
					return
				}
				after = key
			}
			more = r.MoreKeys && len(r.Keys) > 0
		}
	}
}

// ListLeases returns all leases, by id. It reads page by page, as Scan does.
func (c *Client) ListLeases(ctx context.Context) iter.Seq2[LeaseInfo, error] {
	return func(yield func(LeaseInfo, error) bool) {
		for token, more := "", true; more; more = token != "" {
			var response *raftkvv1.ListLeasesResponse
			err := c.unary(ctx, "list leases", nil, reads, func(ctx context.Context, e *endpoint) (err error) {
				response, err = c.leaseService(e).ListLeases(ctx, &raftkvv1.ListLeasesRequest{Limit: scanPage, PageToken: token})
				return err
			})
			if err != nil {
				yield(LeaseInfo{}, err)
				return
			}
			for _, l := range response.Leases {
				if !yield(leaseInfo(l), nil) {
					return
				}
			}
			token = response.NextPageToken
		}
	}
}
