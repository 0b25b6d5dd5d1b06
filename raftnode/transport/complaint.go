package transport

import (
	"log/slog"
	"sync"
	"time"
)

// complaintInterval is how often strangers can make this node write to its log.
const complaintInterval = time.Second

// complaint is one kind of warning that is logged at most once per complaintInterval; the next says how many were kept back.
type complaint struct {
	mu   sync.Mutex // guards what follows
	last time.Time
	kept int
}

// due says whether to log now, and how many were not logged since the last time.
func (c *complaint) due(now time.Time) (kept int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() && now.Sub(c.last) < complaintInterval {
		c.kept++
		return 0, false
	}
	kept, c.kept, c.last = c.kept, 0, now
	return kept, true
}

func (c *complaint) warn(l *slog.Logger, message string, args ...any) {
	if kept, ok := c.due(time.Now()); ok {
		l.Warn(message, append(args, "suppressed", kept)...)
	}
}
