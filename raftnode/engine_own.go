package raftnode

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// ownEngine runs a program's own state machines. What it keeps durable of a shard is one image: a header, the machine's snapshot and a
// checksum. The log is truncated only below the newest one.
type ownEngine struct {
	fs      vfs.FS
	dir     string
	make    func(placement.ShardID) StateMachine
	flushed func()

	// mu guards shards. It comes before the locks in it.
	mu     sync.RWMutex
	shards map[placement.ShardID]*ownShard
}

type ownShard struct {
	id placement.ShardID
	// saving orders what replaces the image of the shard: saving it and taking over another's. It comes before mu and is held across I/O.
	saving sync.Mutex
	// mu guards the fields below, and the machine while it applies, is read or written out.
	mu      sync.Mutex
	machine StateMachine
	at      position
	members *storev1.Configuration
	// durable is the index of the newest image. Who asks for it does not wait for the machine.
	durable atomic.Uint64
}

var _ engine = (*ownEngine)(nil)

const imageFormat = 1

func openOwn(dir string, o Options, flushed func()) (engine, error) {
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return &ownEngine{fs: o.FS, dir: dir, make: o.Machine, flushed: flushed, shards: make(map[placement.ShardID]*ownShard)}, nil
}

func (e *ownEngine) path(shard placement.ShardID) string {
	return e.fs.PathJoin(e.dir, fmt.Sprintf("shard-%d", shard))
}

// open restores the machine of a shard from its image, if there is one. The meta shard has no machine: it takes no commands.
func (e *ownEngine) open(id placement.ShardID) (position, error) {
	s := &ownShard{id: id}
	if id != placement.MetaShard {
		s.machine = e.make(id)
	}
	f, err := e.fs.Open(e.path(id))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return position{}, fmt.Errorf("open image: %w", err)
	default:
		err = errors.Join(s.restore(f), f.Close())
		if err != nil {
			return position{}, fmt.Errorf("%s: %w", e.path(id), err)
		}
	}
	e.mu.Lock()
	e.shards[id] = s
	e.mu.Unlock()
	return s.at, nil
}

func (e *ownEngine) shard(id placement.ShardID) *ownShard {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.shards[id]
}

func (e *ownEngine) position(id placement.ShardID) position {
	s := e.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (e *ownEngine) configuration(id placement.ShardID) *storev1.Configuration {
	s := e.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

func (e *ownEngine) durable(id placement.ShardID) (uint64, error) {
	return e.shard(id).durable.Load(), nil
}

func (e *ownEngine) bootstrap(id placement.ShardID, c *storev1.Configuration, _ *storev1.SlotTable) error {
	s := e.shard(id)
	s.mu.Lock()
	s.at, s.members = position{index: firstIndex, term: firstTerm}, c
	s.mu.Unlock()
	return e.save(s)
}

func (e *ownEngine) apply(jobs []*applyJob) error {
	for _, j := range jobs {
		s := e.shard(j.shard)
		s.mu.Lock()
		err := s.apply(j)
		j.after = s.at
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("shard %d: %w", j.shard, err)
		}
	}
	return nil
}

// apply applies a run of entries. The caller holds mu.
func (s *ownShard) apply(j *applyJob) error {
	j.results = make([][]commandResult, len(j.entries))
	for i, entry := range j.entries {
		switch entry.GetType() {
		case raftpb.EntryNormal:
		case raftpb.EntryConfChangeV2:
			next, err := changedBy(s.members, entry)
			if err != nil {
				return fmt.Errorf("entry %d: %w", entry.GetIndex(), err)
			}
			s.members, j.configuration = next, next
		default:
			return fmt.Errorf("entry %d: %w", entry.GetIndex(), unknownEntry(entry))
		}
		if entry.GetType() == raftpb.EntryNormal && len(entry.GetData()) > 0 {
			decoded, err := state.DecodeEntry(entry.GetData())
			if err != nil {
				return fmt.Errorf("entry %d: %w", entry.GetIndex(), err)
			}
			if need := decoded.GetCommandVersion(); need > entryVersion {
				return fmt.Errorf("entry %d: %w", entry.GetIndex(), &state.VersionError{Need: need, Have: entryVersion})
			}
			for _, c := range decoded.GetCommands() {
				if s.machine == nil {
					return fmt.Errorf("entry %d: a command for a shard without a state machine", entry.GetIndex())
				}
				s.at.revision++
				answer := s.machine.Apply(entry.GetIndex(), c.GetOpaque())
				j.results[i] = append(j.results[i], commandResult{opaque: answer})
			}
			s.at.clockMs = max(s.at.clockMs, decoded.GetClockMs())
		}
		s.at.index, s.at.term = entry.GetIndex(), entry.GetTerm()
	}
	return nil
}

// look shows the machine, which holds still meanwhile.
func (e *ownEngine) look(id placement.ShardID, view func(StateMachine) error) error {
	s := e.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return view(s.machine)
}

// flush writes an image of every shard that has moved on since its last.
func (e *ownEngine) flush() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(e.shards)) {
		if err := e.save(e.shards[id]); err != nil {
			return err
		}
	}
	e.flushed()
	return nil
}

