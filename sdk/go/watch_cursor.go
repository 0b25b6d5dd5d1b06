package raftkv

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// cursor is where a watch is: behind all that a token of a server is behind, and what told says besides. A server has one token for a response of many events, and of
// a revision of which it has sent a part all comes again; told is what the client leaves out then. It is immutable, because events share it.
//
// Invariant: the events of a revision of a shard come in one order, whichever node tells them, and so do the keys of the start.
type cursor struct {
	server string
	// told is ascending by shard, which has one at the most.
	told []told
}

// told is what was handed over of a shard behind the token of the server: the keys of the start up to key, or all events below revision and count events
// of it.
type told struct {
	shard    placement.ShardID
	initial  bool
	key      string
	revision uint64
	count    uint64
}

// covers says whether p, which is of the same shard, has been told.
func (t *told) covers(p *told) bool {
	if t.initial || p.initial {
		return t.initial && p.initial && p.key <= t.key
	}
	return p.revision < t.revision || p.revision == t.revision && p.count <= t.count
}

func (c cursor) of(shard placement.ShardID) *told {
	if i, ok := slices.BinarySearchFunc(c.told, shard, func(t told, s placement.ShardID) int { return cmp.Compare(t.shard, s) }); ok {
		return &c.told[i]
	}
	return nil
}

// with is c with another place in one shard.
func (c cursor) with(t told) cursor {
	i, found := slices.BinarySearchFunc(c.told, t.shard, func(t told, s placement.ShardID) int { return cmp.Compare(t.shard, s) })
	all := slices.Clone(c.told)
	if found {
		all[i] = t
		return cursor{c.server, all}
	}
	return cursor{c.server, slices.Insert(all, i, t)}
}

// without is c with no place in one shard.
func (c cursor) without(shard placement.ShardID) cursor {
	if c.of(shard) == nil {
		return c
	}
	return cursor{c.server, slices.DeleteFunc(slices.Clone(c.told), func(t told) bool { return t.shard == shard })}
}

// place is where an event stands that comes behind last, the place of the event before it of that shard on this stream; nil if there was none.
func place(e *raftkvv1.Event, last *told) told {
	p := told{shard: placement.ShardID(e.GetShard()), revision: e.GetRevision(), count: 1}
	switch {
	case e.GetInitial():
		return told{shard: p.shard, initial: true, key: e.GetKv().GetKey()}
	case last != nil && !last.initial && last.revision == p.revision:
		p.count = last.count + 1
	}
	return p
}

// The token of an event is that of the server, and for each shard with something told behind it
//
//	~shard.revision.count    or, within the keys of the start,    ~shard.key in base64url
//
// so that the token of a server is one, too.
const toldMark = "~"

func (c cursor) token() string {
	if len(c.told) == 0 {
		return c.server
	}
	var b strings.Builder
	b.WriteString(c.server)
	for _, t := range c.told {
		if t.initial {
			fmt.Fprintf(&b, "%s%d.%s", toldMark, t.shard, base64.RawURLEncoding.EncodeToString([]byte(t.key)))
			continue
		}
		fmt.Fprintf(&b, "%s%d.%d.%d", toldMark, t.shard, t.revision, t.count)
	}
	return b.String()
}

func parseCursor(token string) (cursor, error) {
	server, rest, more := strings.Cut(token, toldMark)
	c := cursor{server: server}
	for more {
		var one string
		one, rest, more = strings.Cut(rest, toldMark)
		t, ok := parseTold(one)
		if !ok || server == "" || len(c.told) > 0 && c.told[len(c.told)-1].shard >= t.shard {
			return cursor{}, &InvalidError{Problem: "token is not one that an event of a watch has given"}
		}
		c.told = append(c.told, t)
	}
	return c, nil
}

func parseTold(text string) (told, bool) {
	parts := strings.Split(text, ".")
	shard, err := strconv.ParseUint(parts[0], 10, 32)
	t := told{shard: placement.ShardID(shard)}
	switch {
	case err != nil:
		return t, false
	case len(parts) == 2:
		key, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
		t.initial, t.key = true, string(key)
		return t, err == nil && len(key) > 0 && len(key) <= keyBytesMax
	case len(parts) == 3:
		revision, err := strconv.ParseUint(parts[1], 10, 64)
		if err != nil {
			return t, false
		}
		count, err := strconv.ParseUint(parts[2], 10, 64)
		t.revision, t.count = revision, count
		return t, err == nil && count > 0
	}
	return t, false
}
