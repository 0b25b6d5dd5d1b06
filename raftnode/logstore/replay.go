package logstore

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// replay rebuilds the logs in memory from the segments.
type replay struct {
	log *Log
	// floors say for each shard what was truncated when the newest segment was opened. What is not above is not looked at.
	floors map[placement.ShardID]uint64
	// damaged are records with a sound header and a bad payload.
	damaged []damage
	// states are the shards whose newest state is damaged.
	states map[*shardLog]damage
}

// damage is a damaged record of a known shard.
type damage struct {
	shard   *shardLog
	segment *segment
	off     int64
	kind    recordKind
	index   uint64
}

// run replays the segments of the directory, given in ascending order.
func (r *replay) run(numbers []uint32) error {
	r.states, r.floors = make(map[*shardLog]damage), make(map[placement.ShardID]uint64)
	newest, err := r.openSegment(numbers[len(numbers)-1], true)
	if err != nil {
		return err
	}
	older, err := r.opening(newest)
	if err != nil {
		return err
	}
	for _, s := range older {
		if err := r.sealed(s); err != nil {
			return err
		}
	}
	r.floors = nil // from here on nothing is missing
	if err := r.newest(newest); err != nil {
		return err
	}
	if err := r.complete(newest.segment); err != nil {
		return err
	}
	r.blame(newest.segment)
	return nil
}

