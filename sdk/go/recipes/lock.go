package recipes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

var (
	// ErrReleased is why the context of a lock ended that its holder has released.
	ErrReleased = errors.New("the lock was released")
	// ErrLost says that a lock is not held any more, although its holder has not released it; *LostError tells more.
	ErrLost = errors.New("the lock is lost")
	// ErrHeld says that somebody else holds a lock; *HeldError tells more.
	ErrHeld = errors.New("the lock is held")
)

// LostError says that a lock is not held any more. It is an ErrLost.
type LostError struct {
	Key   string
	Token uint64
	// Err is why: the end of the lease, or nil if the key was removed or written by somebody else.
	Err error
}

func (e *LostError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("lock %q with token %d is lost: its key was removed or overwritten", e.Key, e.Token)
	}
	return fmt.Sprintf("lock %q with token %d is lost: %v", e.Key, e.Token, e.Err)
}

// Is makes every LostError an ErrLost.
func (e *LostError) Is(target error) bool { return target == ErrLost }

func (e *LostError) Unwrap() error { return e.Err }

// HeldError says who holds a lock. It is an ErrHeld.
type HeldError struct {
	Key string
	// Token and Value are those of the holder.
	Token uint64
	Value []byte
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("lock %q is held by somebody else, with token %d", e.Key, e.Token)
}

// Is makes every HeldError an ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

const (
	defaultTTL = 10 * time.Second
	// releaseTime is how long giving back a lock may take that nobody waits for.
	releaseTime = 3 * time.Second
	// unknownMax is how often in a row the outcome of a step towards a lock may be unknown, or its lease may have ended.
	unknownMax = 3
	// patience is that of the watch of a lock that is held: it goes on for as long as the lock does.
	patience = 365 * 24 * time.Hour
)

// Option changes how a lock is held.
type Option interface{ apply(*options) }

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

type options struct {
	ttl   time.Duration
	value []byte
}

// WithTTL is how long the lock lives on when its holder is gone, and the place of one who waited: 10 seconds by default. A holder that is cut off from the cluster for nearly
// that long loses the lock, one who waits its place.
func WithTTL(d time.Duration) Option { return optionFunc(func(o *options) { o.ttl = d }) }

// WithValue is what the key of the lock holds, for others to see who has it, and the key of a place in its queue.
func WithValue(value []byte) Option { return optionFunc(func(o *options) { o.value = value }) }

// Lock is a lock that is held. It is safe for concurrent use.
type Lock struct {
	client *raftkv.Client
	key    string
	token  uint64
	lease  *raftkv.Lease
	// place is the key of the place that the holder had in the queue; empty if it had none.
	place string
	// life ends with the lock, for the reason that is its cause.
	life context.Context
	end  context.CancelCauseFunc
	// guarded is closed when the goroutine that watches the key has ended.
	guarded chan struct{}

	// mu guards revision, that of the last write of the key. A leaf.
	mu       sync.Mutex
	revision uint64
}

// Acquire takes the lock whose key is key, and waits until it is its turn or ctx ends. Those who wait have the lock in the order in which they came; see the package
// documentation. Release it.
func Acquire(ctx context.Context, client *raftkv.Client, key string, opts ...Option) (*Lock, error) {
	return take(ctx, client, key, true, opts)
}

// TryAcquire takes the lock whose key is key if it is free, else the error is a *HeldError. It does not queue: in the moment between two holders it may come before those
// who wait.
func TryAcquire(ctx context.Context, client *raftkv.Client, key string, opts ...Option) (*Lock, error) {
	return take(ctx, client, key, false, opts)
}

// WithLock calls do while it holds the lock whose key is key. The context of do ends when the lock is lost, with a *LostError as its cause. If the lock was lost
// before do returned, the error says so, also if do has none.
func WithLock(ctx context.Context, client *raftkv.Client, key string, do func(context.Context, *Lock) error, opts ...Option) (err error) {
	l, err := Acquire(ctx, client, key, opts...)
	if err != nil {
		return err
	}
	defer func() {
		release, cancel := detached(ctx)
		defer cancel()
		err = errors.Join(err, l.Release(release))
	}()
	ctx, cancel := l.Context(ctx)
	defer cancel()
	return do(ctx, l)
}

// detached is a short time for giving something back, also when ctx has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
}

func take(ctx context.Context, client *raftkv.Client, key string, wait bool, opts []Option) (*Lock, error) {
	o := options{ttl: defaultTTL}
	for _, opt := range opts {
		opt.apply(&o)
	}
	t := &taking{client: client, key: key, options: o}
	if wait {
		t.queue = queueOf(key)
	}
	l, err := t.take(ctx, wait)
	if err != nil {
		t.giveUp(ctx)
		return nil, fmt.Errorf("lock %q: %w", key, err)
	}
	return l, nil
}

func (l *Lock) lost(err error) error { return &LostError{Key: l.key, Token: l.token, Err: err} }

