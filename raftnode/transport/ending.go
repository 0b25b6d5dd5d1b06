package transport

// ending is the end of something that runs beside its starter: err stands once done is closed, for everyone to read.
type ending struct {
	done chan struct{}
	err  error
}

// beside runs f in a goroutine of its own. Whoever starts it also waits for it.
func beside(f func() error) *ending {
	e := &ending{done: make(chan struct{})}
	go func() {
		defer close(e.done)
		e.err = f()
	}()
	return e
}

// wait returns how it ended.
func (e *ending) wait() error {
	<-e.done
	return e.err
}
