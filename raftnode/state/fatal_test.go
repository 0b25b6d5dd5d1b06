package state

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
)

// Between the moment at which Pebble is given up and the one at which the cause is known, opening has not succeeded.
func TestAbandonedWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fatality
		f.init(slog.New(slog.DiscardHandler), func(error) {})
		opened, never := make(chan error, 1), make(chan struct{})
		defer close(never)
		go func() { opened <- f.guardOpen(func() error { <-never; return nil }) }()
		close(f.abandoned)
		synctest.Wait()
		cause := errors.New("no disk")
		f.fail(cause)
		if err := <-opened; !errors.Is(err, cause) {
			t.Errorf("opening ends with %v, want %v", err, cause)
		}
	})
}

// A fatal error ends the wait for a flush that has not begun, and the store is closed. The flush then begins, and must not end the process.
func TestFlushBehindClose(t *testing.T) {
	s := openStore(t, Options{})
	s.fatal.fail(errors.New("the disk is gone"))
	if err := s.Close(); !errors.Is(err, ErrFatal) {
		t.Errorf("close: %v", err)
	}
	if err := s.fatal.late(s.db.Flush); !errors.Is(err, ErrFatal) {
		t.Errorf("the flush ended with %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("another panic is kept quiet")
		}
	}()
	_ = s.fatal.late(func() error { panic("another") })
}
