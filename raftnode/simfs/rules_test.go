package simfs

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// seeds is how many outcomes a rule is tried on. Each rule that says "may" must show both answers among them.
const seeds = 64

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, f *FS, name, data string) vfs.File {
	t.Helper()
	h, err := f.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = h.Write([]byte(data))
	must(t, err)
	return h
}

// saved makes a file whose data and name are durable.
func saved(t *testing.T, f *FS, name, data string) vfs.File {
	t.Helper()
	h := create(t, f, name, data)
	must(t, h.Sync())
	syncDir(t, f, f.PathDir(name))
	return h
}

func syncDir(t *testing.T, f *FS, name string) {
	t.Helper()
	d, err := f.OpenDir(name)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}

// content returns what a file holds, or "<none>".
func content(t *testing.T, f *FS, name string) string {
	t.Helper()
	h, err := f.Open(name)
	if err != nil {
		return "<none>"
	}
	data, err := io.ReadAll(h)
	must(t, err)
	must(t, h.Close())
	return string(data)
}

// outcomes crashes the disk in many ways and returns what look sees, sorted and without repetition.
func outcomes(f *FS, keep Survival, look func(after *FS) string) []string {
	var seen []string
	for seed := range uint64(seeds) {
		seen = append(seen, look(f.Crash(CrashOptions{Seed: seed, Keep: keep})))
	}
	slices.Sort(seen)
	return slices.Compact(seen)
}

// name looks at the content of files.
func name(names ...string) func(*testing.T, *FS) string {
	return func(t *testing.T, f *FS) string {
		var all []string
		for _, n := range names {
			all = append(all, content(t, f, n))
		}
		return strings.Join(all, " ")
	}
}