// save makes an image of a shard durable, if it has moved on. The machine is read under the lock, into memory.
func (e *ownEngine) save(s *ownShard) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	if s.at.index == s.durable.Load() {
		s.mu.Unlock()
		return nil
	}
	var image bytes.Buffer
	at := s.at
	err := s.writeImage(&image)
	s.mu.Unlock()
	if err == nil {
		err = writeDurably(e.fs, e.dir, e.path(s.id), image.Bytes())
	}
	if err != nil {
		return fmt.Errorf("shard %d: write image: %w", s.id, err)
	}
	s.durable.Store(max(s.durable.Load(), at.index))
	return nil
}

// writeImage writes format byte, length of the header, header, the machine's snapshot in length-prefixed pieces, an empty piece and a
// checksum over everything. The caller holds mu.
func (s *ownShard) writeImage(w io.Writer) error {
	sum := crc32.New(castagnoli)
	out := io.MultiWriter(w, sum)
	h := &storev1.SnapshotHeader{Shard: uint32(s.id), Index: s.at.index, Term: s.at.term, Configuration: s.members}
	header, err := h.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode header: %w", err)
	}
	fixed := binary.BigEndian.AppendUint32([]byte{imageFormat}, uint32(len(header)))
	fixed = binary.BigEndian.AppendUint64(append(fixed, header...), s.at.revision)
	fixed = binary.BigEndian.AppendUint64(fixed, s.at.clockMs)
	if _, err := out.Write(fixed); err != nil {
		return err
	}
	if s.machine != nil {
		pieces := bufio.NewWriterSize(pieceWriter{out}, imagePieceBytes)
		if err := errors.Join(s.machine.WriteSnapshot(pieces), pieces.Flush()); err != nil {
			return fmt.Errorf("state machine: %w", err)
		}
	}
	if _, err := out.Write(make([]byte, 4)); err != nil {
		return err
	}
	_, err = w.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

const (
	imagePieceBytes  = 64 << 10
	imageHeaderBytes = 1 << 20
)

// pieceWriter writes each piece with its length before it.
type pieceWriter struct{ w io.Writer }

func (p pieceWriter) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if _, err := p.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// pieceReader reads them, up to the empty one.
type pieceReader struct {
	r    io.Reader
	left uint32
	end  bool
}

func (p *pieceReader) Read(b []byte) (int, error) {
	if p.left == 0 && !p.end {
		var n [4]byte
		if _, err := io.ReadFull(p.r, n[:]); err != nil {
			return 0, noEOF(err)
		}
		p.left = binary.BigEndian.Uint32(n[:])
		p.end = p.left == 0
	}
	if p.end {
		return 0, io.EOF
	}
	n, err := p.r.Read(b[:min(len(b), int(p.left))])
	p.left -= uint32(n)
	return n, noEOF(err)
}

// noEOF makes the end of a stream an error where it must not end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readHeader reads what stands before the machine's snapshot.
func readHeader(r io.Reader) (*storev1.SnapshotHeader, position, error) {
	var fixed [5]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, position{}, noEOF(err)
	}
	if fixed[0] != imageFormat {
		return nil, position{}, &state.FormatError{What: "image", Found: fixed[:1], Want: imageFormat}
	}
	n := binary.BigEndian.Uint32(fixed[1:])
	if n > imageHeaderBytes {
		return nil, position{}, fmt.Errorf("a header of %d bytes", n)
	}
	rest := make([]byte, n+16)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, position{}, noEOF(err)
	}
	h := &storev1.SnapshotHeader{}
	if err := h.UnmarshalVT(rest[:n]); err != nil {
		return nil, position{}, fmt.Errorf("decode header: %w", err)
	}
	return h, position{
		index: h.GetIndex(), term: h.GetTerm(),
		revision: binary.BigEndian.Uint64(rest[n:]), clockMs: binary.BigEndian.Uint64(rest[n+8:]),
	}, nil
}

