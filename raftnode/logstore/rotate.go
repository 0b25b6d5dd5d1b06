package logstore

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// moveShare is the part of a segment that may be filled with entries of older ones, so that these can go: the bound of the extra
// work of one append (V7).
const moveShare = 16

// logCategory is what the file system may account writes to.
const logCategory vfs.DiskWriteCategory = "raft-log"

// rotate starts a new segment. Its opening batch repeats the state of every shard and says which older segments are still part of
// the log, so that all others are needed no more the moment it is durable. Segments are given up only here.
func (l *Log) rotate() error {
	if err := l.sync(); err != nil {
		return err
	}
	if l.active != nil {
		l.active.lastSeq = l.seq
	}
	moves, keep := l.plan()
	next, err := l.create(moves, keep)
	if err != nil {
		return err
	}
	all := l.byNumber() // in an order that is the same in every run
	l.mu.Lock()
	for _, s := range all {
		if !slices.Contains(keep, s) {
			delete(l.segments, s.number)
			l.retired = append(l.retired, s)
		}
	}
	l.segments[next.number] = next
	l.batch.publish(next)
	l.metrics.Rotations++
	l.metrics.Pinned = countPinned(keep, next.number)
	for _, m := range moves {
		l.metrics.BytesMoved += m.bytes
	}
	l.mu.Unlock()
	return l.sweep()
}

// move is a short log that is written again at the head.
type move struct {
	shard   *shardLog
	entries []*raftpb.Entry
	bytes   int64
}

// plan decides which logs to move and which segments are still needed then, in ascending order. Old segments are emptied first, and
// only if all that lives there is short: moving a part of it frees nothing.
func (l *Log) plan() (moves []move, keep []*segment) {
	users := make(map[uint32][]*shardLog)
	for _, s := range l.sorted() {
		for _, r := range s.index.runs {
			if u := users[r.segment]; len(u) == 0 || u[len(u)-1] != s {
				users[r.segment] = append(u, s)
			}
		}
	}
	moving := make(map[*shardLog]bool)
	moved := func(s *shardLog) bool { return moving[s] }
	budget := l.o.SegmentBytes / moveShare
	all := l.byNumber()
	for _, g := range all {
		ms, bytes := l.planMoves(slices.DeleteFunc(slices.Clone(users[g.number]), moved), budget)
		budget -= bytes
		moves = append(moves, ms...)
		for _, m := range ms {
			moving[m.shard] = true
		}
	}
	for _, g := range all {
		if slices.ContainsFunc(users[g.number], func(s *shardLog) bool { return !moving[s] }) {
			keep = append(keep, g)
		}
	}
	return moves, keep
}

// planMoves reads the logs of the shards if all of them fit the budget. A log that cannot be read stays where it is: whoever needs
// the entries will learn what is wrong with them.
func (l *Log) planMoves(shards []*shardLog, budget int64) (moves []move, bytes int64) {
	for _, s := range shards {
		n := s.index.bytes(budget)
		if bytes += n; bytes > budget {
			return nil, 0
		}
		moves = append(moves, move{shard: s, bytes: n})
	}
	for i, m := range moves {
		h := &m.shard.head
		entries, err := l.Entries(m.shard.id, h.truncated+1, h.last+1, ^uint64(0))
		if err != nil {
			l.o.Logger.Warn("a segment of the raft log cannot be given up: a shard's entries in it cannot be read",
				"shard", m.shard.id, "error", err)
			return nil, 0
		}
		moves[i].entries = entries
	}
	return moves, bytes
}

// byNumber returns all segments in ascending order.
func (l *Log) byNumber() []*segment {
	list := make([]*segment, 0, len(l.segments)+1)
	for _, s := range l.segments {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *segment) int { return int(int64(a.number) - int64(b.number)) })
	return list
}

// create makes the new segment active. The file gets its name when its content is on disk (R7).
func (l *Log) create(moves []move, keep []*segment) (*segment, error) {
	h := segmentHeader{version: formatVersion, number: l.lastNumber() + 1, generation: newGeneration(), firstSeq: l.seq + 1}
	s := &segment{number: h.number, seed: seedOf(h.generation), path: l.path(fileName(h.number, segmentSuffix)), refs: 1}
	l.stageOpening(s, h, moves, keep)
	buf := l.batch.finish(l.synced)

	file, name, err := l.takeFile(h.number)
	if err != nil {
		return nil, err
	}
	s.file = file
	if err := l.fill(s, name, buf); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s.end = int64(len(buf))
	l.active, l.off, l.opened = s, s.end, s.end
	l.seq, l.synced, l.marked = h.firstSeq, h.firstSeq, true
	l.mu.Lock()
	defer l.mu.Unlock()
	l.metrics.BytesWritten += s.end
	l.metrics.Syncs++
	l.metrics.Free = len(l.free)
	return s, nil
}

// stageOpening makes the opening batch.
func (l *Log) stageOpening(s *segment, h segmentHeader, moves []move, keep []*segment) {
	list := make([]sealed, len(keep))
	for i, k := range keep {
		list[i] = sealed{number: k.number, lastSeq: k.lastSeq, end: k.end}
	}
	l.batch.begin(s.seed, h.firstSeq, 0, &h)
	l.batch.sealed(list)
	for _, sh := range l.sorted() {
		l.batch.state(sh, sh.head)
	}
	for _, m := range moves {
		for _, e := range m.entries {
			l.batch.entry(m.shard, e)
		}
	}
}

// takeFile opens a file to recycle, or a new one, under a name that means nothing yet.
func (l *Log) takeFile(number uint32) (vfs.File, string, error) {
	if len(l.free) > 0 {
		name := l.free[0]
		l.free = l.free[1:]
		f, err := l.fs.OpenReadWrite(l.path(name), logCategory)
		return f, name, err
	}
	name := fileName(number, freeSuffix)
	f, err := l.fs.OpenReadWrite(l.path(name), logCategory) // creates it
	if err != nil {
		return nil, "", err
	}
	// Some file systems cannot reserve space. Every other error is one of the disk (R6), and that there is no space left is better known now.
	if err := f.Preallocate(0, l.o.SegmentBytes); err != nil && !cannotReserve(err) {
		return nil, "", errors.Join(fmt.Errorf("reserve space for %s: %w", l.path(name), err), f.Close())
	}
	return f, name, nil
}

// cannotReserve says whether an error means that the file system has no such operation, or that a signal has interrupted it: that says
// nothing of the disk, and a segment does without.
func cannotReserve(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EINTR)
}

// fill writes the opening batch and gives the file its name.
func (l *Log) fill(s *segment, name string, buf []byte) error {
	if _, err := s.file.WriteAt(buf, 0); err != nil {
		return fmt.Errorf("write %s: %w", l.path(name), err)
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", l.path(name), err)
	}
	if err := l.fs.Rename(l.path(name), s.path); err != nil {
		return err
	}
	failpoint.Hit(failpoint.SegmentNamed)
	if planted.Is(planted.SegmentNameNotSynced) {
		return nil // R7
	}
	if err := l.dirFile.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", l.dir, err)
	}
	return nil
}

// lastNumber is the number of the newest segment, 0 if there is none.
func (l *Log) lastNumber() uint32 {
	var n uint32
	for number := range l.segments {
		n = max(n, number)
	}
	return n
}

// newGeneration is a number that no segment ever had and no client can know.
func newGeneration() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}
