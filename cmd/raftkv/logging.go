package main

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// newLogger writes the messages of a node. The names have been checked; an unknown level would be info.
func newLogger(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar) {
	l := new(slog.LevelVar)
	_ = l.UnmarshalText([]byte(level)) // checked
	o := &slog.HandlerOptions{Level: l}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if format == "json" {
		h = slog.NewJSONHandler(w, o)
	}
	return slog.New(traceHandler{h}), l
}

// traceHandler adds the trace and the span of the context, if it has any, so that a message and its trace find each other.
type traceHandler struct{ slog.Handler }

// Handle adds them.
func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone() // other handlers may share its attributes
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps adding them.
func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps adding them, into the group.
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