// verifyImage reads an image to its end and checks it, handing the machine's part to take.
func verifyImage(r io.Reader, take func(io.Reader) error) (*storev1.SnapshotHeader, position, error) {
	sum := crc32.New(castagnoli)
	in := io.TeeReader(r, sum)
	h, at, err := readHeader(in)
	if err != nil {
		return nil, position{}, err
	}
	pieces := &pieceReader{r: in}
	if err := take(pieces); err != nil {
		return nil, position{}, err
	}
	if _, err := io.Copy(io.Discard, pieces); err != nil {
		return nil, position{}, err
	}
	want := sum.Sum32()
	var got [4]byte
	if _, err := io.ReadFull(r, got[:]); err != nil {
		return nil, position{}, noEOF(err)
	}
	if binary.BigEndian.Uint32(got[:]) != want {
		return nil, position{}, errors.New("the checksum does not fit: the image is damaged")
	}
	return h, at, nil
}

// restore replaces the state by an image that was written durably. It is read twice: nothing unverified reaches the machine.
func (s *ownShard) restore(f vfs.File) error {
	skip := func(io.Reader) error { return nil }
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, _, err := verifyImage(bufio.NewReader(io.NewSectionReader(f, 0, info.Size())), skip); err != nil {
		return asDamage(s.id, err)
	}
	take := func(r io.Reader) error {
		if s.machine == nil {
			return nil
		}
		return s.machine.ReadSnapshot(r)
	}
	h, at, err := verifyImage(bufio.NewReader(io.NewSectionReader(f, 0, info.Size())), take)
	if err != nil {
		return err
	}
	if h.GetShard() != uint32(s.id) {
		return fmt.Errorf("it is of shard %d", h.GetShard())
	}
	s.at, s.members = at, h.GetConfiguration()
	s.durable.Store(at.index)
	return nil
}

func (e *ownEngine) image(id placement.ShardID) (engineImage, error) {
	s := e.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	i := &ownImage{head: &storev1.SnapshotHeader{Shard: uint32(id), Index: s.at.index, Term: s.at.term, Configuration: s.members}}
	return i, s.writeImage(&i.content)
}

// ownImage is an image in memory.
type ownImage struct {
	head    *storev1.SnapshotHeader
	content bytes.Buffer
}

func (i *ownImage) header() *storev1.SnapshotHeader { return i.head }
func (i *ownImage) write(w io.Writer) error {
	_, err := w.Write(i.content.Bytes())
	return err
}
func (i *ownImage) close() error { return nil }

const stagedImageName = "image"

// sparing writes copies: a vfs.File may change what it is given.
type sparing struct{ w io.Writer }

func (s sparing) Write(b []byte) (int, error) { return s.w.Write(bytes.Clone(b)) }

func (e *ownEngine) stage(dir string, r io.Reader) (*storev1.SnapshotHeader, error) {
	if err := e.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := e.fs.Create(e.fs.PathJoin(dir, stagedImageName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	h, _, err := verifyImage(io.TeeReader(r, sparing{f}), func(io.Reader) error { return nil })
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("stage image: %w", err)
	}
	return h, errors.Join(syncDir(e.fs, dir), syncDir(e.fs, e.fs.PathDir(dir)))
}

// ingest takes over a staged image. Linking it under the shard's name is the switch.
func (e *ownEngine) ingest(id placement.ShardID, dir string) error {
	f, err := e.fs.Open(e.fs.PathJoin(dir, stagedImageName))
	if err != nil {
		return err
	}
	content, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	s := e.shard(id)
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := writeDurably(e.fs, e.dir, e.path(id), content); err != nil {
		return err
	}
	f, err = e.fs.Open(e.path(id))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.restore(f), f.Close())
}

func (e *ownEngine) forget(id placement.ShardID) error {
	e.mu.Lock()
	delete(e.shards, id)
	e.mu.Unlock()
	if err := e.fs.Remove(e.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(e.fs, e.dir)
}

// kept: a program's own machine keeps what it likes.
func (e *ownEngine) kept(shard placement.ShardID) ShardMetrics { return ShardMetrics{ID: shard} }

func (e *ownEngine) view() engineView           { return ownView{e} }
func (e *ownEngine) pressure() *OverloadedError { return nil }
func (e *ownEngine) close() error               { return nil }

func (e *ownEngine) metrics() (m state.Metrics) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for id := range e.shards {
		if info, err := e.fs.Stat(e.path(id)); err == nil {
			m.Bytes += uint64(info.Size())
		}
	}
	return m
}

// ownView answers barriers only: a program reads its machine through Node.Read.
type ownView struct{ e *ownEngine }

func (v ownView) close() error { return nil }

func (v ownView) read(shard placement.ShardID, r *peerv1.ReadRequest) (*peerv1.ReadResult, position, error) {
	if len(r.GetKeys()) > 0 || r.GetRange() != nil {
		return nil, position{}, &InvalidError{Field: "read", Problem: "this node runs a state machine of its own, without keys"}
	}
	return &peerv1.ReadResult{}, v.e.position(shard), nil
}