// openSegment opens a segment, which belongs to the log from then on.
func (r *replay) openSegment(number uint32, write bool) (*scanner, error) {
	l := r.log
	path := l.path(fileName(number, segmentSuffix))
	var file vfs.File
	var err error
	if write {
		file, err = l.fs.OpenReadWrite(path, logCategory)
	} else {
		file, err = l.fs.Open(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptionError{Path: path, Reason: "the file is missing"}
	}
	if err != nil {
		return nil, err
	}
	sc, err := openSegment(path, number, file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	l.segments[number] = sc.segment
	return sc, nil
}

// opening reads from the opening batch of the newest segment which older ones are part of the log, and what was truncated by then.
// The batch was synced before the file got its name.
func (r *replay) opening(sc *scanner) ([]sealed, error) {
	b, err := sc.next()
	if err != nil {
		return nil, err
	}
	if b.problem != "" {
		return nil, sc.corrupt(b.off, b.problem)
	}
	if len(b.records) == 0 || b.records[0].header.kind != kindSegments || b.records[0].damaged {
		return nil, sc.corrupt(b.off, "the list of segments is missing or does not match its checksum")
	}
	list, err := parseSealed(b.records[0].payload, sc.segment.number)
	if err != nil {
		return nil, sc.corrupt(b.off, err.Error())
	}
	for i := range b.records {
		if h := &b.records[i].header; h.kind == kindState {
			r.floors[h.shard] = h.index
		}
	}
	return list, nil
}

// sealed replays a segment that was synced as a whole: all of it must be there.
func (r *replay) sealed(s sealed) error {
	sc, err := r.openSegment(s.number, false)
	if err != nil {
		return err
	}
	for sc.off < s.end {
		b, err := sc.next()
		if err != nil {
			return err
		}
		if b.problem != "" {
			return sc.corrupt(b.off, b.problem)
		}
		if err := r.apply(sc, &b); err != nil {
			return err
		}
		sc.accept(&b)
	}
	if sc.off != s.end || sc.seq-1 != s.lastSeq {
		return sc.corrupt(sc.off, fmt.Sprintf("batch %d ends here, where batch %d should end at offset %d", sc.seq-1, s.lastSeq, s.end))
	}
	sc.segment.end, sc.segment.lastSeq = s.end, s.lastSeq
	return nil
}

// newest replays the last segment. It ends with the first batch that is not intact, unless a later one proves that this one had
// been synced: then it is damaged (R15). What is behind the end was never acknowledged and is never looked at again.
func (r *replay) newest(sc *scanner) error {
	synced, err := sc.proof()
	if err != nil {
		return err
	}
	if planted.Is(planted.DamageCutAsTail) {
		synced = 0 // R15
	}
	synced = max(synced, sc.seq) // the opening batch
	unproven := sc.off
	for {
		if sc.seq <= synced+1 {
			unproven = sc.off
		}
		b, err := sc.next()
		if err != nil {
			return err
		}
		torn := !b.intact()
		if planted.Is(planted.TornTailKept) {
			torn = b.problem != "" // R15
		}
		if torn && sc.seq > synced {
			break
		}
		if b.problem != "" {
			return sc.corrupt(b.off, b.problem)
		}
		if err := r.apply(sc, &b); err != nil {
			return err
		}
		sc.accept(&b)
	}
	if err := sc.rewrite(unproven); err != nil {
		return err
	}
	sc.segment.end, sc.segment.lastSeq = sc.off, sc.seq-1
	r.log.seq, r.log.synced = sc.seq-1, sc.seq-1
	return nil
}

// rewrite writes the batches from an offset on again, the same bytes at the same place, and syncs them. If only the process went,
// they may never have reached the disk; and if it went because a sync had failed, the system may have forgotten that they are to be
// written, and a sync alone would do nothing.
func (sc *scanner) rewrite(from int64) error {
	if planted.Is(planted.TailNotRewritten) {
		return nil // R6
	}
	for end := min(sc.off, sc.size); from < end; { // the file may end within the padding
		b, err := sc.read(from, min(windowBytes, end-from))
		if err != nil {
			return err
		}
		if _, err := sc.segment.file.WriteAt(b, from); err != nil {
			return fmt.Errorf("write %s again: %w", sc.segment.path, err)
		}
		from += int64(len(b))
	}
	if err := sc.segment.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", sc.segment.path, err)
	}
	return nil
}

// apply does what the records of a batch say.
func (r *replay) apply(sc *scanner, b *scanned) error {
	for i := range b.records {
		rec := &b.records[i]
		var err error
		switch rec.header.kind {
		case kindEntry:
			err = r.entry(sc, rec)
		case kindState:
			err = r.state(sc, rec)
		case kindSegments:
			if i > 0 || b.off != blockBytes || rec.damaged {
				err = errSegmentsPayload
			}
		default:
			err = fmt.Errorf("unknown kind %d of record", rec.header.kind)
		}
		if err != nil {
			return sc.corrupt(rec.off, err.Error())
		}
	}
	return nil
}

// shard returns the log of the shard that a record belongs to.
func (r *replay) shard(rec *scannedRecord) *shardLog {
	s := r.log.shard(rec.header.shard)
	s.known = true
	return s
}

func (r *replay) entry(sc *scanner, rec *scannedRecord) error {
	s, h := r.shard(rec), &rec.header
	if h.index <= s.head.truncated {
		return fmt.Errorf("shard %d: entry %d, though all up to %d is truncated", s.id, h.index, s.head.truncated)
	}
	s.index.cut(h.index - 1)
	s.head.last = h.index
	next := max(s.head.truncated, r.floors[s.id]) + 1
	if len(s.index.refs) > 0 {
		next = s.index.last() + 1
	}
	// An entry that does not follow the one before is dead: what is between them was in a segment that is gone, so it was truncated,
	// and is not above the floor, or overwritten, and everything behind it with it.
	if h.index == next {
		s.put(h.index, h.term, sc.segment.number, ref{off: uint32(rec.off), bytes: h.bytes})
	}
	if rec.damaged {
		r.damaged = append(r.damaged, damage{shard: s, segment: sc.segment, off: rec.off, kind: kindEntry, index: h.index})
	}
	return nil
}

func (r *replay) state(sc *scanner, rec *scannedRecord) error {
	s := r.shard(rec)
	if rec.damaged {
		// Its header still says where the log begins.
		h := s.head
		h.truncated, h.truncatedTerm, h.last = rec.header.index, rec.header.term, max(h.last, rec.header.index)
		s.set(h)
		d := damage{shard: s, segment: sc.segment, off: rec.off, kind: kindState}
		r.states[s] = d
		r.damaged = append(r.damaged, d)
		return nil
	}
	h, err := parseState(rec.header, rec.payload)
	if err != nil {
		return err
	}
	s.set(h)
	delete(r.states, s)
	return nil
}

// complete checks that every log has exactly the entries it should have: a segment that is gone must not have been needed.
func (r *replay) complete(newest *segment) error {
	for _, s := range r.log.sorted() {
		h, x := &s.head, &s.index
		if uint64(len(x.refs)) == h.last-h.truncated && (len(x.refs) == 0 || x.first == h.truncated+1) {
			continue
		}
		return &CorruptionError{
			Path: newest.path, Offset: newest.end, Shards: []placement.ShardID{s.id},
			Reason: fmt.Sprintf("entries %d to %d should be there, but there are %d from %d on", h.truncated+1, h.last, len(x.refs), x.first),
		}
	}
	return nil
}

// blame sorts damaged records into those that a shard needs and those that were superseded.
func (r *replay) blame(newest *segment) {
	l := r.log
	l.metrics.DamagedRecords = len(r.damaged)
	for _, d := range r.damaged {
		reason := "the newest hard state of the shard does not match its checksum"
		needed := r.states[d.shard] == d
		if d.kind == kindEntry {
			reason = fmt.Sprintf("entry %d does not match its checksum", d.index)
			needed = d.shard.index.holds(d.index, d.segment.number, d.off)
		}
		e := &CorruptionError{Path: d.segment.path, Offset: d.off, Shards: []placement.ShardID{d.shard.id}, Reason: reason}
		if needed {
			l.damaged = append(l.damaged, e)
		} else {
			l.o.Logger.Warn("the raft log has a damaged record that nothing needs any more; check the disk", "error", e)
		}
	}
	for _, s := range l.sorted() {
		if _, now := r.states[s]; now {
			s.head.damaged = true
		} else if s.head.damaged {
			l.damaged = append(l.damaged, &CorruptionError{
				Path: newest.path, Offset: blockBytes, Shards: []placement.ShardID{s.id},
				Reason: "the hard state of the shard was found damaged earlier",
			})
		}
	}
}
