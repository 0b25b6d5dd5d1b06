package nodetest

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// put is a write of one key of group 0 that was acknowledged.
func put(client int, call, ret time.Duration, key int, value string, revision, version uint64) *Operation {
	return &Operation{
		Client: client, Kind: Write, Changes: []Change{{Key: key, Value: value}}, Call: call, Return: ret, Outcome: Done, Shard: 1,
		Revision: revision, Cells: []Cell{{Value: value, Version: version, Existed: version > 1}},
	}
}

// lost is a write of unknown outcome.
func lost(client int, call time.Duration, key int, value string) *Operation {
	return &Operation{Client: client, Kind: Write, Changes: []Change{{Key: key, Value: value}}, Call: call, Return: forever, Outcome: Unknown}
}

// read is a read of group 0 that saw one key and not the others.
func read(client int, call, ret time.Duration, key int, value string, revision, version uint64) *Operation {
	op := &Operation{Client: client, Kind: Read, Call: call, Return: ret, Outcome: Done, Shard: 1, Cells: make([]Cell, GroupKeys)}
	op.Cells[key] = Cell{Value: value, Version: version, Revision: revision}
	return op
}

// one is a read of one key of group 0.
func one(client int, call, ret time.Duration, key int, value string, revision, version uint64) *Operation {
	op := read(client, call, ret, key, value, revision, version)
	op.From, op.Cells = key, op.Cells[key:key+1]
	return op
}

func TestCheckRefused(t *testing.T) {
	seen := one(1, 2, 3, 1, "b", 1, 1)
	h := &History{Operations: []*Operation{seen}, Refused: map[string]*Operation{"a": put(2, 0, 1, 1, "a", 0, 0)}}
	if err := CheckRefused(h); err != nil {
		t.Error(err)
	}
	seen.Cells[0].Value = "a"
	if err := CheckRefused(h); err == nil {
		t.Error("a refused write was seen, and nobody says so")
	}
}

func TestCheckDurableOfOneKey(t *testing.T) {
	h := &History{Operations: []*Operation{put(1, 0, 1, 1, "a", 1, 1)}}
	if err := CheckDurable(h, []*Operation{one(2, 2, 3, 1, "a", 1, 1)}); err != nil {
		t.Error(err)
	}
	if err := CheckDurable(h, []*Operation{one(2, 2, 3, 1, "", 0, 0)}); err == nil {
		t.Error("an acknowledged write is lost, and nobody says so")
	}
}

func TestDraw(t *testing.T) {
	h := &History{Operations: []*Operation{put(1, 0, 1, 0, "a", 1, 1), read(2, 2, 3, 0, "", 0, 0)}}
	var bad *LinearityError
	if err := CheckLinearizable(h, checkTimeout); !errors.As(err, &bad) {
		t.Fatal(err)
	}
	var page strings.Builder
	if err := Draw(h, bad.Group, checkTimeout, &page); err != nil || !strings.Contains(page.String(), "client 2") {
		t.Errorf("%v, a page of %d bytes", err, page.Len())
	}
}

