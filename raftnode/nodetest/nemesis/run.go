package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// drainWithin is how long clients may take to learn what has come of their last operations.
const drainWithin = 90 * time.Second

// checkTimeout bounds the search for an order of the operations on one group. Not to know is a failure.
const checkTimeout = time.Minute

// run does everything: probes the machine, starts a cluster, lets faults or kills loose on it, and gives the verdict.
func run(ctx context.Context, o *options) (code int, err error) {
	unable, err := probe(o.work)
	if err != nil {
		return exitUnable, err
	}
	r := &report{seed: o.seed, skipped: unable}
	p := newPlan(o.seed, o.length, unable)
	if o.kills == 0 {
		fmt.Print(p)
	}
	small := rand.New(rand.NewPCG(o.seed, 3)).IntN(2 * nodes) //nolint:gosec // not secret
	began := time.Now()
	r.pressure.start()
	c, err := newCluster(o, small)
	if err != nil {
		return exitUnable, errors.Join(err, showLogs(o.work))
	}
	defer func() { err = errors.Join(err, c.destroy()) }()
	fmt.Printf("%d nodes and %d shards are up after %s\n", nodes, shards, short(time.Since(began)))

	if o.kills > 0 {
		err = c.failover(ctx, o, r)
	} else {
		err = c.nemesis(ctx, p, o, r)
	}
	if err != nil {
		return exitUnable, errors.Join(err, c.keep(o, r, p, nil))
	}
	r.took, r.waited = time.Since(began), r.pressure.String()
	r.violations = c.rec.broken()
	r.count(c.rec)
	r.lives = c.mortals.lives()
	fmt.Print(r)
	if ctx.Err() != nil {
		fmt.Println("interrupted: what had been done by then was checked")
	}
	if len(r.violations) > 0 {
		return exitViolation, c.keep(o, r, p, r.unordered)
	}
	return exitClean, nil
}

// nemesis carries a plan out under load, and checks everything.
func (c *cluster) nemesis(ctx context.Context, p *plan, o *options, r *report) error {
	c.load.keys.renew()
	loading, stop := context.WithCancel(ctx)
	defer stop()
	c.load.start(loading)
	c.mortals = c.load.mortal(loading)
	c.watchers = c.load.watch(loading)
	defer c.watchers.end()
	conductor := newConductor(c, o.seed)
	defer conductor.attacks.end()
	err := conductor.play(ctx, p)
	r.take(conductor)
	stop()
	if err != nil {
		return err
	}
	c.finish(r, true)
	return nil
}

// finish waits for the clients, reads everything, stops all nodes and checks.
func (c *cluster) finish(r *report, search bool) {
	if !c.drained() {
		c.rec.violate("clients do not learn within %s what has come of their writes, though nothing is wrong any more", drainWithin)
		return
	}
	if c.mortals != nil {
		if err := c.mortals.passed(c.through()); err != nil {
			c.rec.violate("%v", err)
			return
		}
	}
	c.load.keysPassed()
	finals, err := c.readAll()
	if err != nil {
		c.rec.violate("%v", err)
	}
	r.finals = len(finals)
	watches, whole, err := c.watchers.told(finals)
	if err != nil {
		c.rec.violate("%v", err)
	}
	var disks map[placement.NodeID]nodetest.Disk
	if err := c.settle(); err != nil {
		c.rec.violate("%v", err)
	} else if disks, err = c.stopAll(); err != nil {
		c.rec.violate("%v", err)
	} else if r.compared, err = nodetest.CheckDisks(disks); err != nil {
		c.rec.violate("%v", err)
	}
	began, h := time.Now(), c.rec.history
	c.watchers.date(h)
	h.Elsewhere = nodetest.Elsewhere(watches)
	r.watched(c.watchers, watches)
	for _, err := range []error{
		nodetest.CheckRefused(h), nodetest.CheckDurable(h, finals), nodetest.CheckRevisions(h), nodetest.CheckReplay(h), nodetest.CheckStale(h),
		nodetest.CheckWatchedKeys(whole, finals), c.mortals.check(), nodetest.CheckWatches(h, watches, disks),
		nodetest.CheckNeverApplied(h, disks),
	} {
		if err != nil {
			c.rec.violate("%.2000s", err.Error())
		}
	}
	r.checked = time.Since(began)
	if !search {
		return
	}
	began = time.Now()
	if err := nodetest.CheckLinearizable(h, checkTimeout); err != nil {
		var unordered *nodetest.LinearityError
		errors.As(err, &unordered)
		r.unordered = unordered
		c.rec.violate("%.2000s", err.Error())
	}
	r.searched = time.Since(began)
}

