package logstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// Open opens the log in a directory, which nobody else may use meanwhile, and creates it if it is not there. It returns ErrVersion
// for a log of another format and a *CorruptionError for damage that cannot be blamed on single shards; what can be is listed by
// Damaged.
func Open(dir string, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	l := &Log{
		o: o, fs: o.FS, dir: dir,
		shards:   make(map[placement.ShardID]*shardLog),
		segments: make(map[uint32]*segment),
	}
	if err := l.open(); err != nil {
		l.abandon()
		return nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.openDir(); err != nil {
		return err
	}
	names, err := l.fs.List(l.dir)
	if err != nil {
		return err
	}
	segments, free := numbersIn(names)
	r := replay{log: l}
	if len(segments) > 0 {
		if err := r.run(segments); err != nil {
			return err
		}
	}
	if err := l.collect(segments, free); err != nil {
		return err
	}
	// What was recovered is never appended to: behind its end may lie batches that were cut off.
	return l.rotate()
}

// openDir makes the directory and all names in it durable: the newest segment says which others are not needed, and these are
// renamed and overwritten, so its own name must survive the next crash first.
func (l *Log) openDir() error {
	if err := l.fs.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	parent, err := l.fs.OpenDir(l.fs.PathDir(l.dir))
	if err != nil {
		return err
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return err
	}
	if l.dirFile, err = l.fs.OpenDir(l.dir); err != nil {
		return err
	}
	return l.dirFile.Sync()
}

// numbersIn returns the numbers of segments and of free files, ascending. Other names are not ours.
func numbersIn(names []string) (segments, free []uint32) {
	for _, name := range names {
		if n, ok := parseFileName(name, segmentSuffix); ok {
			segments = append(segments, n)
		} else if n, ok := parseFileName(name, freeSuffix); ok {
			free = append(free, n)
		}
	}
	slices.Sort(segments)
	slices.Sort(free)
	return segments, free
}

// collect takes stock of files that hold nothing: free ones, and segments that had been given up when their names came back with a
// crash.
func (l *Log) collect(segments, free []uint32) error {
	for _, n := range free {
		name := fileName(n, freeSuffix)
		if l.reusable(l.path(name)) {
			l.free = append(l.free, name)
		} else if err := l.fs.Remove(l.path(name)); err != nil {
			return err
		}
	}
	for _, n := range segments {
		if l.segments[n] != nil {
			continue
		}
		if err := l.recycle(n); err != nil {
			return err
		}
	}
	return nil
}

// abandon closes the files of a log that could not be opened. The reason for that is what the caller wants to know.
func (l *Log) abandon() {
	for _, s := range l.segments {
		_ = s.file.Close()
	}
	for _, s := range l.retired {
		_ = s.file.Close()
	}
	if l.dirFile != nil {
		_ = l.dirFile.Close()
	}
}
