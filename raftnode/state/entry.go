package state

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// CommandVersion is the newest version of the state machine's commands that this package applies (R21).
const CommandVersion = 1

const entryVersion = 1

// EncodeEntry returns the bytes of an entry as they stand in the log and on the wire.
func EncodeEntry(e *storev1.Entry) ([]byte, error) {
	b := make([]byte, 1+e.SizeVT())
	b[0] = entryVersion
	if _, err := e.MarshalToSizedBufferVT(b[1:]); err != nil {
		return nil, fmt.Errorf("state: encode entry: %w", err)
	}
	return b, nil
}

// DecodeEntry is the inverse of EncodeEntry. It keeps no part of b.
func DecodeEntry(b []byte) (*storev1.Entry, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: no bytes", ErrInvalidEntry)
	}
	if b[0] != entryVersion {
		return nil, &FormatError{What: "entry", Found: b[:1], Want: entryVersion}
	}
	e := new(storev1.Entry)
	if err := e.UnmarshalVT(b[1:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidEntry, err)
	}
	return e, nil
}

// EntryTraces returns the traces of an encoded entry, most at the most, without decoding its commands: it steps over them. What cannot be read, DecodeEntry refuses
// when the entry is applied, which never looks at traces.
func EntryTraces(b []byte, most int) []*storev1.TraceContext {
	const traces = 4 // the number of Entry.traces
	var out []*storev1.TraceContext
	for b = b[min(1, len(b)):]; len(b) > 0 && len(out) < most; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return out
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return out
		}
		if number == traces && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b[n:])
			t := new(storev1.TraceContext)
			if t.UnmarshalVT(value) == nil {
				out = append(out, t)
			}
		}
		b = b[n+size:]
	}
	return out
}

// checkEntry finds whatever would make a command of the entry fail, before anything of it is applied.
func checkEntry(e *storev1.Entry) error {
	if e.CommandVersion > CommandVersion {
		return &VersionError{Need: e.CommandVersion, Have: CommandVersion}
	}
	for i, c := range e.Commands {
		if err := CheckCommand(c); err != nil {
			return fmt.Errorf("command %d: %w", i, err)
		}
	}
	return nil
}

// CheckCommand says why a command can not be applied. Whoever proposes checks first: an entry with a command that fails here stops every
// replica, since a state machine that can not apply an entry must not skip it (R21).
func CheckCommand(c *storev1.Command) error {
	if c == nil {
		return fmt.Errorf("%w: no command", ErrInvalidEntry)
	}
	if id := c.RequestId; id != nil && (len(id.ClientId) != clientIDLen || id.Sequence == 0) {
		return fmt.Errorf("%w: request id with a client id of %d bytes and sequence %d, want %d bytes and at least 1",
			ErrInvalidEntry, len(id.ClientId), id.Sequence, clientIDLen)
	}
	if err := checkIdempotency(c); err != nil {
		return err
	}
	switch body := c.Body.(type) {
	case *storev1.Command_Write:
		return checkWrite(body.Write)
	case *storev1.Command_TrimHistory:
		if body.TrimHistory == nil {
			return fmt.Errorf("%w: empty trim", ErrInvalidEntry)
		}
		return nil
	case *storev1.Command_Bootstrap:
		if body.Bootstrap == nil || body.Bootstrap.Slots == nil {
			return fmt.Errorf("%w: bootstrap without a slot table", ErrInvalidEntry)
		}
		_, err := expandSlots(body.Bootstrap.Slots)
		return err
	case *storev1.Command_Expire:
		return checkExpire(body.Expire)
	case *storev1.Command_Lease:
		return checkLease(body.Lease)
	case *storev1.Command_Fence:
		return checkFence(c.RequestId, body.Fence)
	case *storev1.Command_Opaque:
		return fmt.Errorf("%w: a command of another state machine", ErrInvalidEntry)
	default:
		return fmt.Errorf("%w: a command of no kind that this version knows", ErrInvalidEntry)
	}
}