// drained waits until all clients have ended.
func (c *cluster) drained() bool {
	done := make(chan struct{})
	go func() {
		c.load.wait.Wait()
		close(done)
	}()
	p := newPatience(drainWithin)
	defer p.end()
	select {
	case <-done:
		return true
	case <-p.over:
		return false
	}
}

// keep copies what tells of a failure to where it stays.
func (c *cluster) keep(o *options, r *report, p *plan, unordered *nodetest.LinearityError) error {
	dir, err := os.MkdirTemp(o.evidence, fmt.Sprintf("raftkv-evidence-%d-", o.seed))
	if err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(o.work, "*.log"))
	for _, name := range logs {
		err = errors.Join(err, command("cp", name, dir))
	}
	err = errors.Join(
		err,
		os.WriteFile(filepath.Join(dir, "report.txt"), []byte(p.String()+r.String()), 0o600),
		c.rec.save(filepath.Join(dir, "history.jsonl")),
		c.mortals.save(filepath.Join(dir, "lives.json")),
		c.watchers.save(filepath.Join(dir, "watches.json")),
		c.keepData(dir),
	)
	if unordered != nil {
		err = errors.Join(err, draw(c.rec.history, unordered.Group, filepath.Join(dir, fmt.Sprintf("group-%d.html", unordered.Group))))
	}
	fmt.Println("kept in", dir)
	return err
}

func draw(h *nodetest.History, group int, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(nodetest.Draw(h, group, checkTimeout, f), f.Close())
}

// showLogs prints the ends of the logs of nodes that did not come up.
func showLogs(work string) error {
	logs, err := filepath.Glob(filepath.Join(work, "*.log"))
	for _, name := range logs {
		said, readErr := os.ReadFile(name)
		err = errors.Join(err, readErr)
		fmt.Printf("%s: %.500s\n", filepath.Base(name), lastLine(string(said)))
	}
	return err
}

// probe finds out which faults this machine can do: the others, each with the reason. An error says that nothing works without.
func probe(work string) (unable map[kind]string, err error) {
	unable = make(map[kind]string)
	for _, tool := range []string{"ip", "mkfs.ext4", "cp"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w; install iproute2, e2fsprogs and coreutils", err)
		}
	}
	d, err := newDisk(work, "probe", 16<<20)
	if err != nil {
		return nil, fmt.Errorf("an ext4 file system on a loop device, for each node: %w", err)
	}
	cannot := func(err error, kinds ...kind) {
		for _, k := range kinds {
			if err != nil {
				unable[k] = err.Error()
			}
		}
	}
	cannot(errors.Join(d.fill(), d.free()), diskFull)
	cannot(errors.Join(d.cutPower(), d.restart()), powerOne, powerAll, diskError)
	if err := d.destroy(); err != nil {
		return nil, err
	}
	const rule = "from 10.77.250.1 to 10.77.250.2 blackhole pref " + rulePriority
	cannot(errors.Join(ip("rule add %s", rule), ip("rule del %s", rule)), partition)
	cannot(errors.Join(slowDown("lo"), command("tc", "qdisc", "del", "dev", "lo", "root")), slowLink)
	return unable, nil
}
