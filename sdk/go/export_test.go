package raftkv

import "time"

// WithPings sets when a silent connection is pinged and when it is given up, for tests of what happens then.
func WithPings(after, timeout time.Duration) Option {
	return optionFunc(func(o *options) { o.path.pingAfter, o.path.pingTimeout = after, timeout })
}
