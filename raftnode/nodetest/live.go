package nodetest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// livenessElections is how many election timeouts a healed cluster, or a healed majority, has until it serves, and again until every shard
// takes writes through every node.
const livenessElections = 10

// live ends the faults and asks what a cluster owes then (LIVE): on some seeds first of a majority alone, then of all nodes.
func (r *run) live() bool {
	r.nemesis.stopped = true
	s := r.c.scheduler
	if s.chance(0.5) && !r.liveMajority() {
		return false
	}
	r.c.restore(r.c.processes)
	return r.serves(r.c.owing()) && r.refused()
}

// refused waits until no node is left that has lost its disk.
func (r *run) refused() bool {
	remains := func() bool {
		return slices.ContainsFunc(r.c.processes, func(p *process) bool { return p.ruin == emptied && !p.out })
	}
	limit := livenessElections * r.c.options.election()
	return r.c.await(limit, func() bool { return !remains() }, func() string {
		return fmt.Sprintf("a node that has lost its disk does not refuse within %s (R13)", limit)
	})
}

// rebuildTime is how long the last of a damaged disk may take to be replaced once all nodes are healthy.
const rebuildTime = 20 * time.Second

// rebuilt waits until all replicas take part again.
func (r *run) rebuilt() bool {
	left := func() (ps []*process) {
		for _, p := range r.c.owing() {
			if !p.rebuilt() {
				ps = append(ps, p)
			}
		}
		return ps
	}
	return r.c.await(rebuildTime, func() bool { return len(left()) == 0 }, func() string {
		return fmt.Sprintf("%s are not rebuilt within %s of healing (R15)", names(left()), rebuildTime)
	})
}

// liveMajority heals a majority, and leaves the other nodes down, paused or cut off.
func (r *run) liveMajority() bool {
	s := r.c.scheduler
	order := s.random.Perm(len(r.c.processes))
	n := len(order)/2 + 1
	var healthy, broken []*process
	for _, at := range order {
		if p := r.c.processes[at]; p.ruin == sound && len(healthy) < n {
			healthy = append(healthy, p)
		} else {
			broken = append(broken, p)
		}
	}
	// A cluster that is still forming needs all of its nodes.
	if len(broken) == 0 || slices.ContainsFunc(healthy, func(p *process) bool { return !p.served }) {
		return true
	}
	r.c.seen(MajorityHealed)
	r.c.log("heal a majority", "of", len(healthy))
	r.c.restore(healthy)
	for _, p := range broken {
		r.leaveBroken(p, healthy)
	}
	return r.serves(healthy)
}

// leaveBroken leaves a node broken in a way that a majority of others goes on under. A nearly full disk is none, as long as its node is heard: its
// shards take no puts (R24).
func (r *run) leaveBroken(p *process, healthy []*process) {
	s := r.c.scheduler
	r.c.squeeze(p, 0)
	switch s.random.IntN(5) {
	case 0:
		p.crash(simfs.KeepSome, r.c.grace())
	case 1:
		p.pause()
	case 2, 3:
		// It hears, speaks and leads, and nothing comes of it.
		p.resume()
		p.logStalls, p.stateStalls = true, s.chance(0.3)
		if s.chance(0.3) {
			p.logStalls, p.stateStalls = false, true
		}
	default:
		cut := r.nemesis.cut()
		for _, h := range healthy {
			r.c.Mute(p.index, []int{h.index}, true, cut)
			r.c.Mute(h.index, []int{p.index}, true, cut)
		}
	}
}

// serves waits until the given nodes serve, and take writes to every shard of which they hold a majority.
func (r *run) serves(healthy []*process) bool {
	// A node whose disk has failed just before stops just after.
	r.c.ended = func(p *process) {
		if slices.Contains(healthy, p) {
			r.c.scheduler.after(0, "start again", p.start)
		}
	}
	limit := livenessElections * r.c.options.election()
	serve := func() bool { return !slices.ContainsFunc(healthy, func(p *process) bool { return !p.serving() }) }
	if !r.c.await(limit, serve, func() string { return fmt.Sprintf("%s do not serve within %s of healing", names(healthy), limit) }) {
		return false
	}
	shards := r.served(healthy)
	waiting := make(map[string]bool)
	for _, shard := range shards {
		key := probeKey(healthy[0].life.node, shard)
		for _, p := range healthy {
			what := fmt.Sprintf("shard %d through %s", shard, p.id)
			waiting[what] = true
			r.probe(p, shard, key, r.c.scheduler.now+limit, func() { delete(waiting, what) })
		}
	}
	return r.c.await(limit, func() bool { return len(waiting) == 0 }, func() string {
		return fmt.Sprintf("%d of %d writes to shards of which %s hold a majority do not succeed within %s of healing: %v",
			len(waiting), len(shards)*len(healthy), names(healthy), limit, slices.Sorted(maps.Keys(waiting)))
	})
}

func names(ps []*process) []placement.NodeID {
	var out []placement.NodeID
	for _, p := range ps {
		out = append(out, p.id)
	}
	return out
}

// served are the shards of which some nodes hold a majority.
func (r *run) served(by []*process) []placement.ShardID {
	held, all := make(map[placement.ShardID]int), make(map[placement.ShardID]int)
	for _, n := range by[0].life.node.Nodes() {
		for _, shard := range n.Shards {
			all[shard]++
			if slices.Contains(by, r.c.process(n.ID)) {
				held[shard]++
			}
		}
	}
	var out []placement.ShardID
	for shard := range placement.ShardID(r.c.options.Shards + 1) {
		if held[shard] > all[shard]/2 {
			out = append(out, shard)
		}
	}
	return out
}

// probe writes a key that a shard serves through a node until that succeeds.
func (r *run) probe(p *process, shard placement.ShardID, key string, until time.Duration, done func()) {
	s := r.c.scheduler
	again := func() {
		if s.now < until {
			s.after(10*time.Millisecond, "probe again", func() { r.probe(p, shard, key, until, done) })
		}
	}
	write := &storev1.Write{Operations: []*storev1.Operation{{
		Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte("alive"),
	}}}
	s.add(s.between(0, time.Millisecond), &event{name: "probe", process: p, lost: again, run: func() {
		if p.life.node == nil {
			again()
			return
		}
		p.life.node.Submit(&raftnode.Request{
			Shard: shard, Command: &storev1.Command{Body: &storev1.Command_Write{Write: write}},
			Deadline: p.life.runtime.Now().Add(r.c.options.election()),
			Done: func(res raftnode.Result) {
				s.after(10*time.Millisecond, "probed", func() {
					if res.Err != nil {
						again()
						return
					}
					done()
				})
			},
		})
	}})
}

// probeKey is a key that the shard serves.
func probeKey(n *raftnode.Node, shard placement.ShardID) string {
	for i := 0; ; i++ {
		k := fmt.Sprintf("probe-%d", i)
		if shard == placement.MetaShard || n.Locate(k).Shard == shard {
			return k
		}
	}
}
