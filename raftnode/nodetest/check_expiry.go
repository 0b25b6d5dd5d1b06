package nodetest

import (
	"fmt"
	"slices"
	"time"
)

// CheckExpiry says whether no key and no lease has ended before its time, none has come back, and none is there whose put was refused. Times are true ones: a leader's clock may run 5 % fast
// where clocks differ, and believes two ticks of each jump.
func CheckExpiry(h *Lifetimes) error {
	for _, l := range h.Leases {
		for _, gone := range l.Gone {
			if early := h.early(l.Kept, l.TTL, gone); early > 0 && (l.Revoked == 0 || gone < l.Revoked) {
				return fmt.Errorf("lease %d is said not to live at %s, %s before its time: kept at %s for %s", l.ID, gone, early, l.Kept, l.TTL)
			}
		}
	}
	for _, k := range h.Keys {
		if err := h.check(k); err != nil {
			return err
		}
	}
	return nil
}

func (h *Lifetimes) check(k *KeyLife) error {
	gone := time.Duration(-1)
	for _, look := range k.Looks {
		if look.There {
			if k.Refused {
				return fmt.Errorf("%s, which was refused, is there at %s", k, look.Answered)
			}
			if gone >= 0 && look.Called > gone {
				return fmt.Errorf("%s was gone at %s and is there again at %s", k, gone, look.Answered)
			}
			continue
		}
		if k.Put == 0 || look.Called < k.Put {
			continue // It need not have been put yet.
		}
		if gone < 0 || look.Answered < gone {
			gone = look.Answered
		}
		begun, ttl := []time.Duration{k.Called}, k.TTL
		if k.Lease != nil {
			if begun, ttl = k.Lease.Kept, k.Lease.TTL; k.Lease.Revoked != 0 && look.Answered >= k.Lease.Revoked {
				continue
			}
		}
		if early := h.early(begun, ttl, look.Answered); early > 0 {
			return fmt.Errorf("%s is gone at %s, %s before its time", k, look.Answered, early)
		}
	}
	return nil
}

// early is by how much something has ended before its time that was to live for ttl from each of some moments on.
func (h *Lifetimes) early(begun []time.Duration, ttl, ended time.Duration) time.Duration {
	if len(begun) == 0 {
		return 0
	}
	last := slices.Max(begun)
	if h.Skew {
		ttl = ttl * 100 / 105
	}
	for _, jump := range h.Jumps {
		if jump >= last && jump <= ended {
			ttl -= 2 * h.Heartbeat
		}
	}
	return last + ttl - ended
}

func (k *KeyLife) String() string {
	if k.Lease != nil {
		return fmt.Sprintf("%s, put at %s on lease %d, kept at %s for %s, revoked at %s", k.Name, k.Called, k.Lease.ID, k.Lease.Kept, k.Lease.TTL, k.Lease.Revoked)
	}
	return fmt.Sprintf("%s, put at %s for %s", k.Name, k.Called, k.TTL)
}
