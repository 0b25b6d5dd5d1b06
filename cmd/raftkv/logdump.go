package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const logDumpHelp = `Print the Raft log in the data directory of a stopped node: every entry's shard, index, term, length in bytes, type and
decoded commands. Nothing in the directory is changed. While a node runs on it, it is refused.

The log holds what recovery and lagging nodes need; what is flushed into the state is cut off now and then. --from and --to
are indexes, both included. In JSON, every shard and every entry is a line of its own, with whole values in base64.`

func newLog() *cobra.Command {
	c := &cobra.Command{Use: "log", Short: "Look into the logs of a stopped node"}
	group(c)
	c.AddCommand(newLogDump())
	return c
}

// dumpRange is what to print.
type dumpRange struct {
	shards   []uint
	from, to uint64
}

func newLogDump() *cobra.Command {
	var (
		dir string
		r   dumpRange
	)
	c := &cobra.Command{
		Use:     "dump --data DIR",
		Short:   "Print the entries of the Raft logs",
		Long:    logDumpHelp,
		Example: "  raftkv log dump --data data --shard 1 --from 100",
		Args:    arguments(cobra.NoArgs),
	}
	c.Flags().StringVar(&dir, "data", "", "data directory of the node")
	c.Flags().UintSliceVar(&r.shards, "shard", nil, "shards to print (default all)")
	c.Flags().Uint64Var(&r.from, "from", 0, "first index")
	c.Flags().Uint64Var(&r.to, "to", math.MaxUint64-1, "last index")
	c.Flag("to").DefValue = "the last"
	format := newOutput(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if dir == "" {
			return &usageError{errors.New("--data is missing: name the data directory of the node")}
		}
		if r.from > r.to {
			return &usageError{fmt.Errorf("--from %d lies behind --to %d", r.from, r.to)}
		}
		return dumpDir(cmd, dir, r, format.value == "json")
	}
	return c
}

// dumpDir locks a data directory and prints its logs.
func dumpDir(cmd *cobra.Command, dir string, r dumpRange, asJSON bool) (err error) {
	lock, err := raftnode.LockDir(vfs.Default, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	log, closeLog, err := openCopy(raftnode.LogDir(vfs.Default, dir), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	for _, d := range log.Damaged() {
		fmt.Fprintln(cmd.ErrOrStderr(), "raftkv:", d)
	}
	p := newPrinter(cmd)
	d := dumper{log: log, r: r, out: newTableDump(p)}
	if asJSON {
		d.out = jsonDump{p}
	}
	return p.flush(d.run())
}

// openCopy opens the log as a copy made of links. Opening a log writes to it: it starts a new segment and gives up old ones. Those
// names change in the copy only, and without recycling no file that has content is ever written again.
func openCopy(dir string, logger *slog.Logger) (*logstore.Log, func() error, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the log: %w", err)
	}
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s does not exist: the cluster of this node has not formed yet", dir)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open the log: %w", err)
	}
	links, err := os.MkdirTemp("", "raftkv-log-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	remove := func() error { return os.RemoveAll(links) }
	for _, n := range names {
		if err := os.Symlink(filepath.Join(dir, n.Name()), filepath.Join(links, n.Name())); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("make a temporary copy of the log: %w", err), remove())
		}
	}
	log, err := logstore.Open(links, logstore.Options{
		SegmentBytes: mebibyte, RecycleSegments: -1, NoSync: true, Logger: logger,
	})
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return log, func() error { return errors.Join(log.Close(), remove()) }, nil
}

// dumpOutput is a form of the dump.
type dumpOutput interface {
	shard(id placement.ShardID, s logstore.State) error
	entry(id placement.ShardID, e *raftpb.Entry, d decoded) error
	end() error
}

// dumper prints what a log holds.
type dumper struct {
	log *logstore.Log
	r   dumpRange
	out dumpOutput
}

func (d *dumper) run() error {
	known := d.log.Shards()
	wanted := known
	if len(d.r.shards) > 0 {
		wanted = nil
		for _, n := range d.r.shards {
			id := placement.ShardID(n) //nolint:gosec // a number that is too large is not among those known
			if uint(id) != n || !slices.Contains(known, id) {
				return fmt.Errorf("there is no shard %d here; there are %s", n, strings.Trim(fmt.Sprint(known), "[]"))
			}
			wanted = append(wanted, id)
		}
	}
	for _, id := range wanted {
		if err := d.one(id); err != nil {
			return errors.Join(err, d.out.end())
		}
	}
	return d.out.end()
}

// dumpChunk is how much is read at a time.
const dumpChunk = 1 << 20

func (d *dumper) one(id placement.ShardID) error {
	s, _ := d.log.State(id)
	if err := d.out.shard(id, s); err != nil {
		return err
	}
	next, last := max(d.r.from, s.TruncatedIndex+1), min(d.r.to, s.LastIndex)
	for next <= last {
		entries, err := d.log.Entries(id, next, last+1, dumpChunk)
		if err != nil {
			return fmt.Errorf("shard %d from index %d: %w", id, next, err)
		}
		if len(entries) == 0 {
			return fmt.Errorf("shard %d from index %d: %w", id, next, io.ErrUnexpectedEOF)
		}
		for _, e := range entries {
			if err := d.out.entry(id, e, decode(e)); err != nil {
				return err
			}
		}
		next += uint64(len(entries))
	}
	return nil
}