func TestCheckLinearizable(t *testing.T) {
	for name, c := range map[string]struct {
		ops []*Operation
		bad bool
	}{
		"one after another":            {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), read(2, 2, 3, 0, "a", 1, 1)}},
		"stale read":                   {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), read(2, 2, 3, 0, "", 0, 0)}, bad: true},
		"concurrent read, not yet":     {ops: []*Operation{put(1, 0, 5, 0, "a", 1, 1), read(2, 2, 3, 0, "", 0, 0)}},
		"going back":                   {ops: []*Operation{put(1, 0, 9, 0, "a", 1, 1), read(2, 2, 3, 0, "a", 1, 1), read(3, 4, 5, 0, "", 0, 0)}, bad: true},
		"unknown, seen late":           {ops: []*Operation{lost(1, 0, 0, "a"), read(2, 2, 3, 0, "", 0, 0), read(2, 4, 5, 0, "a", 1, 1)}},
		"unknown, never":               {ops: []*Operation{lost(1, 0, 0, "a"), read(2, 2, 3, 0, "", 0, 0)}},
		"unknown, before it was asked": {ops: []*Operation{read(2, 2, 3, 0, "a", 1, 1), lost(1, 4, 0, "a")}, bad: true},
		"applied twice":                {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), read(2, 2, 3, 0, "a", 2, 2)}, bad: true},
		"a value of nobody":            {ops: []*Operation{read(2, 2, 3, 0, "a", 1, 1)}, bad: true},
		"read of one key":              {ops: []*Operation{put(1, 0, 1, 1, "a", 1, 1), one(2, 2, 3, 1, "a", 1, 1)}},
		"stale read of one key":        {ops: []*Operation{put(1, 0, 1, 1, "a", 1, 1), one(2, 2, 3, 1, "", 0, 0)}, bad: true},
		"half of a batch": {ops: []*Operation{{
			Client: 1, Kind: Write, Changes: []Change{{Key: 0, Value: "a"}, {Key: 1, Value: "b"}}, Call: 0, Return: 9, Outcome: Done,
			Cells: []Cell{{Version: 1}, {Version: 1}},
		}, read(2, 2, 3, 0, "a", 1, 1)}, bad: true},
		"a condition that did not hold": {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), {
			Client: 2, Kind: Write, Condition: &Condition{Key: 0, Value: ""}, Changes: []Change{{Key: 0, Value: "b"}}, Call: 2, Return: 3,
			Outcome: Done, Cells: []Cell{{Version: 2, Existed: true}},
		}}, bad: true},
		"a condition that held": {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), {
			Client: 2, Kind: Write, Condition: &Condition{Key: 0, Value: "a"}, Call: 2, Return: 3, Outcome: CompareFailed,
		}}, bad: true},
	} {
		err := CheckLinearizable(&History{Operations: c.ops}, checkTimeout)
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckDurable(t *testing.T) {
	for name, c := range map[string]struct {
		ops   []*Operation
		final *Operation
		bad   bool
	}{
		"kept":                          {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1)}, final: read(9, 9, 10, 0, "a", 1, 1)},
		"lost":                          {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1)}, final: read(9, 9, 10, 0, "", 0, 0), bad: true},
		"replaced":                      {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), put(1, 2, 3, 0, "b", 2, 2)}, final: read(9, 9, 10, 0, "b", 2, 2)},
		"the older one":                 {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), put(1, 2, 3, 0, "b", 2, 2)}, final: read(9, 9, 10, 0, "a", 1, 1), bad: true},
		"replaced by an unknown one":    {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), lost(2, 2, 0, "b")}, final: read(9, 9, 10, 0, "b", 2, 2)},
		"replaced by a concurrent one":  {ops: []*Operation{put(1, 0, 5, 0, "a", 2, 2), put(2, 0, 5, 0, "b", 1, 1)}, final: read(9, 9, 10, 0, "a", 2, 2)},
		"replaced by a value of nobody": {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1)}, final: read(9, 9, 10, 0, "x", 2, 2), bad: true},
	} {
		err := CheckDurable(&History{Operations: c.ops}, []*Operation{c.final})
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRevisions(t *testing.T) {
	for name, c := range map[string]struct {
		ops  []*Operation
		says string
	}{
		"in order":              {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), put(1, 2, 3, 1, "b", 2, 1), read(2, 4, 5, 0, "a", 1, 1)}},
		"concurrent":            {ops: []*Operation{put(1, 0, 9, 0, "a", 2, 1), put(2, 2, 3, 1, "b", 1, 1)}},
		"against time":          {ops: []*Operation{put(1, 0, 1, 0, "a", 2, 1), put(1, 2, 3, 1, "b", 1, 1)}, says: "not in the order of time"},
		"one twice":             {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), put(1, 2, 3, 1, "b", 1, 1)}, says: "one revision"},
		"another's in a read":   {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), read(2, 4, 5, 0, "b", 1, 1)}, says: "which is of"},
		"another key in a read": {ops: []*Operation{put(1, 0, 1, 0, "a", 1, 1), read(2, 4, 5, 1, "a", 1, 1)}, says: "which is of"},
	} {
		err := CheckRevisions(&History{Operations: c.ops})
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got %v, want something with %q", name, err, c.says)
		}
	}
}
