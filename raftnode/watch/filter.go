package watch

import (
	"strings"

	"github.com/raftkv/raftkv/raftnode/state"
)

// Filter says what a watcher sees. At most one of Key, Prefix, and Start with End is set; none: every key.
type Filter struct {
	// Key is a single key.
	Key string
	// Prefix is what the keys begin with.
	Prefix string
	// Start is the first key, End the one before which the range ends; empty: the last of all is in it.
	Start, End string
	// NoPuts and NoDeletes leave these out.
	NoPuts, NoDeletes bool
	// Before asks for the record that a change has replaced.
	Before bool
}

// Covers says whether a key is in the range.
func (f *Filter) Covers(key string) bool {
	switch {
	case f.Key != "":
		return key == f.Key
	case f.Prefix != "":
		return strings.HasPrefix(key, f.Prefix)
	default:
		return key >= f.Start && (f.End == "" || key < f.End)
	}
}

// Want says what of a change the watcher needs.
func (f *Filter) Want(key string, deleted bool) state.Want {
	switch {
	case deleted && f.NoDeletes, !deleted && f.NoPuts, !f.Covers(key):
		return state.WantNothing
	case f.Before:
		return state.WantBoth
	default:
		return state.WantAfter
	}
}
