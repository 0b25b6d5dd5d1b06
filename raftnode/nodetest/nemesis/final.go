package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// readWithin is how soon a node must answer a read when nothing is wrong.
	readWithin  = 10 * time.Second
	settleTries = 5
	settlePause = 300 * time.Millisecond
	settleWait  = 20 * time.Second
)

// readAll reads everything through every node that is left. It returns the reads of groups.
func (c *cluster) readAll() ([]*nodetest.Operation, error) {
	groups := c.load.keys.groups()
	finals, errs := make([][]*nodetest.Operation, nodes), make([]error, nodes)
	sums := make(map[placement.NodeID]uint64)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		if n.lost || n.down {
			continue
		}
		wait.Go(func() {
			for _, g := range groups {
				op, err := c.readGroup(i, g)
				if err != nil {
					errs[i] = err
					return
				}
				finals[i] = append(finals[i], op)
			}
			if errs[i] = c.readStale(i); errs[i] != nil {
				return
			}
			sum, err := c.sum(i)
			errs[i] = err
			mu.Lock()
			defer mu.Unlock()
			sums[n.id] = sum
		})
	}
	wait.Wait()
	err := errors.Join(errs...)
	for _, sum := range sums {
		for _, other := range sums {
			if err == nil && sum != other {
				err = fmt.Errorf("a scan of everything is not the same through all nodes: %v", sums)
			}
		}
	}
	return slices.Concat(finals...), err
}

func (c *cluster) readGroup(node, group int) (*nodetest.Operation, error) {
	return c.ask(node, group, func(*nodetest.Operation, *call) {})
}

// readStale reads the groups that were written last, with the newest token and a bound: a healthy node shows a stale read everything that it is told of.
func (c *cluster) readStale(node int) error {
	for _, group := range c.load.keys.current() {
		_, err := c.ask(node, group, func(op *nodetest.Operation, ask *call) {
			seen := c.rec.token(c.load.keys.shard(group))
			allow(op, ask, &nodetest.StaleRead{Bound: time.Second, Revision: seen.revision}, seen.text)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ask reads a group through a node until it is answered.
func (c *cluster) ask(node, group int, how func(*nodetest.Operation, *call)) (*nodetest.Operation, error) {
	p := newPatience(readWithin)
	defer p.end()
	for !p.ended() {
		op := &nodetest.Operation{Client: c.probes[node].number, Group: group, Kind: nodetest.Read}
		ask := &call{list: &raftkvv1.ListRequest{Prefix: groupPrefix(group)}}
		how(op, ask)
		if c.probes[node].read(context.Background(), op, ask, node) {
			return op, nil
		}
	}
	return nil, fmt.Errorf("%s does not answer a read of group %d within %s", nodeID(node), group, readWithin)
}

// sum is a hash over everything that a node shows.
func (c *cluster) sum(node int) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	r, f := c.load.endpoints[node].do(ctx, &call{scan: &raftkvv1.ScanRequest{}}, byConnect)
	if f != nil {
		return 0, fmt.Errorf("scan everything through %s: %w", nodeID(node), f.err)
	}
	h := fnv.New64a()
	for _, kv := range r.kvs {
		fmt.Fprintf(h, "%q %q %d %d %d\n", kv.GetKey(), kv.GetValue(), kv.GetCreateRevision(), kv.GetModRevision(), kv.GetVersion())
	}
	return h.Sum64(), nil
}

// settle waits until all nodes that are left have applied the same, and parts them then, so that stopping makes no entry that some have and
// others have not.
func (c *cluster) settle() error {
	for range settleTries {
		if !c.levels() {
			return fmt.Errorf("replicas do not come to stand at one index within %s of the last write", settleWait)
		}
		if err := c.net.cutAll(nodes); err != nil {
			return err
		}
		pause(context.Background(), settlePause) // for what was on its way
		if c.level() {
			return nil
		}
		if err := c.net.heal(); err != nil {
			return err
		}
	}
	return errors.New("replicas do not stay at one index, though nobody writes")
}

// levels waits until level.
func (c *cluster) levels() bool {
	p := newPatience(settleWait)
	defer p.end()
	for !c.level() {
		if p.ended() {
			return false
		}
		pause(context.Background(), settlePause)
	}
	return true
}

// level says whether all replicas have applied all they have, and the same.
func (c *cluster) level() bool {
	applied := make(map[uint32]uint64)
	for _, n := range c.nodes {
		if n.lost || n.down {
			continue
		}
		said := c.status(n)
		if len(said) == 0 {
			return false
		}
		for _, s := range said {
			at, known := applied[s.GetId()]
			if known && at != s.GetAppliedIndex() || s.GetAppliedIndex() != s.GetLastLogIndex() {
				return false
			}
			applied[s.GetId()] = s.GetAppliedIndex()
		}
	}
	return true
}

// stopAll stops all nodes in good order. It returns their disks, but for those that were lost.
func (c *cluster) stopAll() (disks map[placement.NodeID]nodetest.Disk, err error) {
	disks = make(map[placement.NodeID]nodetest.Disk)
	for _, n := range c.nodes {
		err = errors.Join(err, n.term())
	}
	for _, n := range c.nodes {
		if !n.life.wait(stopNodePatience) {
			err = errors.Join(err, fmt.Errorf("%s does not stop within %s of SIGTERM", n.id, stopNodePatience), n.kill())
			continue
		}
		err = errors.Join(err, n.examine())
		if !n.lost {
			disks[n.id] = nodetest.Disk{FS: vfs.Default, Dir: n.dataDir()}
		}
	}
	return disks, err
}