func checkWrite(w *storev1.Write) error {
	if w == nil || len(w.Compares)+len(w.Operations) == 0 {
		return fmt.Errorf("%w: a write of nothing", ErrInvalidEntry)
	}
	if len(w.Otherwise) > 0 && len(w.Compares) == 0 {
		return fmt.Errorf("%w: a write that does something else unless nothing holds", ErrInvalidEntry)
	}
	for i, c := range w.Compares {
		if c == nil || c.Condition == nil {
			return fmt.Errorf("%w: compares[%d] has no condition", ErrInvalidEntry, i)
		}
		if err := checkKey(c.Key); err != nil {
			return fmt.Errorf("%w: compares[%d].key %w", ErrInvalidEntry, i, err)
		}
	}
	if err := checkOperations("operations", w.Operations); err != nil {
		return err
	}
	return checkOperations("otherwise", w.Otherwise)
}

func checkOperations(field string, ops []*storev1.Operation) error {
	for i, op := range ops {
		if op == nil || op.Kind != put && op.Kind != deletion && op.Kind != get {
			return fmt.Errorf("%w: %s[%d] is neither put, delete nor get", ErrInvalidEntry, field, i)
		}
		if err := checkKey(op.Key); err != nil {
			return fmt.Errorf("%w: %s[%d].key %w", ErrInvalidEntry, field, i, err)
		}
		if op.Kind != put && len(op.Value) > 0 {
			return fmt.Errorf("%w: %s[%d] is no put and has a value", ErrInvalidEntry, field, i)
		}
		if err := checkLife(op); err != nil {
			return fmt.Errorf("%w: %s[%d] %w", ErrInvalidEntry, field, i, err)
		}
	}
	return checkDistinct(field, ops)
}

func checkKey(key string) error {
	if key == "" {
		return fmt.Errorf("is empty")
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("%q is not UTF-8", key)
	}
	return nil
}

// smallWrite is how many operations are compared each with each rather than through a map.
const smallWrite = 8

func checkDistinct(field string, ops []*storev1.Operation) error {
	if len(ops) <= smallWrite {
		for i := range ops {
			for j := range i {
				if ops[i].Key == ops[j].Key {
					return fmt.Errorf("%w: %s[%d] and %s[%d] have the same key", ErrInvalidEntry, field, j, field, i)
				}
			}
		}
		return nil
	}
	seen := make(map[string]int, len(ops))
	for i, op := range ops {
		if j, ok := seen[op.Key]; ok {
			return fmt.Errorf("%w: %s[%d] and %s[%d] have the same key", ErrInvalidEntry, field, j, field, i)
		}
		seen[op.Key] = i
	}
	return nil
}

// slotStates is a slot table slot by slot.
type slotStates [placement.SlotCount]uint8

func (s *slotStates) serving(slot placement.Slot) bool {
	return s[slot] == uint8(storev1.SlotState_SLOT_STATE_SERVING)
}

func expandSlots(t *storev1.SlotTable) (*slotStates, error) {
	s := new(slotStates)
	next := uint32(0)
	for i, r := range t.Runs {
		switch {
		case r == nil || r.First < next || r.Last < r.First || r.Last >= placement.SlotCount:
			return nil, fmt.Errorf("%w: runs[%d] of the slot table is out of order or out of range", ErrInvalidEntry, i)
		case r.State < storev1.SlotState_SLOT_STATE_SERVING || r.State > storev1.SlotState_SLOT_STATE_GONE:
			return nil, fmt.Errorf("%w: runs[%d] of the slot table has state %d, which this version does not know", ErrInvalidEntry, i, r.State)
		}
		for slot := r.First; slot <= r.Last; slot++ {
			s[slot] = uint8(r.State)
		}
		next = r.Last + 1
	}
	return s, nil
}
