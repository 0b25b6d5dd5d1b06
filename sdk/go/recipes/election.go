package recipes

import (
	"context"
	"errors"
	"iter"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// ErrNoLeader says that nobody leads now.
var ErrNoLeader = errors.New("nobody leads")

// Election chooses one leader among those who campaign. It is a lock on a key whose value is what the leader says of itself, and guarantees
// what a lock does; see the package documentation.
type Election struct {
	client  *raftkv.Client
	key     string
	options []Option
}

// NewElection is the election whose leader holds key. Who leads, and where it can be found, is the value that it campaigns with.
func NewElection(client *raftkv.Client, key string, opts ...Option) *Election {
	return &Election{client, key, opts}
}

// Leader is who leads. The zero Leader is nobody.
type Leader struct {
	// Value is what the leader says of itself.
	Value []byte
	// Token grows with every change of the leader; 0 if nobody leads.
	Token uint64
}

// Campaign waits until this candidate leads, or ctx ends. Candidates lead in the order in which they came.
func (e *Election) Campaign(ctx context.Context, value []byte) (*Leadership, error) {
	l, err := Acquire(ctx, e.client, e.key, append(append([]Option(nil), e.options...), WithValue(value))...)
	if err != nil {
		return nil, err
	}
	return &Leadership{l}, nil
}

// Leader is who leads now; ErrNoLeader if nobody does. It may be another a moment later.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	item, err := e.client.Get(ctx, e.key)
	switch {
	case errors.Is(err, raftkv.ErrNotFound):
		return Leader{}, ErrNoLeader
	case err != nil:
		return Leader{}, err
	}
	return Leader{item.Value, item.CreateRevision}, nil
}

// Observe tells who leads, and then every change of that and of what the leader says of itself, until the loop is left or ctx ends. If the loop is so slow that the history has
// gone, it goes on with who leads then.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		told, revision := false, uint64(0)
		for {
			err := e.observe(ctx, func(leader Leader, at uint64) bool {
				if told && at == revision {
					return true
				}
				told, revision = true, at
				return yield(leader, nil)
			})
			if err == nil {
				return
			}
			if !errors.As(err, new(*raftkv.CompactedError)) {
				yield(Leader{}, err)
				return
			}
		}
	}
}

// observe is one watch. at is the revision of the key, 0 if it was not there at the beginning. It returns nil if the user has left.
func (e *Election) observe(ctx context.Context, tell func(leader Leader, at uint64) bool) error {
	nobody := true
	for event, err := range e.client.Watch(ctx, raftkv.Key(e.key), raftkv.IncludeInitial()) {
		if err != nil {
			return err
		}
		ok := true
		switch event.Type {
		case raftkv.EventPut:
			nobody = false
			ok = tell(Leader{event.Item.Value, event.Item.CreateRevision}, event.Revision)
		case raftkv.EventDelete:
			ok = tell(Leader{}, event.Revision)
		case raftkv.EventInitialDone:
			ok = !nobody || tell(Leader{}, 0)
		}
		if !ok {
			return nil
		}
	}
	return nil
}

// Leadership is a lead that is held. It is safe for concurrent use.
type Leadership struct{ lock *Lock }

// Token is the fencing token: it is higher than that of every leader before.
func (l *Leadership) Token() uint64 { return l.lock.Token() }

// Done is closed when the lead is not held any more, as far as the client knows. Err tells why.
func (l *Leadership) Done() <-chan struct{} { return l.lock.Done() }

// Err is nil as long as the lead is held. Then it is ErrReleased or a *LostError.
func (l *Leadership) Err() error { return l.lock.Err() }

// Context is parent, which ends when the lead is not held any more, with Err as its cause.
func (l *Leadership) Context(parent context.Context) (context.Context, context.CancelFunc) {
	return l.lock.Context(parent)
}

// Held is the compare of a transaction that holds if the lead is still held; see Lock.Held.
func (l *Leadership) Held() raftkv.Compare { return l.lock.Held() }

// Write applies operations all together if the lead is still held; see Lock.Write.
func (l *Leadership) Write(ctx context.Context, operations ...raftkv.Op) (raftkv.TxnResult, error) {
	return l.lock.Write(ctx, operations...)
}

// Proclaim changes what the leader says of itself, if it still leads; else the error is a *LostError.
func (l *Leadership) Proclaim(ctx context.Context, value []byte) error {
	return l.lock.SetValue(ctx, value)
}

// Resign gives the lead back, for another candidate to have at once.
func (l *Leadership) Resign(ctx context.Context) error { return l.lock.Release(ctx) }