// guard watches the key for as long as the lock is held: somebody may remove or overwrite it, without a lease that ends.
func (l *Lock) guard() {
	defer close(l.guarded)
	for {
		there := false
		for event, err := range l.client.Watch(l.life, raftkv.Key(l.key), raftkv.IncludeInitial(), raftkv.WithPatience(patience)) {
			if errors.As(err, new(*raftkv.CompactedError)) {
				break // look at the key again
			}
			if err != nil {
				return // the lock has ended, or nobody lets us watch, and the lease is what there is
			}
			if event.Type == raftkv.EventInitialDone && there {
				continue
			}
			if there = event.Type == raftkv.EventPut; !there || !l.observe(&event.Item) {
				l.end(l.lost(nil))
				return
			}
		}
	}
}

// observe learns how the key stands; false if that is not as the holder of the lock has left it.
func (l *Lock) observe(item *raftkv.Item) bool {
	if item.CreateRevision != l.token || item.Lease != l.lease.ID() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision = max(l.revision, item.ModRevision)
	return true
}

// Key is the key of the lock.
func (l *Lock) Key() string { return l.key }

// Token is the fencing token: it is higher than that of every holder of this lock before. It is the revision at which the key came into being, which compares for
// this key and no other.
func (l *Lock) Token() uint64 { return l.token }

// Done is closed when the lock is not held any more, as far as the client knows. Err tells why.
func (l *Lock) Done() <-chan struct{} { return l.life.Done() }

// Err is nil as long as the lock is held, by the clock of the lease and not only when Done is closed. Then it is ErrReleased or a *LostError.
func (l *Lock) Err() error {
	if err := l.lease.Err(); err != nil && l.life.Err() == nil {
		l.end(l.lost(err))
	}
	return context.Cause(l.life)
}

// Context is parent, which ends when the lock is not held any more, with Err as its cause.
func (l *Lock) Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(l.life, func() { cancel(l.Err()) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// Held is the compare of a transaction that holds if the lock is still held. The other keys of the transaction must be of the shard of the lock, which keys with the same
// {tag} are.
func (l *Lock) Held() raftkv.Compare {
	l.mu.Lock()
	defer l.mu.Unlock()
	return raftkv.RevisionIs(l.key, l.revision)
}

// Write applies operations all together if the lock is still held, which is decided where they are applied. If it is not, nothing is done and the error is a
// *LostError. Their keys must be of the shard of the lock, which keys with the same {tag} are; otherwise the error is a *raftkv.CrossShardError.
func (l *Lock) Write(ctx context.Context, operations ...raftkv.Op) (raftkv.TxnResult, error) {
	if err := l.Err(); err != nil {
		return raftkv.TxnResult{}, err
	}
	return l.write(ctx, operations...)
}

func (l *Lock) write(ctx context.Context, operations ...raftkv.Op) (raftkv.TxnResult, error) {
	for {
		held := l.Held()
		r, err := l.client.Txn(ctx, raftkv.Txn{If: []raftkv.Compare{held}, Then: operations, Else: []raftkv.Op{raftkv.GetOp(l.key)}})
		if err != nil || r.Succeeded {
			return r, err
		}
		item := r.Results[0].Item
		if item != nil && item.CreateRevision == 0 { // The answer was given again so late that how the key stood is forgotten: another is asked for.
			continue
		}
		// Still ours if only its value has changed; then the next compare has its new revision.
		if item == nil || !l.observe(item) {
			l.end(l.lost(nil))
			return raftkv.TxnResult{}, l.Err()
		}
	}
}

// SetValue changes what the key of the lock holds, if the lock is still held; else the error is a *LostError.
func (l *Lock) SetValue(ctx context.Context, value []byte) error {
	r, err := l.Write(ctx, raftkv.PutOp(l.key, value, raftkv.WithLease(l.lease)))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision = max(l.revision, r.Revision)
	return nil
}

// remove is what takes the key of the lock away, and the place in the queue, should a late copy of the write of it have brought that back.
func (l *Lock) remove() []raftkv.Op {
	if l.place == "" {
		return []raftkv.Op{raftkv.DeleteOp(l.key)}
	}
	return []raftkv.Op{raftkv.DeleteOp(l.key), raftkv.DeleteOp(l.place)}
}

// Release gives the lock back. If it was lost before, the error is a *LostError. With any other error it may stand until its time is over.
func (l *Lock) Release(ctx context.Context) error {
	before := l.Err()
	l.end(ErrReleased)
	<-l.guarded
	if errors.Is(before, ErrReleased) {
		return nil
	}
	// First the key: if it is of another shard than the lease, the end of the lease takes seconds to reach it.
	_, removed := l.write(ctx, l.remove()...)
	revoked := l.lease.Revoke(ctx)
	switch {
	case errors.Is(before, ErrLost):
		return before
	case errors.Is(removed, ErrReleased): // it was not there any more
		return l.lost(nil)
	case removed != nil && revoked != nil:
		return fmt.Errorf("release lock %q: %w", l.key, errors.Join(removed, revoked))
	}
	return nil
}
