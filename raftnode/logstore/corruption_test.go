package logstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/simfs"
)

// disk is the files of a log.
type disk map[string][]byte

func readDisk(t testing.TB, fs vfs.FS) disk {
	t.Helper()
	d := disk{}
	for _, name := range names(t, fs, "") {
		f, err := fs.Open("/log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if d[name], err = io.ReadAll(f); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// fs returns a new file system with these files.
func (d disk) fs(t testing.TB) vfs.FS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/log", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range d {
		f, err := fs.Create("/log/"+name, logCategory)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Clone(b)); err != nil { // a Write may change what it is given
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// with returns the disk with another file in place of one.
func (d disk) with(name string, b []byte) disk {
	e := disk{}
	for n, old := range d {
		e[n] = old
	}
	e[name] = b
	return e
}

// stretch is a part of a segment that means something.
type stretch struct {
	name     string
	from, to int64
	// tail is set for the last batch of the newest segment.
	tail bool
}

// stretches lists the headers and batches of all segments, without padding.
func stretches(t testing.TB, d disk) (list []stretch) {
	t.Helper()
	fs := d.fs(t)
	for _, name := range names(t, fs, segmentSuffix) {
		number, _ := parseFileName(name, segmentSuffix)
		f, err := fs.Open("/log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := openSegment("/log/"+name, number, f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, stretch{name: name, to: segmentHeaderBytes})
		for {
			b, err := sc.next()
			if err != nil {
				t.Fatal(err)
			}
			if b.problem != "" {
				break
			}
			list = append(list, stretch{name: name, from: b.off, to: b.off + batchHeaderBytes + int64(b.header.bytes)})
			sc.accept(&b)
		}
	}
	list[len(list)-1].tail = true
	return list
}

// bitSteps are a few appends of every kind.
func bitSteps() (steps []step) {
	m := model{}
	add := func(us ...Update) {
		m = m.with(us)
		steps = append(steps, step{updates: us, sync: true, after: m})
	}
	add(Update{Shard: 1, HardState: hard(1, 1, 0), Entries: entries(1, 20, 1)}, Update{Shard: 2, Entries: entries(1, 3, 1)})
	add(Update{Shard: 2, Intent: &Intent{Index: 9, Term: 2, Dir: "staged"}})
	add(Update{Shard: 1, Entries: entries(18, 3, 2), Truncate: 2})
	add(Update{Shard: 2, Reset: &Reset{Index: 9, Term: 2}, HardState: hard(2, 0, 9)}, Update{Shard: 1, HardState: hard(2, 2, 5)})
	add(Update{Shard: 1, Entries: entries(21, 2, 2)}, Update{Shard: 2, Entries: entries(10, 1, 2)})
	add(Update{Shard: 3, HardState: hard(7, 3, 0), Entries: entries(1, 1, 7)})
	return steps
}

// bitDisk is what bitSteps leave, in several segments. The last append is not followed by anything.
func bitDisk(t testing.TB) (disk, []step) {
	t.Helper()
	fs := simfs.New(simfs.Options{})
	steps := bitSteps()
	l := open(t, fs, small)
	for _, s := range steps {
		mustAppend(t, l, s.updates...)
	}
	d := readDisk(t, fs)
	if n := len(names(t, d.fs(t), segmentSuffix)); n < 3 {
		t.Fatalf("only %d segments", n)
	}
	return d, steps
}

// fixture is what bitSteps left when format version 1 was new. It is never written again: every later build must open it.
func fixture(t testing.TB) disk {
	t.Helper()
	d := disk{}
	files, err := filepath.Glob("testdata/v1/*" + segmentSuffix)
	if err != nil || len(files) == 0 {
		t.Fatal("no fixture", err)
	}
	for _, path := range files {
		if d[filepath.Base(path)], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestOpenVersion1(t *testing.T) {
	steps := bitSteps()
	l := open(t, fixture(t).fs(t), small)
	steps[len(steps)-1].after.check(t, l)
	if d := l.Damaged(); len(d) > 0 || l.Metrics().DamagedRecords > 0 {
		t.Error(d)
	}
}

// noticed says how a log reports damage; empty if it does not.
func noticed(l *Log, err error) string {
	var c *CorruptionError
	switch {
	case errors.As(err, &c):
		return "error"
	case err != nil:
		return "another error: " + err.Error()
	case len(l.Damaged()) > 0:
		return "blamed"
	case l.Metrics().DamagedRecords > 0:
		return "not needed"
	}
	return ""
}

// TestEveryFlippedBitIsReported flips one bit in every byte that was ever acknowledged. Only the last batch may look torn.
func TestEveryFlippedBitIsReported(t *testing.T) {
	d, steps := bitDisk(t)
	last := steps[len(steps)-1].after
	seen := map[string]int{}
	for _, s := range stretches(t, d) {
		for at := s.from; at < s.to; at++ {
			b := bytes.Clone(d[s.name])
			b[at] ^= 1 << (at % 8)
			l, err := Open("/log", Options{FS: d.with(s.name, b).fs(t), SegmentBytes: small.SegmentBytes})
			how := noticed(l, err)
			switch {
			case how == "" && s.tail:
				if err := steps[len(steps)-2].after.diff(l); err != nil {
					t.Fatalf("bit in byte %d of %s: %v", at, s.name, err)
				}
				how = "cut"
			case how == "" || strings.HasPrefix(how, "another"):
				t.Fatalf("bit in byte %d of %s: reported %q", at, s.name, how)
			case how == "not needed":
				last.check(t, l)
			}
			seen[how]++
			if l != nil {
				closed(t, l)
			}
		}
	}
	for _, how := range []string{"error", "blamed", "not needed", "cut"} {
		if seen[how] == 0 {
			t.Errorf("no bit leads to %q: %v", how, seen)
		}
	}
}

// TestNoAmbiguityAfterClose: once the log was closed in good order, the last append cannot be taken for a torn write either.
func TestNoAmbiguityAfterClose(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	us := []Update{{Shard: 1, HardState: hard(1, 1, 0), Entries: entries(1, 3, 1)}}
	mustAppend(t, l, us...)
	closed(t, l)
	appended := readDisk(t, fs)
	closed(t, open(t, fs, small))
	opened := readDisk(t, fs)
	for name, d := range map[string]disk{"after an append": appended, "after nothing": opened} {
		for _, s := range stretches(t, d) {
			mark := s.tail && name == "after an append" // the batch that proves the others holds nothing
			for at := s.from; at < s.to; at++ {
				b := bytes.Clone(d[s.name])
				b[at] ^= 1 << (at % 8)
				l, err := Open("/log", Options{FS: d.with(s.name, b).fs(t), SegmentBytes: small.SegmentBytes})
				if how := noticed(l, err); how == "" && !mark || strings.HasPrefix(how, "another") {
					t.Fatalf("%s, bit in byte %d of %s: reported %q", name, at, s.name, how)
				} else if how == "" {
					model{}.with(us).check(t, l)
				}
			}
		}
	}
}

// flip changes a bit in the payload of the first record that matches.
func flip(t testing.TB, d disk, match func(recordHeader) bool) disk {
	t.Helper()
	fs := d.fs(t)
	for _, name := range names(t, fs, segmentSuffix) {
		number, _ := parseFileName(name, segmentSuffix)
		f, err := fs.Open("/log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := openSegment(name, number, f)
		if err != nil {
			t.Fatal(err)
		}
		for {
			b, err := sc.next()
			if err != nil {
				t.Fatal(err)
			}
			if b.problem != "" {
				break
			}
			for _, r := range b.records {
				if match(r.header) {
					damaged := bytes.Clone(d[name])
					damaged[r.off+recordHeaderBytes] ^= 0x40
					return d.with(name, damaged)
				}
			}
			sc.accept(&b)
		}
	}
	t.Fatal("no such record")
	return nil
}

// TestDamagedEntryIsBlamedOnItsShard: other shards go on; the damage stays known until the entry is no longer needed.
func TestDamagedEntryIsBlamedOnItsShard(t *testing.T) {
	d, steps := bitDisk(t)
	want := steps[len(steps)-1].after
	fs := flip(t, d, func(h recordHeader) bool { return h.kind == kindEntry && h.shard == 1 && h.index == 5 }).fs(t)
	l := open(t, fs, small)
	for range 2 {
		got := l.Damaged()
		if len(got) != 1 || !slices.Equal(got[0].Shards, shardsOf(1)) || !strings.Contains(got[0].Error(), "entry 5") {
			t.Fatalf("damaged: %v", got)
		}
		var c *CorruptionError
		if _, err := l.Entries(1, 4, 7, 1<<20); !errors.As(err, &c) || c.Offset != got[0].Offset {
			t.Errorf("reading it: %v", err)
		}
		if es, err := l.Entries(1, 6, 23, 1<<20); err != nil || len(es) != 17 {
			t.Errorf("reading others: %d, %v", len(es), err)
		}
		if err := want[2].diff(l, 2); err != nil {
			t.Error(err)
		}
		closed(t, l)
		l = open(t, fs, small)
	}
	mustAppend(t, l, Update{Shard: 1, Reset: &Reset{Index: 90, Term: 9}, HardState: hard(9, 0, 90)})
	closed(t, l)
	if l = open(t, fs, small); noticed(l, nil) == "blamed" {
		t.Errorf("after a reset: %v", l.Damaged())
	}
}

// TestDamagedStateIsRemembered: a vote may be lost with it, so not even the state that the next segment begins with ends that.
func TestDamagedStateIsRemembered(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	mustAppend(t, l, Update{Shard: 4, HardState: hard(7, 3, 0)}, Update{Shard: 5, HardState: hard(7, 3, 0)})
	mustAppend(t, l, Update{Shard: 6, HardState: hard(7, 3, 0)})
	mem := flip(t, readDisk(t, fs), func(h recordHeader) bool { return h.kind == kindState && h.shard == 4 }).fs(t)
	l = open(t, mem, small)
	for range 3 {
		if got := l.Damaged(); len(got) != 1 || !slices.Equal(got[0].Shards, shardsOf(4)) || !strings.Contains(got[0].Reason, "hard state") {
			t.Fatalf("damaged: %v", got)
		}
		closed(t, l)
		l = open(t, mem, small)
	}
	mustAppend(t, l, Update{Shard: 4, HardState: hard(9, 0, 0)})
	closed(t, l)
	if l = open(t, mem, small); len(l.Damaged()) != 1 {
		t.Fatal("another hard state hides that one was lost")
	}
	mustAppend(t, l, Update{Shard: 4, Reset: &Reset{Index: 90, Term: 9}, HardState: hard(9, 0, 90)})
	closed(t, l)
	if l = open(t, mem, small); len(l.Damaged()) != 0 {
		t.Errorf("after a reset: %v", l.Damaged())
	}
}

func TestMissingFiles(t *testing.T) {
	d, _ := bitDisk(t)
	all := names(t, d.fs(t), segmentSuffix)
	for _, name := range all[:len(all)-1] {
		e := d.with(name, nil)
		delete(e, name)
		_, err := Open("/log", Options{FS: e.fs(t)})
		if c := new(CorruptionError); !errors.As(err, &c) || !strings.Contains(c.Path, name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for _, name := range all {
		_, err := Open("/log", Options{FS: d.with(name, d[name][:blockBytes]).fs(t)})
		if c := new(CorruptionError); !errors.As(err, &c) || !strings.Contains(c.Path, name) {
			t.Errorf("%s cut off: %v", name, err)
		}
	}
}

func TestUnknownVersion(t *testing.T) {
	d, _ := bitDisk(t)
	all := names(t, d.fs(t), segmentSuffix)
	name := all[len(all)-1]
	b := bytes.Clone(d[name])
	h, _ := parseSegmentHeader(b)
	h.version++
	copy(b, appendSegmentHeader(nil, h))
	_, err := Open("/log", Options{FS: d.with(name, b).fs(t)})
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 2") {
		t.Error(err)
	}
}

// TestReadNoticesRot flips a bit when the log is open already.
func TestReadNoticesRot(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	mustAppend(t, l, Update{Shard: 1, Entries: entries(1, 3, 1)})
	flips := 0
	fs.SetFaults(func(op simfs.Op) simfs.Fault {
		if op.Kind == simfs.OpRead {
			flips++
			return simfs.BitFlip
		}
		return simfs.NoFault
	})
	_, err := l.Entries(1, 1, 4, 1<<20)
	if c := new(CorruptionError); flips != 1 || !errors.As(err, &c) || !slices.Equal(c.Shards, shardsOf(1)) {
		t.Errorf("%d flips: %v", flips, err)
	}
}

// TestFormat holds the bytes of headers and records to what version 1 is.
func TestFormat(t *testing.T) {
	b := appendSegmentHeader(nil, segmentHeader{version: 1, number: 2, generation: 3, firstSeq: 4})
	if len(b) != blockBytes || string(b[:8]) != "raftkvlg" || b[12] != 1 || b[16] != 2 || b[24] != 3 || b[32] != 4 {
		t.Errorf("segment header % x", b[:segmentHeaderBytes])
	}
	r := appendRecord(nil, seedOf(3), recordHeader{shard: 5, kind: kindEntry, entryType: 1, off: 6, index: 7, term: 8}, []byte("data"))
	want := []byte{5, 0, 0, 0, 1, 1, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 'd', 'a', 't', 'a'}
	if !bytes.Equal(r[8:], want) || binary.LittleEndian.Uint32(r[4:]) != checksum(seedOf(3), []byte("data")) {
		t.Errorf("record % x", r)
	}
}