// rules are the sentences of DESIGN.md. want is every outcome under KeepSome, sorted.
var rules = []struct {
	rule string
	make func(t *testing.T, f *FS)
	look func(t *testing.T, f *FS) string
	want []string
}{
	{
		"synced data under a synced name survives",
		func(t *testing.T, f *FS) { saved(t, f, "a", "data") },
		name("a"),
		[]string{"data"},
	},
	{
		"synced data under a name that is not synced survives with the name or not at all",
		func(t *testing.T, f *FS) { must(t, create(t, f, "a", "data").Sync()) },
		name("a"),
		[]string{"<none>", "data"},
	},
	{
		"a synced name does not save data that is not synced",
		func(t *testing.T, f *FS) { create(t, f, "a", "data"); syncDir(t, f, "/") },
		name("a"),
		[]string{"", "\x00\x00\x00\x00", "data"},
	},
	{
		"bytes appended to synced ones survive or not; the synced ones stay",
		func(t *testing.T, f *FS) {
			_, err := saved(t, f, "a", "old").Write([]byte("new"))
			must(t, err)
		},
		name("a"),
		[]string{"old", "old\x00\x00\x00", "oldnew"},
	},
	{
		"of several appends, some survive in their order",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "1")
			for _, p := range []string{"2", "3"} {
				_, err := h.Write([]byte(p))
				must(t, err)
			}
		},
		name("a"),
		[]string{"1", "1\x00", "1\x00\x00", "12", "12\x00", "123"},
	},
	{
		"SyncTo promises nothing",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "old")
			_, err := h.WriteAt([]byte("new"), 0)
			must(t, err)
			full, err := h.SyncTo(3)
			must(t, err)
			if full {
				t.Error("SyncTo says that it is a full sync")
			}
		},
		name("a"),
		[]string{"new", "old"},
	},
	{
		"SyncData is a sync",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "old")
			_, err := h.WriteAt([]byte("newer"), 0)
			must(t, err)
			must(t, h.SyncData())
		},
		name("a"),
		[]string{"newer"},
	},
	{
		"a rename is whole and durable only with the directory",
		func(t *testing.T, f *FS) { saved(t, f, "a", "data"); must(t, f.Rename("a", "b")) },
		name("a", "b"),
		[]string{"<none> data", "data <none>"},
	},
	{
		"a rename over a file leaves one or the other",
		func(t *testing.T, f *FS) {
			saved(t, f, "a", "old")
			must(t, create(t, f, "tmp", "new").Sync())
			must(t, f.Rename("tmp", "a"))
		},
		name("a"),
		[]string{"new", "old"},
	},
	{
		"a rename whose directory is synced is durable",
		func(t *testing.T, f *FS) {
			saved(t, f, "a", "data")
			must(t, f.Rename("a", "b"))
			syncDir(t, f, "/")
		},
		name("a", "b"),
		[]string{"<none> data"},
	},
	{
		"a rename into a new directory never loses the file",
		func(t *testing.T, f *FS) {
			saved(t, f, "a", "data")
			must(t, f.MkdirAll("d/e", 0o755))
			must(t, f.Rename("a", "d/e/a"))
		},
		name("a", "d/e/a"),
		[]string{"<none> data", "data <none>"},
	},
	{
		"a directory removed for good gives away what was moved out of it",
		func(t *testing.T, f *FS) {
			must(t, f.MkdirAll("d", 0o755))
			must(t, f.MkdirAll("e", 0o755))
			syncDir(t, f, "/")
			saved(t, f, "d/a", "data")
			must(t, f.Rename("d/a", "e/a"))
			must(t, f.Remove("d"))
			syncDir(t, f, "/")
		},
		name("d/a", "e/a"),
		[]string{"<none> data"},
	},
	{
		"a removal is durable only with the directory",
		func(t *testing.T, f *FS) { saved(t, f, "a", "data"); must(t, f.Remove("a")) },
		name("a"),
		[]string{"<none>", "data"},
	},
	{
		"a removal never overtakes an earlier new name",
		func(t *testing.T, f *FS) {
			saved(t, f, "old", "o")
			must(t, create(t, f, "new", "n").Sync())
			must(t, f.Remove("old"))
		},
		name("old", "new"),
		[]string{"<none> n", "o <none>", "o n"},
	},
	{
		"a file created over another leaves one or the other",
		func(t *testing.T, f *FS) {
			saved(t, f, "a", "old")
			must(t, create(t, f, "a", "new").Sync())
		},
		name("a"),
		[]string{"new", "old"},
	},
	{
		"a link is durable only with the directory, and shares the data",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "old")
			must(t, f.Link("a", "b"))
			_, err := h.WriteAt([]byte("new"), 0)
			must(t, err)
			must(t, h.Sync())
		},
		name("a", "b"),
		[]string{"new <none>", "new new"},
	},
	{
		"a file in a directory whose own name is not synced goes with it",
		func(t *testing.T, f *FS) { must(t, f.MkdirAll("d", 0o755)); saved(t, f, "d/a", "data") },
		name("d/a"),
		[]string{"<none>", "data"},
	},
	{
		"a rename in a directory whose own name is not synced does not save that name",
		func(t *testing.T, f *FS) {
			must(t, f.MkdirAll("d", 0o755))
			must(t, create(t, f, "d/tmp", "data").Sync())
			must(t, f.Rename("d/tmp", "d/a"))
			syncDir(t, f, "/d")
		},
		name("d/a"),
		[]string{"<none>", "data"},
	},
	{
		"a rename that waits for its directory is durable with it",
		func(t *testing.T, f *FS) {
			must(t, f.MkdirAll("d", 0o755))
			must(t, create(t, f, "d/tmp", "data").Sync())
			must(t, f.Rename("d/tmp", "d/a"))
			syncDir(t, f, "/d")
			syncDir(t, f, "/")
		},
		name("d/a"),
		[]string{"data"},
	},
	{
		"a truncation survives with its size or not at all",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "123456")
			must(t, h.(interface{ Truncate(int64) error }).Truncate(2))
		},
		name("a"),
		[]string{"12", "123456"},
	},
	{
		"what a truncation cut off does not come back when the file grows again",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "123456")
			must(t, h.(interface{ Truncate(int64) error }).Truncate(2))
			must(t, h.(interface{ Truncate(int64) error }).Truncate(4))
		},
		name("a"),
		[]string{"12", "12\x00\x00", "123456"},
	},
	{
		"a synced truncation is durable, and what was cut off does not come back",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", "123456")
			must(t, h.(interface{ Truncate(int64) error }).Truncate(2))
			must(t, h.(interface{ Truncate(int64) error }).Truncate(4))
			must(t, h.Sync())
		},
		name("a"),
		[]string{"12\x00\x00"},
	},
	{
		"blocks survive each on its own",
		func(t *testing.T, f *FS) {
			h := saved(t, f, "a", strings.Repeat("x", 2*4096))
			for i := range int64(2) {
				_, err := h.WriteAt([]byte("y"), i*4096)
				must(t, err)
			}
		},
		func(t *testing.T, f *FS) string { c := content(t, f, "a"); return c[:1] + c[4096:4097] },
		[]string{"xx", "xy", "yx", "yy"},
	},
	{
		"a reused file keeps its bytes under the new name",
		func(t *testing.T, f *FS) {
			saved(t, f, "a", "123456")
			h, err := f.ReuseForWrite("a", "b", vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = h.Write([]byte("xy"))
			must(t, err)
			must(t, h.Sync())
		},
		name("a", "b"),
		[]string{"<none> xy3456", "xy3456 <none>"},
	},
}

