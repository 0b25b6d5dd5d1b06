package raftnode

import (
	"context"
	"fmt"
	"io"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// StateMachine is a program's own state machine, one for each shard, replicated by a node that embeds raftnode. The node calls it from
// one goroutine at a time.
//
// It need not keep anything on disk: after a restart the node restores it from its newest durable snapshot and applies the log behind
// that again.
type StateMachine interface {
	// Apply applies a command, and returns the answer for its proposer. It must depend on the commands and their order alone: every
	// replica applies the same and must come to the same state.
	Apply(index uint64, command []byte) []byte
	// WriteSnapshot writes the whole state.
	WriteSnapshot(w io.Writer) error
	// ReadSnapshot replaces the whole state by one that WriteSnapshot wrote.
	ReadSnapshot(r io.Reader) error
}

// DataShard is the shard of a cluster with one data shard, for programs with one state machine.
const DataShard placement.ShardID = 1

// Propose replicates a command of the program's own and returns the answer of its state machine, once a majority holds the command
// durably and this shard has applied it. Any node takes it. An error other than *UnknownOutcomeError means that it was not applied. After
// that one the command may have been applied and may be so yet: a program that then proposes again has to tell the two apart itself, by an
// id in the command.
func (n *Node) Propose(ctx context.Context, shard placement.ShardID, command []byte) ([]byte, error) {
	res := n.Do(ctx, &Request{Shard: shard, Command: &storev1.Command{Body: &storev1.Command_Opaque{Opaque: command}}})
	return res.Opaque, res.Err
}

// Read waits until the state machine of this node shows everything that was applied anywhere before the call, and calls view with it. The
// machine does not change while view runs. The node must hold a replica of the shard.
func (n *Node) Read(ctx context.Context, shard placement.ShardID, view func(StateMachine) error) error {
	if !n.serving.Load() {
		return ErrForming
	}
	own, ok := n.engine.(*ownEngine)
	if !ok || n.member(shard) == nil {
		return &InvalidError{Field: "shard", Problem: fmt.Sprintf("this node runs no state machine of its own for shard %d", shard)}
	}
	res := n.Do(ctx, &Request{Shard: shard, Read: &peerv1.ReadRequest{}})
	if res.Err != nil {
		return res.Err
	}
	return own.look(shard, view)
}
