package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// shardView is what a node says of a shard; numbers are strings in JSON.
type shardView struct {
	ID                          int
	Term, LeaderNodeID          string
	FirstLogIndex, LastLogIndex uint64 `json:",string"`
	Replicas                    []struct {
		ID           uint64 `json:",string"`
		NodeID, Role string
	}
}

// shard asks a node how shard 1 stands.
func (c *processes) shard(p *process) shardView {
	c.t.Helper()
	shards := c.shards(p)
	for _, s := range shards {
		if s.ID == 1 {
			return s
		}
	}
	c.t.Fatalf("%s knows no shard 1: %+v", p.id, shards)
	return shardView{}
}

// shards asks a node how all shards stand.
func (c *processes) shards(p *process) []shardView {
	c.t.Helper()
	resp, err := c.client.Get(fmt.Sprintf("http://127.0.0.1:%d/v1/shards", p.port))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Shards []shardView }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		c.t.Fatal(err)
	}
	return got.Shards
}

// A leader that is told to end (SIGTERM) while clients write hands its lead over: the next term is that of the node that it chose, and nobody had to
// miss it first. No write through the others has an outcome that is not known, and the process ends well.
func TestTerminatedLeaderHandsOver(t *testing.T) {
	c := startProcesses(t, 3)
	leader := c.leader()
	var others []*process
	for _, p := range c.nodes {
		if p != leader {
			others = append(others, p)
		}
	}
	var before uint64
	if _, err := fmt.Sscan(c.shard(leader).Term, &before); err != nil {
		t.Fatal(err)
	}
	var (
		stop  atomic.Bool
		acked atomic.Int64
		wait  sync.WaitGroup
	)
	for i := range 6 {
		wait.Go(func() {
			for k := 0; !stop.Load(); k++ {
				err := c.put(others[i%2], fmt.Sprintf("term-%d/%d", i, k), "v")
				if s := (*statusError)(nil); err == nil {
					acked.Add(1)
				} else if !errors.As(err, &s) || !definite(err) {
					t.Errorf("a write through %s: %v", others[i%2].id, err)
				}
			}
		})
	}
	progress := func(more int64) {
		for want := acked.Load() + more; acked.Load() < want && !t.Failed(); {
			if err := c.put(others[0], "progress", "v"); err != nil && !definite(err) {
				t.Error(err)
			}
		}
	}
	progress(50)
	if err := leader.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := leader.cmd.Wait(); err != nil {
		t.Errorf("%s ends with %v", leader.id, err)
	}
	leader.cmd = nil
	progress(50)
	stop.Store(true)
	wait.Wait()
	s := c.shard(others[0])
	after, led := s.Term, s.LeaderNodeID
	if want := fmt.Sprint(before + 1); after != want || led == leader.id {
		t.Errorf("term %s, led by %s; want %s and another leader", after, led, want)
	}
	if want := `shard=1 to=` + led; !strings.Contains(leader.log.String(), "the lead is handed over because this node stops") || !strings.Contains(leader.log.String(), want) {
		t.Errorf("the log of %s lacks %q", leader.id, want)
	}
}
