package raftnode_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode"
)

// History goes when it is too old, through the log and so on every replica, and no younger one does.
func TestHistoryGoesByAge(t *testing.T) {
	c := newCluster(t, 3, func(o *raftnode.Options) { o.HistoryAge = time.Second })
	first := c.mustPut(t, "k", "0")
	begun := time.Now()
	n := 0
	waitFor(t, "old history to go", func() bool {
		n++
		last := c.mustPut(t, "k", fmt.Sprint(n))
		s, err := c.nodes["n1"].Watch(t.Context(), raftnode.WatchRequest{Key: "k", Revision: first})
		if err == nil {
			s.Close()
			return false
		}
		var compacted *raftnode.CompactedError
		if !errors.As(err, &compacted) || compacted.Oldest > last {
			t.Fatalf("%v at revision %d", err, last)
		}
		return true
	})
	if age := time.Since(begun); age < time.Second {
		t.Errorf("history has gone after %s", age)
	}
	for _, m := range c.members {
		waitFor(t, "it to go everywhere", func() bool {
			s, err := c.nodes[m.ID].Watch(t.Context(), raftnode.WatchRequest{Key: "k", Revision: first})
			if err == nil {
				s.Close()
			}
			return err != nil
		})
	}
}
