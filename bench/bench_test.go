package bench

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClosedLoop(t *testing.T) {
	for _, transport := range []Transport{SDK, GRPC} {
		for _, op := range []Op{Put, Get, Mixed} {
			t.Run(string(transport)+" "+string(op), func(t *testing.T) {
				cluster := raftkvtest.New(3, 2)
				defer cluster.Close()
				r, err := Run(t.Context(), Options{
					Endpoints: cluster.Endpoints(), Transport: transport, Op: op, ReadPercent: 50,
					KeySpace: 50, Clients: 8, Duration: 200 * time.Millisecond, Prefill: true,
				})
				if err != nil {
					t.Fatal(err)
				}
				definite, unknown := r.Failed()
				if r.Operations == 0 || r.Latency.Count != r.Operations || definite+unknown != 0 || r.Unstarted != 0 {
					t.Fatalf("%+v", r)
				}
				if l := r.Latency; l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
					t.Fatalf("%+v", l)
				}
				if (op == Mixed) != (r.Reads != nil && r.Reads.Count > 0 && r.Writes.Count > 0) {
					t.Fatalf("%+v", r)
				}
				for i := range 50 {
					if cluster.Applied(key(i)) == 0 {
						t.Fatalf("%s was not prefilled", key(i))
					}
				}
			})
		}
	}
}

