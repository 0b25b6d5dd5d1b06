package state

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// ResumeCompactions lets compactions be tried again after one that the disk had no room for.
func (s *Store) ResumeCompactions() { s.room.compactions.open() }

// CompactionsWait says that there are none until ResumeCompactions.
func (s *Store) CompactionsWait() bool { return s.room.compactions.isShut() }

// reclaimTries is how many compactions of a Reclaim may find no room.
const reclaimTries = 3

// Reclaim compacts what holds deletions, so that what they delete leaves the disk, until all of it is compacted or enough says so. Pebble compacts a
// level when it is too large, so without this a disk that is full, and takes nothing but deletes, may stay full for ever. It says whether it came to the
// end: after a few compactions that found no room it does not. It is for one caller at a time.
//
// First comes level 0, then the deletions table by table: each goes down to what it deletes, and takes with it what lies between, so that one step needs
// little room.
func (s *Store) Reclaim(ctx context.Context, enough func() bool) (whole bool, err error) {
	tries := 0
	step := func(first, last []byte) error {
		if enough() {
			return nil
		}
		s.ResumeCompactions()
		err := s.compact(ctx, first, last)
		if errors.Is(err, errNoRoom) && ctx.Err() == nil {
			if tries++; tries < reclaimTries {
				return nil
			}
		}
		return err
	}
	err = s.reclaim(step)
	if errors.Is(err, errNoRoom) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state: reclaim what is deleted: %w", err)
	}
	return tries == 0, nil
}

func (s *Store) reclaim(step func(first, last []byte) error) error {
	levels, err := s.db.SSTables()
	if err != nil {
		return err
	}
	for _, t := range levels[0] {
		// All of level 0 that overlaps comes with it.
		if err := step(t.Smallest.UserKey, t.Smallest.UserKey); err != nil {
			return err
		}
	}
	if levels, err = s.db.SSTables(pebble.WithProperties()); err != nil {
		return err
	}
	for _, level := range levels[:len(levels)-1] { // What the last one deletes is gone.
		for _, t := range level {
			if t.Properties.NumDeletions == 0 {
				continue
			}
			if err := step(t.Smallest.UserKey, t.Largest.UserKey); err != nil {
				return err
			}
		}
	}
	return nil
}

// compact compacts what lies between two keys, both included. It does not wait for room.
func (s *Store) compact(ctx context.Context, first, last []byte) error {
	if planted.Is(planted.DeletedStays) {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.room.compactions.whenShut(func() { cancel(errNoRoom) })
	defer s.room.compactions.whenShut(nil)
	err := s.fatal.guard(func() error { return s.db.Compact(ctx, first, append(slices.Clone(last), 0), false) })
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
