package logstore

import (
	"encoding/binary"
	"errors"
)

// head is all that a shard's log is besides its entries. It is always written whole: one record says everything, so an older one
// is never needed, and a snapshot install is one record (R8).
//
// Invariant: truncated <= last; the entries in between are in the index.
type head struct {
	truncated, truncatedTerm uint64
	last                     uint64
	hard                     hardState
	// hasHard is false until a hard state was written.
	hasHard bool
	// damaged is set when the newest state of the shard was found damaged, and carried on until a Reset with a hard state: a vote
	// may be forgotten (R15).
	damaged bool
	// intent is never changed once it is here.
	intent *Intent
}

// hardState is a raftpb.HardState without its machinery.
type hardState struct{ term, vote, commit uint64 }

const (
	stateHasHard = 1 << iota
	stateHasIntent
	stateDamaged
	stateFlags
)

const (
	stateBytes  = 33
	intentBytes = 16
	// intentDirBytesMax bounds Intent.Dir.
	intentDirBytesMax = 4 << 10
)

// appendState appends the payload of a state record; TruncatedIndex and TruncatedTerm are in the header.
func appendState(b []byte, h *head) []byte {
	var flags byte
	if h.hasHard {
		flags |= stateHasHard
	}
	if h.intent != nil {
		flags |= stateHasIntent
	}
	if h.damaged {
		flags |= stateDamaged
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint64(b, h.last)
	b = binary.LittleEndian.AppendUint64(b, h.hard.term)
	b = binary.LittleEndian.AppendUint64(b, h.hard.vote)
	b = binary.LittleEndian.AppendUint64(b, h.hard.commit)
	if h.intent != nil {
		b = binary.LittleEndian.AppendUint64(b, h.intent.Index)
		b = binary.LittleEndian.AppendUint64(b, h.intent.Term)
		b = append(b, h.intent.Dir...)
	}
	return b
}

var errStatePayload = errors.New("a state record whose content makes no sense")

func parseState(r recordHeader, b []byte) (head, error) {
	if len(b) < stateBytes || b[0] >= stateFlags {
		return head{}, errStatePayload
	}
	h := head{
		truncated:     r.index,
		truncatedTerm: r.term,
		last:          binary.LittleEndian.Uint64(b[1:]),
		hard: hardState{
			term:   binary.LittleEndian.Uint64(b[9:]),
			vote:   binary.LittleEndian.Uint64(b[17:]),
			commit: binary.LittleEndian.Uint64(b[25:]),
		},
		hasHard: b[0]&stateHasHard != 0,
		damaged: b[0]&stateDamaged != 0,
	}
	if h.last < h.truncated {
		return head{}, errStatePayload
	}
	b, hasIntent := b[stateBytes:], b[0]&stateHasIntent != 0
	if !hasIntent {
		if len(b) != 0 {
			return head{}, errStatePayload
		}
		return h, nil
	}
	if len(b) < intentBytes {
		return head{}, errStatePayload
	}
	h.intent = &Intent{
		Index: binary.LittleEndian.Uint64(b),
		Term:  binary.LittleEndian.Uint64(b[8:]),
		Dir:   string(b[intentBytes:]),
	}
	return h, nil
}

// sealed is an older segment that is still part of the log, and where it ends.
type sealed struct {
	number  uint32
	lastSeq uint64
	end     int64
}

const sealedBytes = 20

func appendSealed(b []byte, list []sealed) []byte {
	for _, s := range list {
		b = binary.LittleEndian.AppendUint32(b, s.number)
		b = binary.LittleEndian.AppendUint64(b, s.lastSeq)
		b = binary.LittleEndian.AppendUint64(b, uint64(s.end))
	}
	return b
}

var errSegmentsPayload = errors.New("a list of segments whose content makes no sense")

// parseSealed returns the list, which is in ascending order, all of it below the segment that holds it.
func parseSealed(b []byte, below uint32) ([]sealed, error) {
	if len(b)%sealedBytes != 0 {
		return nil, errSegmentsPayload
	}
	list := make([]sealed, 0, len(b)/sealedBytes)
	for ; len(b) > 0; b = b[sealedBytes:] {
		s := sealed{
			number:  binary.LittleEndian.Uint32(b),
			lastSeq: binary.LittleEndian.Uint64(b[4:]),
			end:     int64(binary.LittleEndian.Uint64(b[12:])),
		}
		if n := len(list); s.number >= below || n > 0 && list[n-1].number >= s.number || s.end < blockBytes {
			return nil, errSegmentsPayload
		}
		list = append(list, s)
	}
	return list, nil
}
