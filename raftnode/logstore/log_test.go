package logstore

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

func open(t testing.TB, fs vfs.FS, o Options) *Log {
	t.Helper()
	o.FS = fs
	l, err := Open("/log", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustAppend(t testing.TB, l *Log, us ...Update) {
	t.Helper()
	if err := l.Append(us, true); err != nil {
		t.Fatal(err)
	}
}

func closed(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// run makes n entries of one term from first on.
func entries(first uint64, n int, term uint64) []*raftpb.Entry {
	es := make([]*raftpb.Entry, n)
	for i := range es {
		index := first + uint64(i)
		es[i] = &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryNormal.Enum(), Data: testData(int(index<<8+term), 50)}
	}
	return es
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

// small makes segments rotate and files come round soon.
var small = Options{SegmentBytes: segmentBytesMin, RecycleSegments: 2}

// TestOperations runs each operation, looks at what it does, and looks again after closing and opening.
func TestOperations(t *testing.T) {
	start := []Update{{Shard: 3, HardState: hard(2, 1, 4), Entries: entries(1, 10, 2)}}
	for name, us := range map[string][]Update{
		"nothing":                      {},
		"an update without content":    {{Shard: 3}, {Shard: 9}},
		"append":                       {{Shard: 3, Entries: entries(11, 3, 3)}},
		"append to another shard":      {{Shard: 0, Entries: entries(1, 3, 3)}, {Shard: 9, HardState: hard(1, 1, 0)}},
		"overwrite a suffix":           {{Shard: 3, Entries: entries(7, 2, 3)}},
		"overwrite everything":         {{Shard: 3, Entries: entries(1, 1, 3)}},
		"overwrite within one append":  {{Shard: 3, Entries: entries(11, 5, 3)}, {Shard: 3, Entries: entries(9, 1, 4)}},
		"truncate":                     {{Shard: 3, Truncate: 4}},
		"truncate everything":          {{Shard: 3, Truncate: 10}},
		"truncate what is truncated":   {{Shard: 3, Truncate: 4}, {Shard: 3, Truncate: 3}},
		"truncate what is in the same": {{Shard: 3, Entries: entries(9, 8, 3), Truncate: 12}},
		"truncate, then append":        {{Shard: 3, Truncate: 10}, {Shard: 3, Entries: entries(11, 2, 3)}},
		"hard state":                   {{Shard: 3, HardState: hard(5, 2, 10)}},
		"intent":                       {{Shard: 3, Intent: &Intent{Index: 90, Term: 4, Dir: "staged"}}},
		"intent and what follows it":   {{Shard: 3, Intent: &Intent{Index: 90, Term: 4}}, {Shard: 3, HardState: hard(5, 2, 10)}},
		"reset ahead":                  {{Shard: 3, Reset: &Reset{Index: 90, Term: 4}, HardState: hard(4, 0, 90)}},
		"reset within":                 {{Shard: 3, Reset: &Reset{Index: 5, Term: 4}}},
		"reset below the truncated":    {{Shard: 3, Truncate: 8}, {Shard: 3, Reset: &Reset{Index: 5, Term: 1}}, {Shard: 3, Entries: entries(6, 1, 3)}},
		"reset to nothing":             {{Shard: 3, Truncate: 8}, {Shard: 3, Reset: &Reset{}, HardState: hard(0, 0, 0)}},
		"reset ends an intent":         {{Shard: 3, Intent: &Intent{Index: 90, Term: 4}}, {Shard: 3, Reset: &Reset{Index: 90, Term: 4}}},
		"reset and append":             {{Shard: 3, Reset: &Reset{Index: 90, Term: 4}, Entries: entries(91, 2, 4)}},
		"reset, append and truncate":   {{Shard: 3, Reset: &Reset{Index: 90, Term: 4}, Entries: entries(91, 2, 4), Truncate: 91}},
		"an empty entry":               {{Shard: 3, Entries: []*raftpb.Entry{{Index: new(uint64(11)), Term: new(uint64(3))}}}},
		"a large entry":                {{Shard: 3, Entries: []*raftpb.Entry{{Index: new(uint64(11)), Term: new(uint64(3)), Data: testData(1, 3*segmentBytesMin)}}}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := simfs.New(simfs.Options{})
			l := open(t, fs, small)
			want := model{}.with(start).with(us)
			mustAppend(t, l, start...)
			mustAppend(t, l, us...)
			want.check(t, l)
			closed(t, l)
			want.check(t, open(t, fs, small))
		})
	}
}

func TestInvalidUpdatesAreFinal(t *testing.T) {
	for name, u := range map[string]Update{
		"a gap":                   {Entries: entries(12, 1, 2)},
		"entries not contiguous":  {Entries: append(entries(11, 1, 2), entries(13, 1, 2)...)},
		"entries truncated":       {Entries: entries(4, 1, 2)},
		"entry zero":              {Shard: 8, Entries: entries(0, 1, 2)},
		"truncate beyond":         {Truncate: 11},
		"intent with reset":       {Reset: &Reset{Index: 30, Term: 1}, Intent: &Intent{}},
		"intent with a long path": {Intent: &Intent{Dir: strings.Repeat("d", intentDirBytesMax+1)}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := simfs.New(simfs.Options{})
			l := open(t, fs, small)
			start := []Update{{Entries: entries(1, 10, 2), Truncate: 4}}
			mustAppend(t, l, start...)
			err := l.Append([]Update{u}, true)
			if !errors.Is(err, ErrFailed) || !errors.Is(err, errInvalid) {
				t.Fatalf("got %v", err)
			}
			writes := fs.Stats().Writes
			if again := l.Append([]Update{{Entries: entries(11, 1, 2)}}, true); !errors.Is(again, err) || fs.Stats().Writes != writes {
				t.Fatalf("the next append says %v", again)
			}
			model{}.with(start).check(t, l)
			closed(t, l)
			model{}.with(start).check(t, open(t, fs, small))
		})
	}
}

func TestEntriesBounds(t *testing.T) {
	l := open(t, simfs.New(simfs.Options{}), small)
	mustAppend(t, l, Update{Shard: 1, Entries: entries(1, 20, 2), Truncate: 5})
	one := uint64(recordHeaderBytes + 50)
	for _, c := range []struct {
		shard         placement.ShardID
		lo, hi, bytes uint64
		n             int
		err           error
	}{
		{1, 6, 21, ^uint64(0), 15, nil},
		{1, 6, 7, 0, 1, nil},
		{1, 6, 21, 0, 1, nil},
		{1, 6, 21, 3 * one, 3, nil},
		{1, 6, 21, 3*one - 1, 2, nil},
		{1, 21, 21, 100, 0, nil},
		{1, 5, 21, 100, 0, raft.ErrCompacted},
		{1, 6, 22, 100, 0, raft.ErrUnavailable},
		{2, 1, 2, 100, 0, raft.ErrUnavailable},
	} {
		es, err := l.Entries(c.shard, c.lo, c.hi, c.bytes)
		if err != c.err || len(es) != c.n {
			t.Errorf("%+v: %d entries, %v", c, len(es), err)
		}
		for i, e := range es {
			if e.GetIndex() != c.lo+uint64(i) {
				t.Errorf("%+v: entry %d at %d", c, e.GetIndex(), i)
			}
		}
	}
	if _, err := l.Term(1, 4); err != raft.ErrCompacted {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	l := open(t, simfs.New(simfs.Options{}), small)
	closed(t, l)
	closed(t, l)
	if err := l.Append(nil, true); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := l.Entries(1, 1, 2, 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, n := range []int64{-1, 1, segmentBytesMin - 1, segmentBytesMax + 1} {
		if _, err := Open("/log", Options{FS: vfs.NewMem(), SegmentBytes: n}); err == nil || !strings.Contains(err.Error(), "SegmentBytes") {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// TestModel compares a log with the model through appends, restarts and power losses.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &scenario{below: func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }, bigData: true}
		fs := simfs.New(simfs.Options{Seed: rapid.Uint64().Draw(t, "seed")})
		o := small
		o.FS = fs
		reopen := func(fs *simfs.FS) *Log {
			o.FS = fs
			l, err := Open("/log", o)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := reopen(fs)
		// possible are the states that a power loss may leave, the current one last.
		possible := []model{{}}
		now := func() model { return possible[len(possible)-1] }
		settle := func() {
			for _, m := range slices.Backward(possible) {
				if m.diff(l) == nil {
					possible = []model{m}
					return
				}
			}
			t.Fatalf("none of %d states is there; not the newest because: %v", len(possible), now().diff(l))
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				us, sync := g.updates(now()), rapid.Bool().Draw(t, "sync")
				if err := l.Append(us, sync); err != nil {
					t.Fatal(err)
				}
				possible = append(possible, now().with(us))
				if sync {
					possible = possible[len(possible)-1:]
				}
			},
			"restart": func(*rapid.T) {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l, possible = reopen(fs), possible[len(possible)-1:]
			},
			"kill": func(*rapid.T) {
				fs = fs.Crash(simfs.CrashOptions{Keep: simfs.KeepAll})
				l, possible = reopen(fs), possible[len(possible)-1:]
			},
			"power loss": func(t *rapid.T) {
				fs = fs.Crash(simfs.CrashOptions{Keep: simfs.KeepSome, Seed: rapid.Uint64().Draw(t, "crash")})
				l = reopen(fs)
				settle()
			},
			"": func(t *rapid.T) {
				if err := now().diff(l); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

// TestSyncAlone makes durable what was appended without.
func TestSyncAlone(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	us := []Update{{Shard: 3, Entries: entries(1, 4, 1)}}
	if err := l.Append(us, false); err != nil {
		t.Fatal(err)
	}
	model{}.check(t, open(t, fs.Image(simfs.CrashOptions{}), small))
	if err := l.Append(nil, true); err != nil {
		t.Fatal(err)
	}
	model{}.with(us).check(t, open(t, fs.Crash(simfs.CrashOptions{}), small))
}

// TestRealDisk goes through restarts on the file system of the machine.
func TestRealDisk(t *testing.T) {
	dir, o := t.TempDir(), small
	l, err := Open(dir, o)
	for i, s := range script(7, 60) {
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(s.updates, s.sync); err != nil {
			t.Fatal(err)
		}
		s.after.check(t, l)
		if i%10 == 9 {
			closed(t, l)
			if l, err = Open(dir, o); err == nil {
				s.after.check(t, l)
			}
		}
	}
	closed(t, l)
}

// TestReadersDuringAppends reads all the time while the log grows, is overwritten, truncated and recycled.
func TestReadersDuringAppends(t *testing.T) {
	l := open(t, simfs.New(simfs.Options{}), Options{SegmentBytes: segmentBytesMin, RecycleSegments: 2})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := readAll(l, 1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	last, term := uint64(0), uint64(1)
	for range 400 {
		first := last + 1
		if st, _ := l.State(1); random.IntN(4) == 0 && last > st.TruncatedIndex {
			first, term = last, term+1
		}
		es := entries(first, 1+random.IntN(30), term)
		last = es[len(es)-1].GetIndex()
		mustAppend(t, l, Update{Shard: 1, Entries: es, Truncate: last - min(last, uint64(random.IntN(100)))})
	}
	close(stop)
	readers.Wait()
	if m := l.Metrics(); m.Rotations < 10 || m.Segments > 6 {
		t.Errorf("nothing was recycled: %+v", m)
	}
}

// readAll reads what State says is there. Any of it may be gone by then, but nothing may be wrong.
func readAll(l *Log, id placement.ShardID) error {
	st, _ := l.State(id)
	es, err := l.Entries(id, st.TruncatedIndex+1, st.LastIndex+1, 1<<14)
	if errors.Is(err, raft.ErrCompacted) || errors.Is(err, raft.ErrUnavailable) {
		return nil
	}
	if err != nil {
		return err
	}
	for i, e := range es {
		want := entries(st.TruncatedIndex+1+uint64(i), 1, e.GetTerm())[0]
		if e.GetIndex() != want.GetIndex() || string(e.GetData()) != string(want.GetData()) {
			return errors.New("an entry is not the one that was asked for")
		}
	}
	return nil
}
