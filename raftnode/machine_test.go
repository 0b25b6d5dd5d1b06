package raftnode_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// journal is a state machine that remembers every command.
type journal struct{ lines []byte }

func (j *journal) Apply(_ uint64, command []byte) []byte {
	j.lines = append(append(j.lines, command...), '\n')
	return fmt.Append(nil, bytes.Count(j.lines, []byte{'\n'}))
}

func (j *journal) WriteSnapshot(w io.Writer) error {
	_, err := w.Write(j.lines)
	return err
}

func (j *journal) ReadSnapshot(r io.Reader) (err error) {
	j.lines, err = io.ReadAll(r)
	return err
}

func withJournal(o *raftnode.Options) {
	small(o)
	o.Machine = func(placement.ShardID) raftnode.StateMachine { return &journal{} }
}

// A program's own state machine applies every command once, is restored from image and log, and is brought up by a snapshot.
func TestOwnMachine(t *testing.T) {
	c := newCluster(t, 3, withJournal)
	const total = 400
	propose := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			answer, err := c.nodes["n1"].Propose(t.Context(), raftnode.DataShard, fmt.Appendf(nil, "command %d", i))
			if err != nil || string(answer) != fmt.Sprint(i+1) {
				t.Fatalf("command %d: %q, %v", i, answer, err)
			}
		}
	}
	propose(0, 50)
	c.stop("n3")
	propose(50, total)
	waitFor(t, "the log of n1 to be truncated", func() bool {
		shards, _ := c.nodes["n1"].Shards()
		return shards[1].FirstLogIndex > 60
	})
	c.start("n3", nil)
	c.formed("n3")
	check := func(id placement.NodeID) {
		t.Helper()
		var want []byte
		for i := range total {
			want = fmt.Appendf(want, "command %d\n", i)
		}
		err := c.nodes[id].Read(t.Context(), raftnode.DataShard, func(m raftnode.StateMachine) error {
			if got := m.(*journal).lines; !bytes.Equal(got, want) {
				return fmt.Errorf("%s has %d bytes, want %d", id, len(got), len(want))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	check("n3")
	if c.nodes["n3"].Metrics().SnapshotsInstalled == 0 {
		t.Error("n3 caught up without a snapshot: the test shows nothing")
	}
	c.stopAll()
	for _, m := range c.members {
		c.start(m.ID, nil)
	}
	for _, m := range c.members {
		c.formed(m.ID)
		check(m.ID)
	}
	var invalid *raftnode.InvalidError
	if _, err := c.put("n1", "key", "value"); !errors.As(err, &invalid) {
		t.Errorf("a key-value write: %v", err)
	}
}
