//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// action is what happens at a point.
type action struct {
	do func()
	// nth is which time it happens: 0 every time.
	nth  int64
	hits atomic.Int64
}

// actions are read once, so that they are there from the start of a process.
var actions = mustParse(os.Getenv("RAFTKV_FAILPOINTS"))

// Hit does what was asked for at a point.
func Hit(p Point) {
	a := actions[p]
	if a == nil {
		return
	}
	if n := a.hits.Add(1); a.nth == 0 || n == a.nth {
		a.do()
	}
}

func mustParse(s string) map[Point]*action {
	as, err := parse(s)
	if err != nil {
		panic("RAFTKV_FAILPOINTS: " + err.Error())
	}
	return as
}

func parse(s string) (map[Point]*action, error) {
	as := make(map[Point]*action)
	for _, part := range strings.Split(s, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, what, _ := strings.Cut(part, "=")
		if !slices.Contains(Points, Point(name)) {
			return nil, fmt.Errorf("there is no failpoint %q", name)
		}
		a, err := parseAction(Point(name), what)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		as[Point(name)] = a
	}
	return as, nil
}

func parseAction(p Point, s string) (*action, error) {
	s, nth, counted := strings.Cut(s, "@")
	kind, argument, _ := strings.Cut(s, ":")
	a := &action{}
	switch kind {
	case "kill":
		a.do, a.nth = kill, 1
	case "panic":
		a.do, a.nth = func() { panic("failpoint " + string(p)) }, 1
	case "sleep":
		d, err := time.ParseDuration(argument)
		if err != nil {
			return nil, err
		}
		a.do = func() { time.Sleep(d) }
	default:
		return nil, fmt.Errorf("%q is none of kill, panic and sleep:DURATION", s)
	}
	if counted {
		n, err := strconv.ParseInt(nth, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a count of times", nth)
		}
		a.nth = n
	}
	return a, nil
}

// kill ends the process, and does not return.
func kill() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill() // there is nobody left to tell
	}
	select {}
}
