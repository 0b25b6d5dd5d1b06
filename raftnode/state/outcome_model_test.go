package state

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// The part of the model that knows fences and idempotency keys.

// modelKeysMost is how many results the model keeps under idempotency keys.
const modelKeysMost = 3

type modelKeyed struct {
	fingerprint []byte
	deadline    uint64
	result      *storev1.WriteResult
}

func (m *model) fence(id *storev1.RequestId) *storev1.WriteResult {
	name, client := fmt.Sprintf("%x/%d", id.ClientId, id.Sequence), string(id.ClientId)
	for _, r := range m.results {
		if r.id == name {
			return r.result
		}
	}
	s := m.session(client)
	floor := m.gone
	if s != nil {
		floor = s.floor
	}
	pinned := 0
	for _, other := range m.sessions {
		if other.fenced > m.revision {
			pinned++
		}
	}
	switch {
	case s != nil && id.Sequence < s.acked:
		return &storev1.WriteResult{Outcome: expired, Revision: m.revision}
	case id.Seen < floor || id.Seen > m.revision:
		return &storev1.WriteResult{Outcome: expired, Revision: m.revision, SessionFloor: floor}
	case m.full(client, id.AckedBelow):
		return &storev1.WriteResult{Outcome: sessionFull, Revision: m.revision}
	case (s == nil || s.fenced <= m.revision) && pinned >= m.limit/2:
		return &storev1.WriteResult{Outcome: fencesFull, Revision: m.revision}
	}
	r := &storev1.WriteResult{Outcome: fenced, Revision: m.revision}
	m.remember(id, r, m.revision+1)
	return r
}

func (m *model) keep(k *storev1.Idempotency, execute func() *storev1.WriteResult) *storev1.WriteResult {
	if k == nil {
		return execute()
	}
	if was := m.keyed[k.Key]; was != nil {
		if !bytes.Equal(was.fingerprint, k.Fingerprint) {
			return &storev1.WriteResult{Outcome: keyReused, Revision: m.revision}
		}
		again := proto.CloneOf(was.result)
		again.Replayed = true
		return again
	}
	if len(m.keyed) >= modelKeysMost {
		return &storev1.WriteResult{Outcome: keysFull, Revision: m.revision}
	}
	r := execute()
	m.keyed[k.Key] = &modelKeyed{k.Fingerprint, m.clock + k.WindowMs + 1, r}
	return r
}

func (m *model) forgetKeyed(room int) (more bool) {
	due := slices.Collect(maps.Keys(m.keyed))
	due = slices.DeleteFunc(due, func(k string) bool { return m.keyed[k].deadline > m.clock })
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(cmp.Compare(m.keyed[a].deadline, m.keyed[b].deadline), cmp.Compare(a, b))
	})
	for i, k := range due {
		if i < room {
			delete(m.keyed, k)
		}
	}
	return len(due) > room
}

func fenceCommand(key string) *storev1.Command {
	return &storev1.Command{Body: &storev1.Command_Fence{Fence: &storev1.Fence{Slot: uint32(placement.SlotOf(key))}}}
}

// under gives a command an idempotency key.
func under(key string, fingerprint byte, windowMs uint64, c *storev1.Command) *storev1.Command {
	c.Idempotency = &storev1.Idempotency{Key: key, Fingerprint: bytes.Repeat([]byte{fingerprint}, FingerprintBytes), WindowMs: windowMs}
	return c
}

func drawFence(t *rapid.T, m *model) *storev1.Command {
	c := identify(t, m, fenceCommand(rapid.SampledFrom(modelKeys).Draw(t, "fenced key")))
	if c.RequestId == nil {
		return as(1, rapid.Uint64Range(1, 12).Draw(t, "fenced sequence"), m.revision, 0, c)
	}
	return c
}

func drawKey(t *rapid.T, c *storev1.Command) *storev1.Command {
	key := rapid.SampledFrom([]string{"i1", "i2", "i3", "i4"}).Draw(t, "idempotency key")
	return under(key, byte(rapid.IntRange(1, 3).Draw(t, "fingerprint")/3), rapid.Uint64Range(1, 9).Draw(t, "window"), c)
}
