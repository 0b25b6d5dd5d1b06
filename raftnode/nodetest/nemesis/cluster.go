package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// A log file takes 64 MiB, and every start of a process begins one.
	diskBytes  = 1 << 30
	diskSmall  = 512 << 20
	formWithin = 30 * time.Second
	// liveWithin is how soon healed nodes must take writes: ten election timeouts, and the time that a process needs to start.
	liveWithin = 10*electionTimeout + 5*time.Second
	askTimeout = 700 * time.Millisecond
)

// cluster is five processes, what they stand on, and who speaks with them.
type cluster struct {
	nodes [nodes]*node
	net   *network
	load  *load
	rec   *recorder
	// watchers watch what the clients do; none in a run of kills alone.
	watchers *watchers
	// mortals put keys that do not live for ever; nil in a run of kills alone.
	mortals *mortals
	// probes are clients that write when it has to be shown that writes work.
	probes [nodes]*client
}

// newCluster makes network and disks and starts the processes. The node small, if there is one, has less space than the others.
func newCluster(o *options, small int) (*cluster, error) {
	net, err := newNetwork(nodes)
	if err != nil {
		return nil, err
	}
	rec := newRecorder()
	c := &cluster{net: net, rec: rec, watchers: &watchers{stop: func() {}}, load: &load{seed: o.seed, keys: &keyspace{}, values: &values{}, rec: rec}}
	for i := range nodes {
		size := int64(diskBytes)
		if i == small {
			size = diskSmall
		}
		d, err := newDisk(o.work, string(nodeID(i)), size)
		if err != nil {
			return nil, err
		}
		n := &node{
			number: i, id: nodeID(i), disk: d, binary: o.binary,
			config: filepath.Join(o.work, string(nodeID(i))+".yaml"), logName: filepath.Join(o.work, string(nodeID(i))+".log"),
		}
		if err := errors.Join(n.writeConfig(nodes), n.start()); err != nil {
			return nil, err
		}
		c.nodes[i], c.load.endpoints[i] = n, newEndpoint(i)
		c.probes[i] = c.load.client(clientCount + i)
	}
	return c, c.form()
}

// form waits until the cluster has formed and takes writes.
func (c *cluster) form() error {
	p := newPatience(formWithin)
	defer p.end()
	for len(c.load.keys.shards) < shards+1 {
		if p.ended() {
			return fmt.Errorf("the cluster does not form within %s", formWithin)
		}
		c.load.keys.shards = c.shards(c.nodes[:])
		pause(context.Background(), 50*time.Millisecond)
	}
	return c.live(formWithin)
}

// sound are the nodes that can do something.
func (c *cluster) sound() []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes[:]), func(n *node) bool { return !n.running() || n.disk.off || n.lost })
}

// through are the numbers of the nodes through which everything must work.
func (c *cluster) through() []int {
	var out []int
	for i, n := range c.nodes {
		if !n.lost && !n.down {
			out = append(out, i)
		}
	}
	return out
}

// shards asks nodes for the shards and returns, of each, the word of the highest term.
func (c *cluster) shards(of []*node) []*raftkvv1.Shard {
	var mu sync.Mutex
	var wait sync.WaitGroup
	best := make(map[uint32]*raftkvv1.Shard)
	for _, n := range of {
		wait.Go(func() {
			said := c.status(n)
			mu.Lock()
			defer mu.Unlock()
			for _, s := range said {
				if was := best[s.GetId()]; was == nil || s.GetTerm() > was.GetTerm() || s.GetTerm() == was.GetTerm() && was.GetLeaderNodeId() == "" {
					best[s.GetId()] = s
				}
			}
		})
	}
	wait.Wait()
	var out []*raftkvv1.Shard
	for id := range uint32(shards + 1) {
		if s := best[id]; s != nil {
			out = append(out, s)
		}
	}
	return out
}

