package raftnode

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/watch"
)

// A token of a watch is base64url, without padding, of
//
//	version(1) cluster(16) hash of what is watched(8) shards(uvarint), then for each, ascending,
//	  id(uvarint) next revision(uvarint) length of key(uvarint) key
//	CRC-32C of all that(4)
//
// The length is 0 for a shard whose events come next; else it is one more than that of the key from which the records of the start are to be
// sent, as they were before the next revision.
const (
	watchTokenVersion = 1
	watchTokenHeader  = 1 + 16 + 8
	// WatchTokenBytes bounds a token: a place in every shard, and a key in one.
	WatchTokenBytes = 64 << 10
)

// watchPlace is where a watch is in a shard.
type watchPlace struct {
	shard placement.ShardID
	// next is the first revision that is not complete.
	next uint64
	// initial says that records of before next are to be sent, from key on.
	initial bool
	key     string
}

// watchHash is of what a token belongs to. Who goes on with it may want other parts of the same events.
func watchHash(f *watch.Filter) uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%q %q %q %q %t %t", f.Key, f.Prefix, f.Start, f.End, f.NoPuts, f.NoDeletes))
}

func encodeWatchToken(cluster []byte, hash uint64, places []watchPlace) string {
	b := make([]byte, 0, watchTokenHeader+1+len(places)*8+4)
	b = append(append(b, watchTokenVersion), cluster...)
	b = binary.BigEndian.AppendUint64(b, hash)
	b = binary.AppendUvarint(b, uint64(len(places)))
	for _, p := range places {
		b = binary.AppendUvarint(b, uint64(p.shard))
		b = binary.AppendUvarint(b, p.next)
		if !p.initial {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(p.key))+1)
		b = append(b, p.key...)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeWatchToken(token string, cluster []byte, hash uint64) ([]watchPlace, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	problem := ""
	switch {
	case err != nil || len(b) < watchTokenHeader+4:
		problem = "is not a token that a watch has given"
	case b[0] != watchTokenVersion:
		problem = "is a token of another release; begin anew without it"
	case crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]):
		problem = "is damaged; begin anew without it"
	case string(b[1:17]) != string(cluster):
		problem = "is of cluster " + hex.EncodeToString(b[1:17]) + ", this is " + hex.EncodeToString(cluster) + "; begin anew without it"
	case binary.BigEndian.Uint64(b[17:]) != hash:
		problem = "belongs to a watch of other keys; repeat its key, prefix, range and filters"
	}
	if problem == "" {
		places, err := decodePlaces(b[watchTokenHeader : len(b)-4])
		if err == nil {
			return places, nil
		}
		problem = "is damaged: " + err.Error()
	}
	return nil, &InvalidError{Field: "token", Problem: problem}
}

func decodePlaces(b []byte) ([]watchPlace, error) {
	bad := false
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if bad = bad || n <= 0; bad {
			return 0
		}
		b = b[n:]
		return v
	}
	count := number()
	if bad || count == 0 || count > placement.SlotCount {
		return nil, errors.New("no shards")
	}
	var places []watchPlace
	for range count {
		p := watchPlace{shard: placement.ShardID(number()), next: number()}
		if n := number(); n > 0 && !bad {
			if bad = n-1 > uint64(len(b)) || n-1 > KeyBytes+1; bad {
				break
			}
			p.initial, p.key, b = true, string(b[:n-1]), b[n-1:]
		}
		if bad = bad || p.next == 0 || len(places) > 0 && p.shard <= places[len(places)-1].shard; bad {
			break
		}
		places = append(places, p)
	}
	if bad || len(b) > 0 {
		return nil, errors.New("places that no watch has")
	}
	return places, nil
}
