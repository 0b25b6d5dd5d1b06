package raftkv

import (
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// PutOption changes what a Put does.
type PutOption interface{ applyPut(*writeOptions) }

// DeleteOption changes what a Delete does.
type DeleteOption interface{ applyDelete(*writeOptions) }

// Condition is what must hold of a key at the moment in which a write of it is applied; if it does not, nothing is written and the error is a
// *PreconditionFailedError. It is an option of Put and Delete, which take one.
type Condition struct{ message *raftkvv1.Condition }

// IfExists is the condition that the key exists.
func IfExists() Condition { return existence(true) }

// IfAbsent is the condition that the key does not exist.
func IfAbsent() Condition { return existence(false) }

// IfRevision is the condition that the last write of the key made this revision, which is the ModRevision of an Item and the Revision of the
// Result of a Put; 0 says that the key does not exist.
func IfRevision(revision uint64) Condition {
	return Condition{&raftkvv1.Condition{Condition: &raftkvv1.Condition_ModRevision{ModRevision: revision}}}
}

func existence(exists bool) Condition {
	return Condition{&raftkvv1.Condition{Condition: &raftkvv1.Condition_Exists{Exists: exists}}}
}

func (c Condition) applyPut(o *writeOptions)    { o.conditions = append(o.conditions, c) }
func (c Condition) applyDelete(o *writeOptions) { o.conditions = append(o.conditions, c) }

// Previous is the option of a write that its Result, and of a watch that its events have the item as it was before.
func Previous() PreviousOption { return previous{} }

// PreviousOption is an option of Put, Delete and Watch.
type PreviousOption interface {
	WriteOption
	WatchOption
}

// WriteOption is an option of Put and of Delete.
type WriteOption interface {
	PutOption
	DeleteOption
}

type previous struct{}

func (previous) applyPut(o *writeOptions)    { o.previous = true }
func (previous) applyDelete(o *writeOptions) { o.previous = true }

// writeOptions are those of one write.
type writeOptions struct {
	conditions []Condition
	previous   bool
	life       life
}

// GetOption changes what a Get shows.
type GetOption interface{ applyGet(*getOptions) }

// AtRevision is the option to read the key as it was at a revision of its shard, such as the Revision of the Result of a write of the key. 0 is
// now. What is too old is a *CompactedError.
func AtRevision(revision uint64) GetOption { return atRevision(revision) }

type atRevision uint64

func (r atRevision) applyGet(o *getOptions) { o.revision = uint64(r) }

type getOptions struct {
	revision uint64
	stale    stale
}

// condition is the only one, nil if there is none.
func (o *writeOptions) condition() (*raftkvv1.Condition, error) {
	switch {
	case len(o.conditions) == 0:
		return nil, nil
	case len(o.conditions) > 1:
		return nil, &InvalidError{Problem: "a write takes one condition"}
	case o.conditions[0].message == nil:
		return nil, &InvalidError{Problem: "a condition is made by IfExists, IfAbsent or IfRevision"}
	}
	return o.conditions[0].message, nil
}
