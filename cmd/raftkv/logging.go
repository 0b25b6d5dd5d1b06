package main

import (
	"io"
	"log/slog"
)

// newLogger writes the messages of a node. The names have been checked; an unknown level would be info.
func newLogger(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar) {
	l := new(slog.LevelVar)
	_ = l.UnmarshalText([]byte(level)) // checked
	o := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), l
	}
	return slog.New(slog.NewTextHandler(w, o)), l
}
