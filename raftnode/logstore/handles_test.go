package logstore

import (
	"testing"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestFailuresLeaveNoFileOpen fails every operation on the file system in turn: in a log that is opened, written and closed, and in one whose
// reader gives up many segments at once. Whatever failed, no file is open after Close.
func TestFailuresLeaveNoFileOpen(t *testing.T) {
	steps := script(1, 30)
	for name, run := range map[string]func(*simfs.FS){
		"script": func(fs *simfs.FS) { play(fs, steps) },
		"late reader": func(fs *simfs.FS) {
			o := small
			o.FS = fs
			l, err := Open("/log", o)
			if err != nil {
				return
			}
			_ = lateReader(l)
			_ = l.Close()
		},
	} {
		for at := 0; ; at++ {
			fs := simfs.New(simfs.Options{Seed: 1})
			n := crashAt(fs, at, simfs.EIO)
			run(fs)
			if *n <= at {
				break
			}
			if open := fs.OpenFiles(); len(open) > 0 {
				t.Fatalf("%s, operation %d fails: %v are left open", name, at, open)
			}
		}
	}
}

// lateReader holds a segment, and lets go of it when others have been given up too.
func lateReader(l *Log) error {
	const shard placement.ShardID = 5
	if err := l.Append([]Update{{Shard: shard, Entries: entries(1, 100, 1)}}, true); err != nil {
		return err
	}
	reads, _, err := l.locate(shard, 1, 101, ^uint64(0))
	if err != nil {
		return err
	}
	for i := range uint64(20) {
		if err = l.Append([]Update{{Shard: shard, Entries: entries(101+20*i, 20, 1), Truncate: 100 + 20*i}}, true); err != nil {
			break
		}
		if i == 10 {
			for _, r := range reads {
				_ = l.release(r.segment)
			}
			reads = nil
		}
	}
	for _, r := range reads {
		_ = l.release(r.segment)
	}
	return err
}
