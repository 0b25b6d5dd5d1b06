package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// What the process ends with.
const (
	exitClean = iota
	// exitViolation: a promise was broken.
	exitViolation
	// exitUsage: the command line is wrong.
	exitUsage
	// exitUnable: this machine or this user cannot run it.
	exitUnable
)

// options are what the command line says.
type options struct {
	// binary is the program of the nodes.
	binary string
	// seed decides on the plan of the faults and what clients do.
	seed uint64
	// length is how long faults last, all together.
	length time.Duration
	// kills is how many leaders are killed to measure failover; 0: the faults of a plan instead.
	kills int
	// evidence is where a directory is made for what is kept of a failed run.
	evidence string
	// planOnly: the plan is printed and not carried out.
	planOnly bool
	// work is the directory of disks and logs. The outer process makes it and tells the inner one.
	work string
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("nemesis", flag.ContinueOnError)
	f.StringVar(&o.binary, "binary", "bin/raftkv", "program of the nodes")
	f.Uint64Var(&o.seed, "seed", rand.Uint64N(1_000_000), "decides on the faults and on what clients do (default random)") //nolint:gosec // any number will do
	minutes := f.Float64("minutes", 3, "how long faults last")
	f.IntVar(&o.kills, "kills", 0, "kill that many leaders one after another and measure the gaps, instead of the faults of a plan")
	f.StringVar(&o.evidence, "evidence", os.TempDir(), "where to keep what tells of a failure")
	f.BoolVar(&o.planOnly, "plan", false, "print the plan and do nothing")
	f.StringVar(&o.work, "work", "", "for the inner process only")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.length = time.Duration(*minutes * float64(time.Minute))
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("%q is no option", f.Arg(0))
	case o.length <= 0 || o.length > 24*time.Hour:
		return nil, fmt.Errorf("-minutes must be above 0 and at most a day, not %v", *minutes)
	case o.kills < 0:
		return nil, fmt.Errorf("-kills cannot be %d", o.kills)
	}
	var err error
	o.binary, err = filepath.Abs(o.binary)
	return o, err
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(exitClean)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nemesis:", err)
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := start(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nemesis:", err)
	}
	os.Exit(code)
}

// start plays one of the two parts: the outer process makes the namespaces, the inner one does everything in them.
func start(ctx context.Context, o *options) (int, error) {
	switch {
	case o.planOnly:
		fmt.Print(newPlan(o.seed, o.length, nil))
		return exitClean, nil
	case o.work == "":
		return enclose(ctx, o)
	}
	if err := furnish(); err != nil {
		return exitUnable, err
	}
	return run(ctx, o)
}
