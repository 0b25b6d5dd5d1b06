package service

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// stage is a part of the time that a request takes, as far as the service sees it.
type stage int

const (
	stageCheck stage = iota // waiting for room and checking the rules
	stageNode               // in the node: routed, queued, in the log, committed and applied; or read
	stageSend               // the answer waiting for its turn on the stream, or for the client to take it
	stageCount
)

var stageNames = [stageCount]string{"check", "node", "send"}

// stages are where the time of a request has gone.
type stages [stageCount]time.Duration

// LogValue shows those that took any time.
func (s *stages) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, stageCount)
	for i, took := range s {
		if took > 0 {
			attrs = append(attrs, slog.Duration(stageNames[i], took))
		}
	}
	return slog.GroupValue(attrs...)
}

// finished counts a request that has been answered, and logs it if it was slow. Every answered request comes here, whatever its protocol; watches do not,
// because how long they last says nothing.
func (s *Service) finished(ctx context.Context, op operation, c code, took time.Duration, spent *stages, subject string) {
	s.metrics.observe(op, c, took)
	if s.slow.is(took - spent[stageSend]) {
		s.metrics.slow.WithLabelValues(op.String()).Inc()
		s.slow.tell(ctx, op, c, took, spent, subject)
	}
}

// Bounds of the slow-request log: when everything is slow, a line for each request would make it slower.
const (
	slowLinesMax     = 10
	slowLinesPeriod  = time.Second
	slowSubjectBytes = 64
)

// slowLog logs requests that took long.
type slowLog struct {
	threshold time.Duration // 0: none is slow
	logger    *slog.Logger
	now       func() time.Time

	// mu guards the fields below. A leaf; only slow requests come to it.
	mu      sync.Mutex
	began   time.Time // of the period
	lines   int       // in it
	omitted int       // since the last line
}

func newSlowLog(threshold time.Duration, logger *slog.Logger) *slowLog {
	return &slowLog{threshold: threshold, logger: logger, now: time.Now}
}

// is says whether a request was slow. What its client has taken to take the answer does not count.
func (l *slowLog) is(took time.Duration) bool { return l.threshold > 0 && took >= l.threshold }

// tell logs a slow request, or counts it for the next line.
func (l *slowLog) tell(ctx context.Context, op operation, c code, took time.Duration, spent *stages, subject string) {
	omitted, ok := l.admit()
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("operation", op.String()), slog.String("code", codeName(c)), slog.Duration("took", took), slog.Any("stages", spent),
	}
	if subject != "" {
		attrs = append(attrs, slog.String("key", subject[:min(len(subject), slowSubjectBytes)]))
	}
	if omitted > 0 {
		attrs = append(attrs, slog.Int("omitted", omitted))
	}
	l.logger.LogAttrs(ctx, slog.LevelWarn, "slow request", attrs...)
}

// admit says whether there may be another line now, and how many slow requests had none since the last one.
func (l *slowLog) admit() (omitted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.began) >= slowLinesPeriod {
		l.began, l.lines = now, 0
	}
	if l.lines >= slowLinesMax {
		l.omitted++
		return 0, false
	}
	l.lines++
	omitted, l.omitted = l.omitted, 0
	return omitted, true
}

// subject is the key that a request is about; empty if it is about several or none.
func subject(req any) string {
	if r, ok := req.(interface{ GetKey() string }); ok {
		return r.GetKey()
	}
	return ""
}
