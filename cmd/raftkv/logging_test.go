package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log, level := newLogger(&b, "error", "json")
	log.Warn("not this")
	level.Set(slog.LevelInfo)
	log.Info("this")
	if got := b.String(); strings.Contains(got, "not") || !strings.HasPrefix(got, `{"time":`) {
		t.Error(got)
	}
}

// A message of a traced request carries its trace, in both formats, also from loggers with attributes of their own; others carry none.
func TestLoggerAddsTheTrace(t *testing.T) {
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	ctx := trace.ContextWithSpanContext(t.Context(), span)
	for _, format := range []string{"json", "text"} {
		var b bytes.Buffer
		log, _ := newLogger(&b, "info", format)
		log = log.With("node", "n1")
		log.InfoContext(ctx, "traced")
		if format == "json" {
			var got map[string]string
			if err := json.Unmarshal(b.Bytes(), &got); err != nil || got["trace_id"] != span.TraceID().String() || got["span_id"] != span.SpanID().String() || got["node"] != "n1" {
				t.Errorf("%v: %s", err, &b)
			}
		} else if want := "node=n1 trace_id=01000000000000000000000000000000 span_id=0200000000000000\n"; !strings.HasSuffix(b.String(), want) {
			t.Errorf("%s, want %s", &b, want)
		}
		b.Reset()
		log.InfoContext(t.Context(), "not traced")
		if strings.Contains(b.String(), "trace_id") {
			t.Error(&b)
		}
	}
}
