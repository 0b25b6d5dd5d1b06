//go:build failpoint

package failpoint

import (
	"strings"
	"testing"
)

func TestActions(t *testing.T) {
	as, err := parse("log-after-write=kill@3; before-reply=panic;hard-state=sleep:0s")
	if err != nil {
		t.Fatal(err)
	}
	if a := as[LogAfterWrite]; a.nth != 3 {
		t.Errorf("killed at time %d, want 3", a.nth)
	}
	defer func(was map[Point]*action) { actions = was }(actions)
	actions = as
	for range 3 {
		Hit(HardState)
		Hit(LogBeforeSync)
	}
	if got := as[HardState].hits.Load(); got != 3 {
		t.Errorf("hit %d times, want 3", got)
	}
	defer func() {
		if p := recover(); p != "failpoint before-reply" {
			t.Errorf("panic with %v", p)
		}
	}()
	Hit(BeforeReply)
}

func TestWrongActions(t *testing.T) {
	for s, want := range map[string]string{
		"nowhere=kill":           "no failpoint",
		"before-reply":           "none of kill",
		"before-reply=sleep:x":   "invalid duration",
		"before-reply=kill@0":    "not a count",
		"before-reply=panic@two": "not a count",
	} {
		if _, err := parse(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", s, err)
		}
	}
}
