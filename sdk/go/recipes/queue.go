package recipes

import (
	"context"
	"fmt"
	"strings"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// queue is the prefix of the places of those who wait for a lock. A place is a key: that prefix, and the id of the lease on which it hangs, so whoever waits has one
// place, however often it is written. They stand in the order in which their keys came into being. Empty: the lock has no queue.
type queue string

const (
	// Neither ends with the other, so two locks never share a queue: "job" and "{job}" do not.
	ofTagged, ofUntagged = "/waiting/", "/waiting/untagged/"
	// leaseDigits are the hexadecimal ones of a lease's id.
	leaseDigits = 16
	// keyBytesMax is fixed by the contract.
	keyBytesMax = 4 << 10
)

// queueOf is the queue of the lock whose key is key. Its places must be of the shard of the lock, so that one transaction takes the lock and leaves the queue, and so
// that their revisions compare.
func queueOf(key string) queue {
	q := queue(key + ofTagged)
	if !tagged(key) {
		if strings.Contains(key, "}") {
			return "" // no other key has its shard for sure
		}
		q = queue("{" + key + "}" + ofUntagged) // all of key is hashed, and so is what stands in a tag
	}
	if key == "" || len(q)+leaseDigits > keyBytesMax {
		return ""
	}
	return q
}

// tagged says that only a part of key is hashed, as the contract has it.
func tagged(key string) bool {
	_, after, opened := strings.Cut(key, "{")
	return opened && strings.Index(after, "}") > 0
}

// place is the key of the place that hangs on a lease.
func (q queue) place(lease raftkv.LeaseID) string {
	return fmt.Sprintf("%s%0*x", q, leaseDigits, uint64(lease))
}

// places reports whether key is that of a place, and not of somebody who writes below the prefix.
func (q queue) places(key string) bool {
	id, ok := strings.CutPrefix(key, string(q))
	return ok && len(id) == leaseDigits && strings.Trim(id, "0123456789abcdef") == ""
}

// turn is where somebody is in a queue.
type turn struct {
	// queued says that it has a place.
	queued bool
	// before is the last place before its own, or the last of all if it has none; without a key if there is no such place.
	before raftkv.Item
}

// turn finds place in the queue. Nobody comes before a place that has been written, so it does not matter that the pages of a scan are of different moments.
func (q queue) turn(ctx context.Context, client *raftkv.Client, place string) (turn, error) {
	var t turn
	var all []raftkv.Item
	mine := ^uint64(0)
	for item, err := range client.Scan(ctx, raftkv.Prefix(string(q)), raftkv.ScanOptions{KeysOnly: true}) {
		if err != nil {
			return turn{}, err
		}
		if !q.places(item.Key) {
			continue
		}
		if item.Key == place {
			t.queued, mine = true, item.CreateRevision
			continue
		}
		all = append(all, item)
	}
	for _, item := range all {
		if item.CreateRevision < mine && item.CreateRevision > t.before.CreateRevision {
			t.before = item
		}
	}
	return t, nil
}
