package state

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// Every stored message has one byte with its format version before it.
const recordVersion = 1

// Short names for what is stored.
type (
	shardMeta = storev1.ShardMeta
	record    = storev1.Record
)

type encoder interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

type decoder interface{ UnmarshalVT([]byte) error }

// encodedLen is the length of what encodeTo writes.
func encodedLen(m encoder) int { return 1 + m.SizeVT() }

// encodeTo fills b, which must be encodedLen(m) long.
func encodeTo(b []byte, m encoder) error {
	b[0] = recordVersion
	n, err := m.MarshalToSizedBufferVT(b[1:])
	if err == nil && n != len(b)-1 {
		err = fmt.Errorf("%d bytes encoded, %d expected", n, len(b)-1)
	}
	return err
}

func encode(m encoder) ([]byte, error) {
	b := make([]byte, encodedLen(m))
	if err := encodeTo(b, m); err != nil {
		return nil, err
	}
	return b, nil
}

// decode reads a stored message into m, which must be empty. It keeps no part of b.
func decode(m decoder, b []byte, what string) error {
	if err := checkVersion(b, what); err != nil {
		return err
	}
	if err := m.UnmarshalVT(b[1:]); err != nil {
		return fmt.Errorf("decode %s: %w", what, err)
	}
	return nil
}

func checkVersion(b []byte, what string) error {
	if len(b) == 0 {
		return fmt.Errorf("decode %s: empty", what)
	}
	if b[0] != recordVersion {
		return &FormatError{What: what, Found: []byte{b[0]}, Want: recordVersion}
	}
	return nil
}

// recordHead is what can be had of a stored record without copying its value. The zero value is that of no record.
type recordHead struct {
	create, mod, version uint64
	tombstone            bool
	value                []byte // in place; nil if it is separated
	separated            bool
	length, hash         uint64 // of a separated value
	lease, deadline      uint64 // 0 for none
}

// valueLen is the length of the value.
func (h *recordHead) valueLen() uint64 {
	if h.separated {
		return h.length
	}
	return uint64(len(h.value))
}

// live says whether the key exists.
func (h *recordHead) live() bool { return h.mod != 0 && !h.tombstone }

var errBadRecord = errors.New("decode record: no valid encoding")

// readHead reads a stored record. It is the hot half of Apply: every write looks at the record before it.
func readHead(b []byte) (h recordHead, err error) {
	if err := checkVersion(b, "record"); err != nil {
		return h, err
	}
	for b = b[1:]; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return h, errBadRecord
		}
		b = b[n:]
		switch kind {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return h, errBadRecord
			}
			h.setNumber(number, v)
			b = b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return h, errBadRecord
			}
			switch number {
			case 5:
				h.value = v
			case 6:
				return h, ErrReference
			case 7:
				if err := h.setSeparated(v); err != nil {
					return h, err
				}
			}
			b = b[n:]
		default:
			return h, errBadRecord
		}
	}
	if h.mod == 0 {
		return h, errBadRecord
	}
	return h, nil
}

func (h *recordHead) setNumber(number protowire.Number, v uint64) {
	switch number {
	case 1:
		h.create = v
	case 2:
		h.mod = v
	case 3:
		h.version = v
	case 4:
		h.tombstone = v != 0
	case 8:
		h.lease = v
	case 9:
		h.deadline = v
	}
}

func (h *recordHead) setSeparated(b []byte) error {
	var s storev1.Separated
	if err := s.UnmarshalVT(b); err != nil || s.Length < separateBytes {
		return errBadRecord
	}
	h.separated, h.length, h.hash = true, s.Length, s.Hash
	return nil
}

// readRecord reads a stored record whole. A separated value is not in it.
func readRecord(b []byte) (*record, error) {
	r := new(record)
	if err := decode(r, b, "record"); err != nil {
		return nil, err
	}
	if r.GetReference() != nil {
		return nil, ErrReference
	}
	return r, nil
}
