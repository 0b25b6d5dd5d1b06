package placement

import "strconv"

// SlotOfLease returns the slot of a lease, which decides the shard where it has its record: that of the key "lease/" and the id in decimal. No
// key of that name is meant or made; leases only share the slots of keys, so that they move with them.
func SlotOfLease(id uint64) Slot {
	return SlotOf(string(strconv.AppendUint(append(make([]byte, 0, 32), "lease/"...), id, 10)))
}
