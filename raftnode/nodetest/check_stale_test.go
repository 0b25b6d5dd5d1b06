package nodetest

import (
	"testing"
	"time"
)

func TestCheckStale(t *testing.T) {
	write := put(1, 10, 20, 0, "a", 7, 1)
	read := func(call, age, bound time.Duration, origin, revision uint64) *Operation {
		return &Operation{
			Client: 2, Kind: Read, Outcome: Done, Shard: write.Shard, Call: call, Return: call + 1, Origin: origin,
			Stale: &StaleRead{Bound: bound, Age: age, Revision: revision},
		}
	}
	unknown := read(1000, 0, 0, 3, 0)
	unknown.Stale.AgeUnknown = true
	bounded := read(1000, 0, 5, 3, 0)
	bounded.Stale.AgeUnknown = true
	for name, c := range map[string]struct {
		op   *Operation
		want string
	}{
		"old and within its bound":       {read(1000, 990, 1000, 3, 0), ""},
		"new":                            {read(1000, 0, 1000, 7, 7), ""},
		"of no known age":                {unknown, ""},
		"old as the first state":         {read(1000, 990, 0, 0, 0), ""},
		"of nothing, and said to be new": {read(1000, 0, 5, 0, 0), "when revision 7 was acknowledged"},
		"older than it says":             {read(1000, 500, 1000, 3, 0), "when revision 7 was acknowledged"},
		"said to be the newest":          {read(1000, 0, 0, 3, 0), "when revision 7 was acknowledged"},
		"beyond its bound":               {read(1000, 991, 990, 3, 0), "at most"},
		"of no known age, with a bound":  {bounded, "at most"},
		"without what it was to show":    {read(1000, 990, 1000, 6, 7), "was to show 7"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, CheckStale(&History{Operations: []*Operation{write}, Stale: []*Operation{c.op}}), c.want)
		})
	}
}
