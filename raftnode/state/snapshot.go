package state

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// Export writes a shard as a snapshot stream and returns its position. Equal states make equal streams.
func (v *View) Export(id placement.ShardID, w io.Writer) (Position, error) {
	m, err := v.meta(id)
	if err != nil {
		return Position{}, err
	}
	if m.AppliedIndex == 0 {
		return Position{}, fmt.Errorf("state: shard %d has no state to export", id)
	}
	c, err := v.Configuration(id)
	if err != nil {
		return Position{}, err
	}
	start, end := shardSpan(id)
	it, err := v.iterate(id, start, end)
	if err != nil {
		return Position{}, err
	}
	h := &storev1.SnapshotHeader{Shard: uint32(id), Index: m.AppliedIndex, Term: m.AppliedTerm, Configuration: c}
	if err := errors.Join(export(it, w, h), it.Close()); err != nil {
		return Position{}, fmt.Errorf("state: export shard %d: %w", id, err)
	}
	return position(m), nil
}

func export(it *pebble.Iterator, w io.Writer, h *storev1.SnapshotHeader) error {
	sw, err := newStreamWriter(w, h)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if planted.Is(planted.ResultsNotInSnapshot) && section(it.Key()[shardPrefixLen]) == sectionDedup {
			continue // R23
		}
		if s := section(it.Key()[shardPrefixLen]); planted.Is(planted.KeyedNotInSnapshot) && (s == sectionKeyed || s == sectionKeyedDue) {
			continue // R23
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := sw.pair(it.Key()[shardPrefixLen:], value); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	return sw.close()
}

// A staged snapshot is a directory of tables, 000001.sst and so on, and the file HEADER, which is written last:
//
//	01 tables(4) SnapshotHeader crc(4)
const (
	stagedVersion = 1
	stagedHeader  = "HEADER"
	stagedMin     = 1 + 4 + chunkCRCLen
)

// Stage reads a snapshot stream, verifies it, and makes of it in dir what Ingest takes in. When it returns, that is durable (R7, R8). What dir
// held before is removed. On an error dir holds nothing that Ingest would take.
func (s *Store) Stage(dir string, r io.Reader) (*storev1.SnapshotHeader, error) {
	fs := s.options.FS
	if err := errors.Join(fs.RemoveAll(dir), makeDir(fs, dir)); err != nil {
		return nil, fmt.Errorf("state: stage in %s: %w", dir, err)
	}
	st := &staging{fs: fs, dir: dir, options: s.engine.MakeWriterOptions(6, s.db.FormatMajorVersion().MaxTableFormat())}
	err := readStream(r, st.begin, st.pair)
	if err == nil {
		err = st.verifier.end()
	}
	if err == nil {
		err = st.end()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state: stage in %s: %w", dir, err), st.closeTable(), fs.RemoveAll(dir))
	}
	return st.verifier.header, nil
}

// staging is one run of Stage.
type staging struct {
	fs       vfs.FS
	dir      string
	options  sstable.WriterOptions
	verifier verifier
	table    *sstable.Writer // nil between two
	tables   uint32
	size     int
	key      []byte
}

func (st *staging) begin(h *storev1.SnapshotHeader) error { return st.verifier.begin(h) }

func (st *staging) pair(key, value []byte) error {
	if err := st.verifier.pair(key, value); err != nil {
		return err
	}
	if st.table == nil {
		if err := st.openTable(); err != nil {
			return err
		}
	}
	st.key = append(binary.BigEndian.AppendUint32(append(st.key[:0], shardSpace), st.verifier.header.Shard), key...)
	if err := st.table.Set(st.key, value); err != nil {
		return err
	}
	if st.size += len(st.key) + len(value); st.size < sstBytes {
		return nil
	}
	return st.closeTable()
}

func tableName(fs vfs.FS, dir string, n uint32) string {
	return fs.PathJoin(dir, fmt.Sprintf("%06d.sst", n))
}

func (st *staging) openTable() error {
	f, err := st.fs.Create(tableName(st.fs, st.dir, st.tables+1), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	st.tables++
	st.size = 0
	st.table = sstable.NewWriter(objstorageprovider.NewFileWritable(f), st.options)
	return nil
}

// closeTable ends the open table, if any; closing it syncs it.
func (st *staging) closeTable() error {
	if st.table == nil {
		return nil
	}
	table := st.table
	st.table = nil
	return table.Close()
}

// end makes the tables durable, then the header that makes them count.
func (st *staging) end() error {
	if err := st.closeTable(); err != nil {
		return err
	}
	if err := syncDir(st.fs, st.dir); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32([]byte{stagedVersion}, st.tables)
	h, err := st.verifier.header.MarshalVT()
	if err != nil {
		return err
	}
	b = append(b, h...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	f, err := st.fs.Create(st.fs.PathJoin(st.dir, stagedHeader), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if planted.Is(planted.StagedNameNotSynced) {
		return nil // R8
	}
	return syncDir(st.fs, st.dir)
}

// readStaged reads the header of a staged snapshot, and how many tables it has.
func readStaged(fs vfs.FS, dir string) (*storev1.SnapshotHeader, uint32, error) {
	f, err := fs.Open(fs.PathJoin(dir, stagedHeader))
	if err != nil {
		return nil, 0, err
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, 0, err
	}
	if len(b) > 0 && b[0] != stagedVersion {
		return nil, 0, &FormatError{What: "staged snapshot", Found: b[:1], Want: stagedVersion}
	}
	if len(b) < stagedMin || crc32.Checksum(b[:len(b)-chunkCRCLen], castagnoli) != binary.BigEndian.Uint32(b[len(b)-chunkCRCLen:]) {
		return nil, 0, fmt.Errorf("%w: its header is damaged", ErrBadSnapshot)
	}
	h := new(storev1.SnapshotHeader)
	if err := h.UnmarshalVT(b[5 : len(b)-chunkCRCLen]); err != nil {
		return nil, 0, fmt.Errorf("%w: its header: %w", ErrBadSnapshot, err)
	}
	return h, binary.BigEndian.Uint32(b[1:]), nil
}

// Ingest replaces a shard by a snapshot that Stage has made in dir. It is durable when Ingest returns. If the shard is as far already, Ingest
// only makes that durable, so that it can be repeated after a crash at any point; the tables in dir are gone after the first success.
//
// Nothing may be applied to the shard meanwhile. On another error than a fatal one the shard is as it was.
func (s *Store) Ingest(id placement.ShardID, dir string) error {
	if err := s.ingest(id, dir); err != nil {
		return fmt.Errorf("state: ingest %s into shard %d: %w", dir, id, err)
	}
	return nil
}

func (s *Store) ingest(id placement.ShardID, dir string) error {
	h, tables, err := readStaged(s.options.FS, dir)
	if err != nil {
		return err
	}
	if h.Shard != uint32(id) {
		return fmt.Errorf("%w: it is of shard %d", ErrBadSnapshot, h.Shard)
	}
	durable, err := s.DurableApplied(id)
	if err != nil {
		return err
	}
	sh, err := s.handle(id)
	if err != nil {
		return err
	}
	if sh.open != nil {
		return ErrBatchOpen
	}
	if sh.meta.AppliedIndex >= h.Index {
		if durable >= h.Index {
			return nil
		}
		return s.fatal.guard(s.db.Flush)
	}
	var paths []string
	for i := range tables {
		path := tableName(s.options.FS, dir, i+1)
		if _, err := s.options.FS.Stat(path); err != nil {
			return fmt.Errorf("%w: it lacks a table: %w", ErrBadSnapshot, err)
		}
		paths = append(paths, path)
	}
	return s.replace(sh, func(span pebble.KeyRange) error {
		_, err := s.db.IngestAndExcise(context.Background(), paths, nil, nil, span)
		return err
	})
}

// Drop removes a shard, durably. Only a committed tombstone justifies that, never an absence (R14). Handles of the shard are dead then.
func (s *Store) Drop(id placement.ShardID) error {
	sh, err := s.handle(id)
	if err != nil {
		return err
	}
	if sh.open != nil {
		return fmt.Errorf("state: drop shard %d: %w", id, ErrBatchOpen)
	}
	err = s.replace(sh, func(span pebble.KeyRange) error { return s.db.Excise(context.Background(), span) })
	if err != nil {
		return fmt.Errorf("state: drop shard %d: %w", id, err)
	}
	sh.dropped = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shards[id] != nil && id != placement.MetaShard {
		s.loaded.Add(-1)
	}
	delete(s.shards, id)
	return nil
}

// replace exchanges what is stored of a shard, under the views that are open, and loads it again.
func (s *Store) replace(sh *Shard, exchange func(pebble.KeyRange) error) error {
	start, end := shardSpan(sh.id)
	s.replacing(sh.id)
	err := s.fatal.guard(func() error { return exchange(pebble.KeyRange{Start: start, End: end}) })
	s.replacing(sh.id)
	if err != nil {
		return err
	}
	return sh.load()
}
