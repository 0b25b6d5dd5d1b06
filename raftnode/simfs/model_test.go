package simfs

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// TestBehavesAsTheSystem does the same random operations here and on the system's own file system; what programs see is
// the same, and so is whether an operation fails.
func TestBehavesAsTheSystem(t *testing.T) {
	dirs := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		sim, root := New(Options{}), filepath.Join(dirs, fmt.Sprint(run))
		for _, err := range []error{sim.MkdirAll(root, 0o755), vfs.Default.MkdirAll(root, 0o755)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		systems := []vfs.FS{sim, vfs.Default}
		names := []string{"a", "b", "d", "d/a", "d/b", "d/e", "d/e/a"}
		path := func(label string) string {
			return filepath.Join(root, rapid.SampledFrom(names).Draw(t, label))
		}
		data := func() []byte {
			return bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "byte"))}, rapid.IntRange(0, 9000).Draw(t, "len"))
		}
		both := func(what string, op func(vfs.FS) (string, error)) {
			got, gotErr := op(systems[0])
			want, wantErr := op(systems[1])
			if got != want || (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%s: %q, %v; the system has %q, %v", what, got, gotErr, want, wantErr)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(*rapid.T) {
				p, d, off := path("path"), data(), int64(rapid.IntRange(0, 9000).Draw(t, "offset"))
				both("write", func(f vfs.FS) (string, error) { return overwrite(f, p, d, off) })
			},
			"create": func(*rapid.T) {
				p, d := path("path"), data()
				if i, err := sim.Stat(p); err == nil && i.IsDir() {
					return // the system's Create removes an empty directory first, which no program means
				}
				both("create", func(f vfs.FS) (string, error) { return fill(f, p, d) })
			},
			"truncate": func(*rapid.T) {
				p, size := path("path"), int64(rapid.IntRange(0, 12000).Draw(t, "size"))
				both("truncate", func(f vfs.FS) (string, error) { return resize(f, p, size) })
			},
			"mkdir": func(*rapid.T) {
				p := path("path")
				both("mkdir", func(f vfs.FS) (string, error) { return "", f.MkdirAll(p, 0o755) })
			},
			"remove": func(*rapid.T) {
				p := path("path")
				both("remove", func(f vfs.FS) (string, error) { return "", f.Remove(p) })
			},
			"removeAll": func(*rapid.T) {
				p := path("path")
				both("removeAll", func(f vfs.FS) (string, error) { return "", f.RemoveAll(p) })
			},
			"rename": func(*rapid.T) {
				p, q := path("from"), path("to")
				both("rename "+p+" "+q, func(f vfs.FS) (string, error) { return "", f.Rename(p, q) })
			},
			"link": func(*rapid.T) {
				p, q := path("from"), path("to")
				both("link", func(f vfs.FS) (string, error) { return "", f.Link(p, q) })
			},
			"": func(*rapid.T) {
				both("tree", func(f vfs.FS) (string, error) { return tree(f, root) })
			},
		})
	})
}

func overwrite(f vfs.FS, p string, data []byte, off int64) (string, error) {
	h, err := f.OpenReadWrite(p, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", err
	}
	defer h.Close()
	n, err := h.WriteAt(data, off)
	return fmt.Sprint(n), err
}

func fill(f vfs.FS, p string, data []byte) (string, error) {
	h, err := f.Create(p, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", err
	}
	defer h.Close()
	for _, part := range [][]byte{data[:len(data)/3], data[len(data)/3:]} {
		if _, err := h.Write(part); err != nil {
			return "", err
		}
	}
	return "", nil
}

func resize(f vfs.FS, p string, size int64) (string, error) {
	h, err := f.OpenReadWrite(p, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", err
	}
	defer h.Close()
	return "", h.(interface{ Truncate(int64) error }).Truncate(size)
}

// tree describes everything below p.
func tree(f vfs.FS, p string) (string, error) {
	info, err := f.Stat(p)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		names, err := f.List(p)
		if err != nil {
			return "", err
		}
		slices.Sort(names)
		text := fmt.Sprintf("%s/\n", info.Name())
		for _, n := range names {
			below, err := tree(f, f.PathJoin(p, n))
			if err != nil {
				return "", err
			}
			text += below
		}
		return text, nil
	}
	h, err := f.Open(p)
	if err != nil {
		return "", err
	}
	defer h.Close()
	data, err := io.ReadAll(h)
	return fmt.Sprintf("%s %d %x\n", info.Name(), info.Size(), data), err
}

// TestSyncedSurvives does random operations on a few files and keeps by hand what must survive: under KeepSynced exactly
// that, under all others each file as it was at its sync or at some moment since, byte by byte.
func TestSyncedSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := New(Options{Seed: rapid.Uint64().Draw(t, "seed")})
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		dir, err := f.OpenDir("/")
		must(err)
		handles := map[string]vfs.File{}
		synced := map[string][]byte{} // as of the last sync
		legal := map[string][]map[byte]bool{}
		now := map[string][]byte{}
		for _, n := range []string{"a", "b"} {
			handles[n], err = f.Create(n, vfs.WriteCategoryUnspecified)
			must(err)
			synced[n] = nil
		}
		must(dir.Sync())
		t.Repeat(map[string]func(*rapid.T){
			"write": func(*rapid.T) {
				n := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
				off, b := rapid.IntRange(0, 10000).Draw(t, "offset"), byte(rapid.IntRange(1, 255).Draw(t, "byte"))
				size := rapid.IntRange(1, 6000).Draw(t, "len")
				_, err := handles[n].WriteAt(bytes.Repeat([]byte{b}, size), int64(off))
				must(err)
				for len(now[n]) < off+size {
					now[n] = append(now[n], 0)
					legal[n] = append(legal[n], map[byte]bool{0: true})
				}
				for i := off; i < off+size; i++ {
					now[n][i] = b
					legal[n][i][b] = true
				}
			},
			"sync": func(*rapid.T) {
				n := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
				must(handles[n].Sync())
				synced[n] = bytes.Clone(now[n])
				for i, b := range now[n] {
					legal[n][i] = map[byte]bool{b: true}
				}
			},
			"": func(*rapid.T) {
				seed := rapid.Uint64Range(0, 3).Draw(t, "crash")
				for n := range handles {
					checkCrash(t, f, n, seed, synced[n], now[n], legal[n])
				}
			},
		})
	})
}

// checkCrash compares what crashes leave of a file: with its bytes at the last sync, with those now, and each byte with
// what it was in between.
func checkCrash(t *rapid.T, f *FS, name string, seed uint64, synced, now []byte, legal []map[byte]bool) {
	if least := read(t, f.Image(CrashOptions{Seed: seed}), name); !bytes.Equal(least, synced) {
		t.Fatalf("KeepSynced: %s is not what was synced", name)
	}
	if all := read(t, f.Image(CrashOptions{Seed: seed, Keep: KeepAll}), name); !bytes.Equal(all, now) {
		t.Fatalf("KeepAll: %s is not what programs saw", name)
	}
	some := read(t, f.Image(CrashOptions{Seed: seed, Keep: KeepSome}), name)
	if len(some) < len(synced) || len(some) > len(now) {
		t.Fatalf("KeepSome: %s has %d bytes, want %d to %d", name, len(some), len(synced), len(now))
	}
	for i, b := range some {
		if !legal[i][b] {
			t.Fatalf("KeepSome: byte %d of %s is %d, which it never was since the sync", i, name, b)
		}
	}
}

func read(t *rapid.T, f *FS, name string) []byte {
	h, err := f.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	data, err := io.ReadAll(h)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
