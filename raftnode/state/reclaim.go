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
func (s *Store) ResumeCompactions() { s.room.open(false) }

// Reclaim compacts what holds deletions, so that what they delete leaves the disk, until all of it is compacted or enough says so. Pebble compacts a
// level when it is too large, so without this a disk that is full, and takes nothing but deletes, may stay full for ever. What the disk has no
// room for is left as it is.
//
// First comes level 0, then the deletions table by table: each goes down to what it deletes, and takes with it what lies between, so that one step needs
// little room. It calls for no lock and may be called beside everything else, but by one caller at a time.
func (s *Store) Reclaim(ctx context.Context, enough func() bool) error {
	levels, err := s.db.SSTables(pebble.WithProperties())
	if err != nil {
		return fmt.Errorf("state: look for what can be reclaimed: %w", err)
	}
	for _, t := range levels[0] {
		// All of level 0 that overlaps comes with it.
		if err := s.compact(ctx, t.Smallest.UserKey, t.Smallest.UserKey, enough); err != nil {
			return err
		}
	}
	if levels, err = s.db.SSTables(pebble.WithProperties()); err != nil {
		return fmt.Errorf("state: look for what can be reclaimed: %w", err)
	}
	for _, level := range levels[:len(levels)-1] { // What the last one deletes is gone.
		for _, t := range level {
			if t.Properties.NumDeletions == 0 {
				continue
			}
			if err := s.compact(ctx, t.Smallest.UserKey, t.Largest.UserKey, enough); err != nil {
				return err
			}
		}
	}
	return nil
}

// compact compacts what lies between two keys, both included, unless there is room enough.
func (s *Store) compact(ctx context.Context, first, last []byte, enough func() bool) error {
	if enough() || planted.Is(planted.DeletedStays) {
		return nil
	}
	err := s.fatal.guard(func() error { return s.db.Compact(ctx, first, append(slices.Clone(last), 0), false) })
	if err != nil && !errors.Is(err, errNoRoom) {
		return fmt.Errorf("state: reclaim what is deleted: %w", err)
	}
	return nil
}