func TestRules(t *testing.T) {
	for _, tt := range rules {
		t.Run(tt.rule, func(t *testing.T) {
			f := New(Options{Seed: 11})
			tt.make(t, f)
			now := tt.look(t, f)
			got := outcomes(f, KeepSome, func(after *FS) string { return tt.look(t, after) })
			if !slices.Equal(got, tt.want) {
				t.Errorf("outcomes %q, want %q", got, tt.want)
			}
			if all := outcomes(f, KeepAll, func(after *FS) string { return tt.look(t, after) }); !slices.Equal(all, []string{now}) {
				t.Errorf("KeepAll leaves %q, want %q", all, now)
			}
			least := outcomes(f, KeepSynced, func(after *FS) string { return tt.look(t, after) })
			if len(least) != 1 || !slices.Contains(got, least[0]) {
				t.Errorf("KeepSynced leaves %q, want one of %q", least, got)
			}
		})
	}
}

// TestSyncedNamesAlone says that a directory which was synced, and not its own name, is surely there only with that name.
func TestSyncedNamesAlone(t *testing.T) {
	f := New(Options{})
	must(t, f.MkdirAll("d", 0o755))
	must(t, create(t, f, "d/tmp", "data").Sync())
	must(t, f.Rename("d/tmp", "d/a"))
	syncDir(t, f, "/d")
	if got := content(t, f.Crash(CrashOptions{Keep: KeepSynced}), "d/a"); got != "<none>" {
		t.Errorf("d/a holds %q after a crash, though nobody synced the name of d", got)
	}
}

// TestSectorsTear writes over a whole synced block twice: sectors are old or new, never a mix within, and a disk whose
// sector is a block never tears.
func TestSectorsTear(t *testing.T) {
	torn := map[int]bool{}
	for _, sector := range []int{512, 4096} {
		f := New(Options{Seed: 5, SectorBytes: sector})
		h := saved(t, f, "a", strings.Repeat("0", 4096))
		for _, c := range []string{"1", "2"} {
			_, err := h.WriteAt(bytes.Repeat([]byte(c), 4096), 0)
			must(t, err)
		}
		for seed := range uint64(seeds) {
			data := content(t, f.Crash(CrashOptions{Seed: seed, Keep: KeepSome}), "a")
			kinds := map[byte]bool{}
			for at := 0; at < len(data); at += sector {
				part := data[at : at+sector]
				if strings.Count(part, part[:1]) != sector {
					t.Fatalf("seed %d: a sector is torn", seed)
				}
				kinds[part[0]] = true
			}
			if len(kinds) > 2 {
				t.Fatalf("seed %d: three versions in one block", seed)
			}
			torn[sector] = torn[sector] || len(kinds) == 2
		}
	}
	if !torn[512] || torn[4096] {
		t.Errorf("torn blocks by sector size: %v, want only with 512", torn)
	}
}

