package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// separateBytes is the length from which on a value is stored by itself, under the revision that wrote it: once, where three pairs would
// otherwise hold it (the record, and the histories of the write and of the next). Every replica must separate the same values (R21).
const separateBytes = 1 << 10

var errBadValue = errors.New("the separated value is not the one that the record says")

// separatedLen is the length of what is stored by itself of a value.
func separatedLen(value []byte) uint64 {
	if len(value) < separateBytes {
		return 0
	}
	return uint64(len(value))
}

// separate stores the value of a put by itself and returns what stands for it in the record.
func (sh *Shard) separate(b *Batch, key string, value []byte, revision uint64) (*storev1.Record_Separated, error) {
	at := appendRevisionKey(nil, sh.id, sectionValue, revision, key)
	stored, err := b.setBytes(at, value)
	if err != nil {
		return nil, err
	}
	sh.overlay.values[key] = stored
	s := &sh.scratch.separated
	s.Separated.Length, s.Separated.Hash = uint64(len(value)), xxhash.Sum64(value)
	return s, nil
}

// replaceValue notes that a revision has replaced a separated value, which goes when the history of that revision does.
func (sh *Shard) replaceValue(b *Batch, by uint64, key string, old *recordHead) error {
	if planted.Is(planted.ReplacedValueDropped) {
		return sh.dropValue(b, replaced{by, key, old.mod}) // R22
	}
	sh.overlay.replaced = append(sh.overlay.replaced, replaced{by, key, old.mod})
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionReplaced, by, key)
	_, err := b.setBytes(sh.key, appendReplaced(nil, old.mod, old.hash))
	return err
}

func appendReplaced(b []byte, revision, hash uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, revision), hash)
}

func parseReplaced(value []byte) (revision, hash uint64, err error) {
	if len(value) != 16 {
		return 0, 0, fmt.Errorf("replaced value %x", value)
	}
	return binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:]), nil
}

// dropValue removes a replaced value and the note about it.
func (sh *Shard) dropValue(b *Batch, r replaced) error {
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionValue, r.old, r.key)
	if err := b.delete(sh.key); err != nil {
		return err
	}
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionReplaced, r.by, r.key)
	return b.delete(sh.key)
}

// valueIs compares the value of a record that stored has returned.
func (sh *Shard) valueIs(key string, h *recordHead, want []byte) (bool, error) {
	if !h.separated {
		return bytes.Equal(h.value, want), nil
	}
	if h.length != uint64(len(want)) || h.hash != xxhash.Sum64(want) {
		return false, nil
	}
	value, closer, err := sh.separated(key, h)
	if err != nil {
		return false, err
	}
	defer closer.Close()
	return bytes.Equal(value, want), nil
}

// separated reads the separated value of a record that stored has returned.
func (sh *Shard) separated(key string, h *recordHead) ([]byte, io.Closer, error) {
	if _, ok := sh.overlay.records[key]; ok {
		return sh.overlay.values[key], noCloser{}, nil
	}
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionValue, h.mod, key)
	value, closer, err := sh.read()
	if err != nil {
		return nil, nil, err
	}
	if uint64(len(value)) != h.length {
		return nil, nil, errors.Join(sh.damage(errBadValue), closer.Close())
	}
	return value, closer, nil
}

// whole puts the value into a record that was read, if it is separated.
func (v *View) whole(id placement.ShardID, key string, r *record) error {
	s := r.GetSeparated()
	if s == nil {
		return nil
	}
	at := appendRevisionKey(nil, id, sectionValue, r.ModRevision, key)
	stored, closer, err := v.snapshot.Get(at)
	if err != nil {
		if err := v.check(id); err != nil {
			return err
		}
		return &CorruptionError{Shard: id, Key: at, Err: err}
	}
	value := bytes.Clone(stored)
	if err := closer.Close(); err != nil {
		return fmt.Errorf("state: shard %d: read value: %w", id, err)
	}
	if uint64(len(value)) != s.Length || xxhash.Sum64(value) != s.Hash {
		if err := v.check(id); err != nil {
			return err
		}
		return &CorruptionError{Shard: id, Key: at, Err: errBadValue}
	}
	r.Content = &storev1.Record_Value{Value: value}
	return v.check(id)
}
