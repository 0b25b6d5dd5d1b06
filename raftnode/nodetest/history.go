package nodetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// GroupKeys is how many keys a group has. Keys of one group carry one tag, so an operation may touch all of them.
const GroupKeys = 3

// groupsPrefix is that of all keys of groups.
const groupsPrefix = "{g"

// key is a key of a group.
func key(group, k int) string { return fmt.Sprintf("%s%d}%c", groupsPrefix, group, 'a'+k) }

// Kind is what an operation does.
type Kind uint8

// The kinds of operations.
const (
	Write Kind = iota + 1
	Read
)

// Outcome is what an operation came to.
type Outcome uint8

// The outcomes of operations. Those that certainly did not happen are not in a history.
const (
	// Unknown: it may happen at any time after its invocation, or never.
	Unknown Outcome = iota
	Done
	// CompareFailed: its condition did not hold, and what was to be done otherwise is done.
	CompareFailed
)

// Change is what a write does to one key of its group.
type Change struct {
	Key    int
	Delete bool
	Value  string
}

// Condition is what a write asks for: a key has a value, or does not exist (empty). No value is written twice, so to ask for the revision
// that wrote it is to ask for the value.
type Condition struct {
	Key        int
	Value      string
	ByRevision bool
	Revision   uint64
}

// Cell is a key as an operation found it (reads), or left it (writes). Version 0: it does not exist.
type Cell struct {
	Value    string
	Version  uint64
	Revision uint64
	// Existed: a write found the key.
	Existed bool
}

// Operation is an operation of a client on a group, and what came of it.
type Operation struct {
	Client, Group int
	Kind          Kind
	Changes       []Change
	Condition     *Condition
	// Otherwise is what a write does if its condition does not hold.
	Otherwise []Change
	// Call and Return are when the client asked and when it was answered. What is unknown never returns.
	Call, Return time.Duration
	Outcome      Outcome
	Shard        placement.ShardID
	// Revision is that of the shard which a write made.
	Revision uint64
	// Current is the revision of the condition's key that the answer to a write names whose condition failed; 0 if the key did not exist.
	Current uint64
	// Origin is the revision of the shard in the state that an answer shows; of a scan of several pages it is not known, and 0.
	Origin uint64
	// Cells are one for each change that a write has done, and one for each key of a read, beginning with key From; a page may end before the last.
	Cells []Cell
	From  int
	// Before are the keys as a write says that it has found them, one for each change that it has done; nil if it was not asked.
	Before []Cell
	// Stale: the read need not show the newest state; nil if it must.
	Stale *StaleRead
	// Attempts is how often it was sent.
	Attempts int
}

// Branches are the changes that a write of known outcome has done, and those that it has not: nobody may ever see a value of the latter.
func (o *Operation) Branches() (done, left []Change) {
	if o.Outcome == CompareFailed {
		return o.Otherwise, o.Changes
	}
	return o.Changes, o.Otherwise
}

// done are the changes that a write of known outcome has done.
func (o *Operation) done() []Change {
	done, _ := o.Branches()
	return done
}

// possible are the changes that a write has done or may have.
func (o *Operation) possible() []Change {
	if o.Outcome == Unknown {
		return slices.Concat(o.Changes, o.Otherwise)
	}
	return o.done()
}

// forever is when unknown outcomes return.
const forever = time.Duration(1<<62 - 1)

// Lose ends an operation of which nobody knows what came.
func (o *Operation) Lose() { o.Return, o.Outcome = forever, Unknown }

// String describes the operation.
func (o *Operation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d [%s, ", o.Client, o.Call)
	if o.Return == forever {
		b.WriteString("?] ")
	} else {
		fmt.Fprintf(&b, "%s] ", o.Return)
	}
	if o.Kind == Read {
		if o.Stale != nil {
			b.WriteString("stale ")
		}
		fmt.Fprintf(&b, "read group %d:", o.Group)
		for i, c := range o.Cells {
			fmt.Fprintf(&b, " %c=%q/%d", 'a'+o.From+i, c.Value, c.Version)
		}
		return b.String()
	}
	fmt.Fprintf(&b, "write group %d:", o.Group)
	if c := o.Condition; c != nil {
		fmt.Fprintf(&b, " if %c=%q", 'a'+c.Key, c.Value)
	}
	describeChanges(&b, o.Changes)
	if len(o.Otherwise) > 0 {
		b.WriteString(" else")
		describeChanges(&b, o.Otherwise)
	}
	switch o.Outcome {
	case Done:
		fmt.Fprintf(&b, " → revision %d of shard %d", o.Revision, o.Shard)
	case CompareFailed:
		fmt.Fprintf(&b, " → compare failed, revision %d of shard %d", o.Revision, o.Shard)
	case Unknown:
		b.WriteString(" → unknown")
	}
	return b.String()
}

func describeChanges(b *strings.Builder, cs []Change) {
	for _, c := range cs {
		if c.Delete {
			fmt.Fprintf(b, " delete %c", 'a'+c.Key)
		} else {
			fmt.Fprintf(b, " %c=%q", 'a'+c.Key, c.Value)
		}
	}
}

// History is everything that clients saw.
type History struct {
	// Operations are those that happened or may have.
	Operations []*Operation
	// Stale are reads that need not show the newest state.
	Stale []*Operation
	// Elsewhere are revisions that are known to have changed no key of a group.
	Elsewhere map[placement.ShardID][]uint64
	// Refused are the values of writes that certainly did not happen: nobody may ever see one.
	Refused map[string]*Operation
}