// TestOrderedNames says that KeepOrdered leaves the first so many changes of a directory, removals among them, while the data is still drawn
// for each file.
func TestOrderedNames(t *testing.T) {
	f := New(Options{})
	saved(t, f, "x", "x")
	must(t, create(t, f, "a", "a").Sync())
	must(t, f.Remove("x"))
	for _, n := range []string{"b", "c"} {
		must(t, create(t, f, n, n).Sync())
	}
	got := outcomes(f, KeepOrdered, func(after *FS) string {
		names, err := after.List("/")
		must(t, err)
		slices.Sort(names)
		return strings.Join(names, " ")
	})
	if want := []string{"a", "a b", "a b c", "a x", "x"}; !slices.Equal(got, want) {
		t.Errorf("outcomes %q, want %q", got, want)
	}
}

// TestDirectoriesAreOrderedApart says that KeepOrdered knows no order between directories, but that a rename between two waits for what came
// before it in both.
func TestDirectoriesAreOrderedApart(t *testing.T) {
	f := New(Options{})
	must(t, f.MkdirAll("d", 0o755))
	must(t, f.MkdirAll("e", 0o755))
	syncDir(t, f, "/")
	saved(t, f, "d/m", "m")
	for _, n := range []string{"d/a", "e/b"} {
		must(t, create(t, f, n, "").Sync())
	}
	must(t, f.Rename("d/m", "e/m"))
	got := outcomes(f, KeepOrdered, func(after *FS) string {
		var all []string
		for _, n := range []string{"d/a", "e/b", "e/m"} {
			if _, err := after.Stat(n); err == nil {
				all = append(all, n)
			}
		}
		return strings.Join(all, " ")
	})
	if want := []string{"", "d/a", "d/a e/b", "d/a e/b e/m", "e/b"}; !slices.Equal(got, want) {
		t.Errorf("outcomes %q, want %q", got, want)
	}
}

// TestBytesBehindTheEndAreGone lets a file grow after a crash that kept a block but not the size: the gap is zeros.
func TestBytesBehindTheEndAreGone(t *testing.T) {
	f := New(Options{})
	_, err := saved(t, f, "a", "old").Write([]byte("new"))
	must(t, err)
	for seed := range uint64(seeds) {
		after := f.Crash(CrashOptions{Seed: seed, Keep: KeepSome})
		if content(t, after, "a") != "old" {
			continue
		}
		h, err := after.OpenReadWrite("a", vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = h.WriteAt([]byte("!"), 6)
		must(t, err)
		if got := content(t, after, "a"); got != "old\x00\x00\x00!" {
			t.Fatalf("seed %d: the file holds %q", seed, got)
		}
	}
}

func TestDeadDisk(t *testing.T) {
	f := New(Options{})
	h := saved(t, f, "a", "data")
	lock, err := f.Lock("LOCK")
	must(t, err)
	after := f.Crash(CrashOptions{})
	_, readErr := h.ReadAt(make([]byte, 1), 0)
	_, writeErr := h.Write([]byte("x"))
	_, statErr := f.Stat("a")
	for what, err := range map[string]error{
		"read": readErr, "write": writeErr, "stat": statErr, "sync": h.Sync(),
		"remove": f.Remove("a"), "rename": f.Rename("a", "b"), "mkdir": f.MkdirAll("d", 0),
	} {
		if !errors.Is(err, ErrCrashed) {
			t.Errorf("%s on a dead disk: %v, want ErrCrashed", what, err)
		}
	}
	must(t, lock.Close())
	must(t, h.Close())
	relock, err := after.Lock("LOCK")
	must(t, err)
	must(t, relock.Close())
	if got := content(t, after, "a"); got != "data" {
		t.Errorf("after the crash: %q", got)
	}
}
