package state

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// fatality is the latch behind R6: the first error that puts what is on disk in doubt is the last thing that happens.
type fatality struct {
	log    *slog.Logger
	notify func(error)

	failed    chan struct{} // closed once cause is set
	abandoned chan struct{} // closed once Pebble is dead in the middle of something; it can not even be closed then
	once      struct{ failed, abandoned sync.Once }
	cause     error // readable once failed is closed
}

func (f *fatality) init(log *slog.Logger, notify func(error)) {
	if notify == nil {
		notify = func(error) { os.Exit(1) }
	}
	f.log, f.notify = log, notify
	f.failed, f.abandoned = make(chan struct{}), make(chan struct{})
}

// fail records err, tells the owner, and returns.
func (f *fatality) fail(err error) {
	f.once.failed.Do(func() {
		f.cause = fmt.Errorf("%w: %w", ErrFatal, err)
		f.log.Error("state: fatal error", "error", err)
		close(f.failed)
		f.notify(f.cause)
	})
}

// abandon is fail for callers that must not go on: it ends the calling goroutine, running its deferred calls, so that no lock stays held
// that somebody waits for.
func (f *fatality) abandon(err error) {
	f.once.abandoned.Do(func() { close(f.abandoned) })
	f.fail(err)
	runtime.Goexit()
}

func (f *fatality) err() error {
	select {
	case <-f.failed:
		return f.cause
	default:
		return nil
	}
}

func (f *fatality) isAbandoned() bool {
	select {
	case <-f.abandoned:
		return true
	default:
		return false
	}
}

// guard runs what may be abandoned on a goroutine of its own, and ends when that or the store does.
func (f *fatality) guard(run func() error) error {
	if err := f.err(); err != nil {
		return err
	}
	return wait(func() error { return f.late(run) }, f.failed, f.err)
}

// late runs what nobody waits for after a fatal error, so that the store may be closed before it begins. Pebble panics then.
func (f *fatality) late(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if closed, ok := p.(error); !ok || !errors.Is(closed, pebble.ErrClosed) || f.err() == nil {
				panic(p)
			}
			err = f.err()
		}
	}()
	return run()
}

// guardOpen is guard for opening, which is waited for after an error that did not kill Pebble: what is open then is to be closed, or it would go on
// beside the next store in the same directory.
func (f *fatality) guardOpen(run func() error) error {
	return wait(run, f.abandoned, func() error {
		<-f.failed // which follows: an error that is not there yet would be taken for a store that is open
		return f.cause
	})
}

// guardClose is guard for closing, which goes on after an error that did not kill Pebble.
func (f *fatality) guardClose(run func() error) error {
	return wait(run, f.abandoned, func() error { return nil })
}

func wait(run func() error, stop <-chan struct{}, stopped func() error) error {
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-stop:
		return stopped()
	}
}