// status is what a node says of its shards; nil if it does not answer soon.
func (c *cluster) status(n *node) []*raftkvv1.Shard {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	r, err := c.load.endpoints[n.number].cluster.ListShards(ctx, &raftkvv1.ListShardsRequest{})
	if err != nil {
		return nil
	}
	return r.GetShards()
}

// leads returns the node that leads a shard, and the data shards that it leads; nil if nobody knows.
func (c *cluster) leads(shard int) (*node, []placement.ShardID) {
	leaders := make(map[uint32]string)
	for _, s := range c.shards(c.sound()) {
		leaders[s.GetId()] = s.GetLeaderNodeId()
	}
	for _, n := range c.sound() {
		if string(n.id) != leaders[uint32(shard)] { //nolint:gosec // small
			continue
		}
		return n, ledBy(leaders, n)
	}
	return nil, nil
}

// ledBy are the data shards that a node leads.
func ledBy(leaders map[uint32]string, n *node) []placement.ShardID {
	var led []placement.ShardID
	for id := range uint32(shards + 1) {
		if id != uint32(placement.MetaShard) && leaders[id] == string(n.id) {
			led = append(led, placement.ShardID(id))
		}
	}
	return led
}

// live makes every node of which something can be asked take a write to every shard.
func (c *cluster) live(within time.Duration) error {
	p := newPatience(within)
	defer p.end()
	groups := make([]int, shards)
	for i := range groups {
		groups[i] = c.load.keys.one(placement.ShardID(1 + i)) //nolint:gosec // small
	}
	errs := make([]error, nodes)
	var wait sync.WaitGroup
	for i, n := range c.nodes {
		if n.lost || n.down {
			continue
		}
		wait.Go(func() {
			for s, group := range groups {
				if !c.takes(c.probes[i], group, p) {
					errs[i] = errors.Join(errs[i], fmt.Errorf("%s takes no write to shard %d within %s", n.id, 1+s, within))
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// takes writes through the node of a probe until one is acknowledged.
func (c *cluster) takes(probe *client, group int, p *patience) bool {
	for {
		op := &nodetest.Operation{Client: probe.number, Group: group, Kind: nodetest.Write}
		op.Changes = []nodetest.Change{{Key: 0, Value: c.load.values.next(0)}}
		if probe.write(context.Background(), &draft{op: op}, unnamed, func() int { return probe.number - clientCount }) {
			return true
		}
		if p.ended() {
			return false
		}
		pause(context.Background(), 20*time.Millisecond)
	}
}

// heal ends every fault: afterwards all nodes run that may.
func (c *cluster) heal() error {
	err := c.net.heal()
	for _, n := range c.nodes {
		err = errors.Join(err, c.healNode(n))
	}
	return err
}

func (c *cluster) healNode(n *node) error {
	err := n.resume()
	if n.down {
		return err
	}
	if n.disk.off {
		// The power comes back. A process that lives on a dead disk has been waited for.
		err = errors.Join(err, n.kill(), n.disk.restart())
	}
	err = errors.Join(err, n.disk.free())
	if err == nil && (n.life == nil || n.life.gone()) {
		c.end(n)
		if !n.lost {
			n.doomed = ""
		}
		return n.start()
	}
	return err
}

// end looks at a process that has ended.
func (c *cluster) end(n *node) {
	if err := n.examine(); err != nil {
		c.rec.violate("%v", err)
	}
}

// destroy ends everything, whatever state it is in.
func (c *cluster) destroy() error {
	var err error
	for _, n := range c.nodes {
		if n != nil {
			err = errors.Join(err, n.kill(), n.disk.destroy())
		}
	}
	return err
}

// keepData copies the data directories.
func (c *cluster) keepData(dir string) error {
	var err error
	for _, n := range c.nodes {
		if n.disk.mounted {
			to := filepath.Join(dir, string(n.id))
			err = errors.Join(err, os.MkdirAll(to, 0o700), command("cp", "-a", "--sparse=always", n.dataDir(), to))
		}
	}
	return err
}