// A stall counts against every operation that was due while it lasted, not only the one that met it.
func TestOpenLoopOmitsNothing(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	const stall = 300 * time.Millisecond
	release := make(chan struct{})
	var first atomic.Bool
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		if first.CompareAndSwap(false, true) {
			time.AfterFunc(stall, func() { close(release) })
			return raftkvtest.Action{Wait: release}
		}
		return raftkvtest.Action{}
	})
	r, err := Run(t.Context(), Options{
		Endpoints: cluster.Endpoints(), Clients: 1, KeySpace: 10, Rate: 200, Duration: 400 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Latency.Count != 80 || r.Operations+r.Unstarted != 80 {
		t.Fatalf("80 operations were due: %+v", r)
	}
	// 60 of the 80 were due during the stall; half of all waited for 100 ms at least.
	if r.Latency.Max < 300 || r.Latency.P50 < 90 {
		t.Fatalf("%+v", r.Latency)
	}
}

func TestUnsustainableRate(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	never := make(chan struct{})
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action { return raftkvtest.Action{Wait: never} })
	r, err := Run(t.Context(), Options{
		Endpoints: cluster.Endpoints(), Clients: 2, Rate: 100, Duration: 100 * time.Millisecond, Timeout: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Operations != 0 || r.Unstarted != 8 || r.Unknown["timeout"] != 2 {
		t.Fatalf("%+v", r)
	}
}

func TestErrorsByKind(t *testing.T) {
	for transport, kind := range map[Transport]string{SDK: "limit exceeded"} {
		cluster := raftkvtest.New(1, 1)
		defer cluster.Close()
		cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
			return raftkvtest.Action{Refuse: raftkvtest.TooLarge("value", 1, 2)}
		})
		r, err := Run(t.Context(), Options{
			Endpoints: cluster.Endpoints(), Transport: transport, Clients: 2, Duration: 50 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Definite[kind] == 0 || len(r.Unknown) != 0 || r.Operations != 0 {
			t.Fatalf("%+v", r)
		}
	}
	t.Run("grpc without a leader", func(t *testing.T) {
		cluster := raftkvtest.New(1, 1)
		defer cluster.Close()
		cluster.SetLeader(1, -1)
		r, err := Run(t.Context(), Options{
			Endpoints: cluster.Endpoints(), Transport: GRPC, Clients: 2, Duration: 50 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Definite["Unavailable"] == 0 || len(r.Unknown) != 0 {
			t.Fatalf("%+v", r)
		}
	})
}

func TestStopped(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, rate := range []float64{0, 1} {
		if _, err := Run(ctx, Options{Endpoints: cluster.Endpoints(), Rate: rate, Duration: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
	}
}

func TestPrefillFails(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	defer cluster.Close()
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		return raftkvtest.Action{Refuse: raftkvtest.TooLarge("value", 1, 2)}
	})
	_, err := Run(t.Context(), Options{Endpoints: cluster.Endpoints(), Prefill: true})
	var limit *raftkv.LimitError
	if !errors.As(err, &limit) || !strings.Contains(err.Error(), "prefill") {
		t.Fatalf("%v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := Run(t.Context(), Options{Op: "walk", Transport: "pigeon", ReadPercent: 101, ValueBytes: -1, Clients: -1, Rate: -1, Duration: -1})
	for _, want := range []string{"endpoints", "pigeon", "walk", "101", "value bytes", "clients", "rate", "duration"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestValues(t *testing.T) {
	size := func(compressible bool) int {
		o := Options{ValueBytes: 4096, Compressible: compressible}
		o.setDefaults()
		w := newWorkload(&o)
		random := rand.New(rand.NewPCG(1, 2))
		var out bytes.Buffer
		z, err := flate.NewWriter(&out, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		for range 16 {
			v := w.value(random)
			if len(v) != 4096 {
				t.Fatalf("%d bytes", len(v))
			}
			if _, err := z.Write(v); err != nil {
				t.Fatal(err)
			}
		}
		z.Close()
		return out.Len()
	}
	if n := size(false); n < 16*4096 {
		t.Errorf("64 KiB compress to %d", n)
	}
	if n := size(true); n > 4096 {
		t.Errorf("64 KiB compress to %d", n)
	}
}

func TestRendering(t *testing.T) {
	r := Report{
		Transport: SDK, Op: Mixed, ReadPercent: 95, ValueBytes: 4096, KeySpace: 10, Clients: 3, Rate: 20_000, Seconds: 2,
		Operations: 40_000, PerSecond: 20_000, Unstarted: 5,
		Latency: Latency{Count: 40_005, Mean: 1.5, P50: 1, P90: 2, P99: 3, P999: 4, Max: 5.25},
		Reads:   &Latency{Count: 38_000}, Writes: &Latency{Count: 2000},
		Definite: map[string]uint64{"overloaded": 2}, Unknown: map[string]uint64{"timeout": 1},
	}
	var table, object bytes.Buffer
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"95 % get, 5 % put, 4096 B values (random)", "open loop at 20000/s", "20000/s (40000 in 2.0 s)",
		"2 not applied, 1 unknown", "overloaded", "timeout, outcome unknown", "not started", "5.25", "99.9",
	} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
	if err := r.WriteJSON(&object); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(object.Bytes(), &back); err != nil || back.Latency != r.Latency || back.Definite["overloaded"] != 2 {
		t.Fatalf("%+v, %v", back, err)
	}
}

// Every watcher sees every write.
func TestWatchers(t *testing.T) {
	cluster := raftkvtest.New(3, 2)
	defer cluster.Close()
	r, err := Run(t.Context(), Options{Endpoints: cluster.Endpoints(), KeySpace: 50, Clients: 8, Watchers: 20, Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if w := r.Watched; w == nil || r.Operations == 0 || w.Events != 20*r.Operations || w.Missing != 0 || w.Extra != 0 || w.Latency.Count == 0 {
		t.Fatalf("%d writes, %+v", r.Operations, w)
	}
	var table strings.Builder
	if err := r.WriteTable(&table); err != nil || !strings.Contains(table.String(), "by 20 watchers") {
		t.Errorf("%s, %v", table.String(), err)
	}
}

// What a watcher has not seen is told.
func TestWatchersMiss(t *testing.T) {
	w := &watchers{seen: make([]atomic.Uint64, 3), delays: newHistogram(), stop: func() {}}
	for range 5 {
		w.note(0, stamp(make([]byte, 20)))
	}
	w.note(2, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := w.end(ctx, 4, time.Second)
	if err != nil || r.Events != 6 || r.Missing != 4+3 || r.Extra != 1 || r.Latency.Count != 5 {
		t.Errorf("%+v, %v", r, err)
	}
}
