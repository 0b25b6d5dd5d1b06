package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// writers write unique keys through all nodes until they are stopped, and remember what was acknowledged.
type writers struct {
	c    *processes
	stop atomic.Bool
	wait sync.WaitGroup

	mu    sync.Mutex
	acked []string
}

func startWriters(c *processes, n int) *writers {
	w := &writers{c: c}
	for i := range n {
		w.wait.Go(func() {
			for k := 0; !w.stop.Load(); k++ {
				key := fmt.Sprintf("writer-%d/%d", i, k)
				p := c.nodes[(i+k)%len(c.nodes)]
				if c.put(p, key, "value of "+key) != nil {
					continue // Not acknowledged, so nothing is promised.
				}
				w.mu.Lock()
				w.acked = append(w.acked, key)
				w.mu.Unlock()
			}
		})
	}
	return w
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// progress waits for so many more acknowledged writes.
func (w *writers) progress(more int) {
	w.c.t.Helper()
	want, deadline := w.count()+more, time.Now().Add(30*time.Second)
	for w.count() < want {
		if time.Now().After(deadline) {
			w.c.t.Fatalf("writes stand still at %d", w.count())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// finish stops the writers and checks that all that was acknowledged is there, through every node.
func (w *writers) finish() {
	w.c.t.Helper()
	w.stop.Store(true)
	w.wait.Wait()
	lost := 0
	for i, key := range w.acked {
		for j := range w.c.nodes {
			// Through every node for some keys, through one for the others.
			if i%7 != 0 && j != i%len(w.c.nodes) {
				continue
			}
			if got, err := w.c.get(w.c.nodes[j], key); err != nil || got != "value of "+key {
				lost++
				w.c.t.Errorf("acknowledged %s through %s: %q, %v", key, w.c.nodes[j].id, got, err)
			}
		}
		if lost > 10 {
			w.c.t.Fatal("and more")
		}
	}
	w.c.t.Logf("%d acknowledged writes, all there", len(w.acked))
}

// One node after another is killed while writers run, the leader first, and started again: nothing that was acknowledged is lost.
func TestKillNodes(t *testing.T) {
	c := startProcesses(t, 3)
	w := startWriters(c, 8)
	w.progress(100)
	for range 4 {
		p := c.leader()
		c.kill(p)
		w.progress(100)
		c.start(p)
		c.ready(p)
		w.progress(100)
	}
	w.finish()
}

// All nodes are killed at once.
func TestKillAllNodes(t *testing.T) {
	c := startProcesses(t, 3)
	w := startWriters(c, 8)
	for range 3 {
		w.progress(200)
		for _, p := range c.nodes {
			_ = p.cmd.Process.Kill() // Waited for below.
		}
		for _, p := range c.nodes {
			c.kill(p)
		}
		for _, p := range c.nodes {
			c.start(p)
		}
		for _, p := range c.nodes {
			c.ready(p)
		}
	}
	w.finish()
}

// Five nodes go on when two are lost, the leader among them, and the data is intact on the rest and on those that come back.
func TestFailoverOfFive(t *testing.T) {
	c := startProcesses(t, 5)
	w := startWriters(c, 8)
	w.progress(200)
	first := c.leader()
	c.kill(first)
	w.progress(100)
	second := c.leader()
	c.kill(second)
	w.progress(200)
	for _, p := range []*process{first, second} {
		c.start(p)
		c.ready(p)
	}
	w.progress(100)
	w.finish()
}

// registerInput is an operation on one key: a write, or a read if value is empty.
type registerInput struct{ key, value string }

// register is a key as porcupine sees it. A key begins empty.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		var keys []string
		for _, op := range history {
			k := op.Input.(registerInput).key
			if byKey[k] == nil {
				keys = append(keys, k)
			}
			byKey[k] = append(byKey[k], op)
		}
		slices.Sort(keys)
		var out [][]porcupine.Operation
		for _, k := range keys {
			out = append(out, byKey[k])
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(registerInput); in.value != "" {
			return true, in.value
		}
		return output.(string) == state.(string), state
	},
}

// Clients write and read a few keys through all five nodes while the leader is killed and comes back: what they saw is linearizable.
func TestConsistencyOfFive(t *testing.T) {
	c := startProcesses(t, 5)
	const clients, keys, each = 8, 4, 120
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		wait    sync.WaitGroup
		start   = time.Now()
	)
	for client := range clients {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(uint64(client), 1))
			for i := range each {
				in := registerInput{key: fmt.Sprintf("register-%d", r.IntN(keys))}
				if r.IntN(2) == 0 {
					in.value = fmt.Sprintf("%d-%d", client, i)
				}
				p := c.nodes[r.IntN(len(c.nodes))]
				op := porcupine.Operation{ClientId: client, Input: in, Call: time.Since(start).Nanoseconds()}
				var err error
				if in.value != "" {
					err = c.put(p, in.key, in.value)
				} else if op.Output, err = c.get(p, in.key); errors.Is(err, errNotFound) {
					op.Output, err = "", nil
				}
				op.Return = time.Since(start).Nanoseconds()
				if err != nil && (in.value == "" || definite(err)) {
					continue // A failed read shows nothing; a refused write did nothing.
				}
				if err != nil {
					op.Return = math.MaxInt64 // It may be applied at any later time.
				}
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	for range 2 {
		p := c.leader()
		c.kill(p)
		<-time.After(300 * time.Millisecond)
		c.start(p)
		c.ready(p)
	}
	wait.Wait()
	if result := porcupine.CheckOperationsTimeout(register, history, time.Minute); result != porcupine.Ok {
		t.Fatalf("%d operations: %s", len(history), result)
	}
	t.Logf("%d operations are linearizable", len(history))
}
