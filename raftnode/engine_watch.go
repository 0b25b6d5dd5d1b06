package raftnode

import (
	"errors"
	"sort"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// historian is an engine that keeps the history of its shards. A program's own machine does not.
type historian interface {
	// changes reads history, and rangeAt a page of the keys as of a revision (see state.View).
	changes(shard placement.ShardID, r state.ChangesRead) ([]*state.Part, state.Cursor, error)
	rangeAt(shard placement.ShardID, start, end string, revision uint64) (records []*peerv1.KeyRecord, next string, err error)
	// youngerThan returns the first revision that was made at a clock of the shard or after it, of those from floor up to and including last,
	// or the one behind.
	youngerThan(shard placement.ShardID, floor, last, clockMs uint64) (uint64, error)
}

var _ historian = (*kvEngine)(nil)

// Each call opens a view of its own: none outlives a page.
func (e *kvEngine) changes(shard placement.ShardID, r state.ChangesRead) (parts []*state.Part, next state.Cursor, err error) {
	v := e.store.View()
	defer func() { err = errors.Join(err, v.Close()) }()
	return v.Changes(shard, r)
}

func (e *kvEngine) rangeAt(shard placement.ShardID, start, end string, revision uint64) (records []*peerv1.KeyRecord, next string, err error) {
	v := e.store.View()
	defer func() { err = errors.Join(err, v.Close()) }()
	r := &peerv1.RangeRead{Start: start, End: end, Revision: revision, MaxBytes: uint64(e.limits.PageBytes)}
	records, behind, err := v.RangeAt(shard, r, pageEffort(e.limits))
	if err != nil || behind == "" {
		return records, "", err
	}
	return records, NextKey(behind), nil
}

// youngerThan searches: the clock of a shard does not fall from one revision to the next (R19).
func (e *kvEngine) youngerThan(shard placement.ShardID, floor, last, clockMs uint64) (revision uint64, err error) {
	v := e.store.View()
	defer func() { err = errors.Join(err, v.Close()) }()
	older := func(revision uint64) bool {
		at, err1 := v.RevisionClock(shard, revision)
		err = errors.Join(err, err1)
		return at < clockMs
	}
	if floor > last || !older(floor) || err != nil {
		return floor, err
	}
	n := sort.Search(int(last-floor), func(i int) bool { return !older(floor + 1 + uint64(i)) })
	return floor + 1 + uint64(n), err
}
