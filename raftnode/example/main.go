// Command example replicates a counter on three nodes in one process.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// counter is the state machine. A command is a number to add.
type counter struct{ total uint64 }

func (c *counter) Apply(_ uint64, command []byte) []byte {
	n, _ := binary.Uvarint(command)
	c.total += n
	return binary.AppendUvarint(nil, c.total)
}

func (c *counter) WriteSnapshot(w io.Writer) error { return binary.Write(w, binary.BigEndian, c.total) }

func (c *counter) ReadSnapshot(r io.Reader) error { return binary.Read(r, binary.BigEndian, &c.total) }

func main() {
	dir, err := os.MkdirTemp("", "counter")
	if err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(run(dir, os.Stdout), os.RemoveAll(dir)); err != nil {
		log.Fatal(err)
	}
}

func run(dir string, out io.Writer) (err error) {
	members := []raftnode.Member{
		{ID: "a", PeerAddress: "127.0.0.1:9181"}, {ID: "b", PeerAddress: "127.0.0.1:9182"}, {ID: "c", PeerAddress: "127.0.0.1:9183"},
	}
	var nodes []*raftnode.Node
	for _, m := range members {
		n, err := raftnode.Open(raftnode.Options{
			NodeID: m.ID, Dir: filepath.Join(dir, string(m.ID)), Members: members,
			Logger:  slog.New(slog.DiscardHandler),
			Machine: func(placement.ShardID) raftnode.StateMachine { return &counter{} },
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, n.Close()) }()
		nodes = append(nodes, n)
	}
	ctx := context.Background()
	for i, n := range nodes {
		if err := n.Formed(ctx); err != nil {
			return err
		}
		answer, err := n.Propose(ctx, raftnode.DataShard, binary.AppendUvarint(nil, uint64(i+1)))
		if err != nil {
			return err
		}
		total, _ := binary.Uvarint(answer)
		fmt.Fprintf(out, "added %d through node %s: %d\n", i+1, members[i].ID, total)
	}
	return nodes[0].Read(ctx, raftnode.DataShard, func(m raftnode.StateMachine) error {
		_, err := fmt.Fprintf(out, "node a reads %d\n", m.(*counter).total)
		return err
	})
}
