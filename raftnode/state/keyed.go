package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

const (
	// IdempotencyKeyBytes bounds an idempotency key.
	IdempotencyKeyBytes = 255
	// FingerprintBytes is the length of the hash over a write that stands under an idempotency key.
	FingerprintBytes = 16
	// IdempotencyWindowMax bounds for how long a result is kept under one, in milliseconds: 30 days.
	IdempotencyWindowMax = 30 * 24 * 3600 * 1000
)

func checkIdempotency(c *storev1.Command) error {
	k := c.Idempotency
	if k == nil {
		return nil
	}
	if _, ok := c.Body.(*storev1.Command_Write); !ok || c.RequestId != nil {
		return fmt.Errorf("%w: an idempotency key on what is no write, or has a request id", ErrInvalidEntry)
	}
	if len(k.Fingerprint) != FingerprintBytes || k.WindowMs == 0 || k.WindowMs > IdempotencyWindowMax {
		return fmt.Errorf("%w: an idempotency key with a fingerprint of %d bytes for %d ms, want %d for 1 to %d",
			ErrInvalidEntry, len(k.Fingerprint), k.WindowMs, FingerprintBytes, uint64(IdempotencyWindowMax))
	}
	if err := checkIdempotencyKey(k.Key); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidEntry, err)
	}
	return nil
}

func checkIdempotencyKey(key string) error {
	if key == "" || len(key) > IdempotencyKeyBytes {
		return fmt.Errorf("an idempotency key of %d bytes, want 1 to %d", len(key), IdempotencyKeyBytes)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] >= 0x7f {
			return errors.New("an idempotency key with bytes that are no visible characters of ASCII")
		}
	}
	return nil
}

// readKeyed reads a stored result under an idempotency key.
func readKeyed(stored []byte) (*storev1.KeyedResult, error) {
	r := new(storev1.KeyedResult)
	if err := decode(r, stored, "keyed result"); err != nil {
		return nil, err
	}
	if len(r.Fingerprint) != FingerprintBytes || r.DeadlineMs == 0 || r.Slot >= placement.SlotCount || r.Result == nil {
		return nil, errors.New("keyed result that is not one of a write")
	}
	return r, nil
}

// askedByKey returns the answer to an earlier write under an idempotency key, or refuses another write; nil if there was none. A result whose time has
// passed counts as long as it is there: all replicas have it (R20), and late is allowed (R19).
func (sh *Shard) askedByKey(k *storev1.Idempotency, r *storev1.WriteResult) (*storev1.WriteResult, error) {
	stored, closer, err := sh.storedKeyed(k.Key)
	if err != nil || stored == nil {
		return nil, err
	}
	defer closer.Close()
	found, err := readKeyed(stored)
	if err != nil {
		return nil, sh.damage(err)
	}
	if !bytes.Equal(found.Fingerprint, k.Fingerprint) {
		refuse(r, keyReused, sh.meta.Revision)
		return r, nil
	}
	found.Result.Replayed = true
	return found.Result, nil
}

// keysFull says whether no more results are kept under idempotency keys: none is removed before its time, so new writes are refused.
func (sh *Shard) keysFull() bool {
	return sh.meta.KeyedResults >= sh.store.options.KeyedResults || sh.meta.KeyedBytes >= sh.store.options.KeyedBytes
}

// keepKeyed keeps the answer to a write for the time of its idempotency key.
func (sh *Shard) keepKeyed(b *Batch, k *storev1.Idempotency, slot placement.Slot, r *storev1.WriteResult) error {
	d := &sh.scratch.keyed
	d.Fingerprint, d.Slot, d.Result, d.DeadlineMs = k.Fingerprint, uint32(slot), r, sh.deadline(k.WindowMs)
	if planted.Is(planted.KeyedForgottenEarly) {
		d.DeadlineMs = sh.deadline(k.WindowMs / 8) // R19
	}
	sh.key = appendKeyedKey(sh.key[:0], sh.id, k.Key)
	stored, err := b.set(sh.key, d)
	if err != nil {
		return err
	}
	sh.overlay.keyed[k.Key] = stored
	sh.meta.KeyedResults++
	sh.meta.KeyedBytes += uint64(len(k.Key) + len(stored))
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionKeyedDue, d.DeadlineMs, k.Key)
	return sh.mark(b)
}

// forgetKeyed removes results whose time has passed, as far as there is room.
func (sh *Shard) forgetKeyed(b *Batch, x *removal) error {
	start, end := sh.dueSpan(sectionKeyedDue)
	due, err := sh.indexed(start, end, x.room+1, func([]byte) bool { return true })
	if err != nil {
		return err
	}
	if len(due) > x.room {
		due, x.more = due[:x.room], true
	}
	x.room -= len(due)
	for _, mark := range due {
		key := mark[sectionLen+8:]
		stored, closer, err := sh.storedKeyed(key)
		if err != nil {
			return err
		}
		if stored == nil {
			return sh.damage(errIndex)
		}
		sh.meta.KeyedResults--
		sh.meta.KeyedBytes -= uint64(len(key) + len(stored))
		if err := closer.Close(); err != nil {
			return fmt.Errorf("state: shard %d: read a keyed result: %w", sh.id, err)
		}
		sh.overlay.keyed[key] = nil
		if err := b.delete(sh.key); err != nil {
			return err
		}
		sh.key = append(sh.key[:0], mark...)
		if err := sh.unmark(b); err != nil {
			return err
		}
	}
	return nil
}

// storedKeyed leaves the key of a result in sh.key.
func (sh *Shard) storedKeyed(key string) ([]byte, io.Closer, error) {
	sh.key = appendKeyedKey(sh.key[:0], sh.id, key)
	if stored, ok := sh.overlay.keyed[key]; ok {
		return stored, noCloser{}, nil
	}
	return sh.read()
}
