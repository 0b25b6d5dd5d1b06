package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

const watchHelp = `Print every change of a key, of all keys that begin with --prefix (--prefix '' is all keys), or of those from --start up to but not including --end, from now on,
until this is interrupted (Ctrl-C) or nobody reads its output any more; both are exit code 0. If a node fails, the watch goes on at another, without a gap and
without repeating anything. --no-puts and --no-deletes leave such changes out.

With --initial, the keys that are there come first, then 'initial done'. With --from-revision it begins with that revision of the shard of the keys; for several
shards, each of which counts its own, use --token. With --token it goes on behind the event that had the token in JSON.

With --output json, every event is a line: "type" is put, delete, initial, initial_done or, with --progress, progress. The value is text in "value" if it
is UTF-8, else base64 in "value_base64". "mod_revision" is the revision of the change. "token" is where to go on.

If the history is gone from which it should go on, that is exit code 1, and the error says which is the oldest revision.`

// watchFlags are those of watch.
type watchFlags struct {
	keys              raftkv.Range
	token             string
	revision          uint64
	initial, prev     bool
	noPuts, noDeletes bool
	count             int
	progress          time.Duration
}

func newWatch() *cobra.Command {
	f := &watchFlags{}
	c := &cobra.Command{
		Use:   "watch KEY | watch --prefix PREFIX | watch --start KEY --end KEY",
		Short: "Print the changes of keys as they happen",
		Long:  watchHelp,
		Example: "  raftkv watch greeting\n  raftkv watch --prefix config/ --initial\n  raftkv watch --start a --end b --no-deletes\n" +
			"  raftkv watch --prefix config/ --output json | while read -r line; do …; done",
		Args: arguments(cobra.MaximumNArgs(1)),
	}
	flags := c.Flags()
	flags.StringVar(&f.keys.Prefix, "prefix", "", "all keys that begin with this")
	flags.StringVar(&f.keys.Start, "start", "", "keys from this one on")
	flags.StringVar(&f.keys.End, "end", "", "keys before this one")
	flags.Uint64Var(&f.revision, "from-revision", 0, "the revision to begin with; 0 is now")
	flags.StringVar(&f.token, "token", "", "go on behind the event that had this token")
	flags.BoolVar(&f.initial, "initial", false, "print the keys that are there first")
	flags.BoolVar(&f.prev, "prev", false, "also print what changes replace")
	flags.BoolVar(&f.noPuts, "no-puts", false, "leave the puts out")
	flags.BoolVar(&f.noDeletes, "no-deletes", false, "leave the deletes out")
	flags.DurationVar(&f.progress, "progress", 0, "print how far the watch is when nothing has changed for that long, at least 100ms; 0 is never")
	flags.IntVar(&f.count, "count", 0, "end after so many lines; 0 is no limit")
	format := newOutput(c)
	watch := withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		return f.watch(cmd, client, args, format.value == "json")
	})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		prefix, bounds := flags.Changed("prefix"), flags.Changed("start") || flags.Changed("end")
		switch {
		case prefix && bounds:
			return &usageError{errors.New("--prefix does not go with --start or --end")}
		case (len(args) == 0) == !(prefix || bounds):
			return &usageError{errors.New("say what to watch: KEY, --prefix, or --start with --end")}
		case f.noPuts && f.noDeletes:
			return &usageError{errors.New("--no-puts and --no-deletes together leave nothing to watch")}
		case f.count < 0:
			return &usageError{errors.New("--count must not be negative")}
		case f.token != "" && (f.revision != 0 || f.initial):
			return &usageError{errors.New("--token does not go with --from-revision or --initial: it says where to go on")}
		}
		return watch(cmd, args)
	}
	return c
}

func (f *watchFlags) options() []raftkv.WatchOption {
	var o []raftkv.WatchOption
	if f.revision != 0 {
		o = append(o, raftkv.FromRevision(f.revision))
	}
	if f.token != "" {
		o = append(o, raftkv.FromToken(f.token))
	}
	if f.initial {
		o = append(o, raftkv.IncludeInitial())
	}
	if f.prev {
		o = append(o, raftkv.Previous())
	}
	if f.noPuts {
		o = append(o, raftkv.WithoutPuts())
	}
	if f.noDeletes {
		o = append(o, raftkv.WithoutDeletes())
	}
	if f.progress != 0 {
		o = append(o, raftkv.WithProgress(f.progress))
	}
	return o
}

func (f *watchFlags) watch(cmd *cobra.Command, client *raftkv.Client, args []string, asJSON bool) error {
	signal.Ignore(syscall.SIGPIPE) // a reader that has gone is an error of a write, and not the end of this process
	var what raftkv.Watchable = f.keys
	if len(args) > 0 {
		what = raftkv.Key(args[0])
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() { closed(ctx, cmd.OutOrStdout(), cancel) })
	p, lines := newPrinter(cmd), 0
	for event, err := range client.Watch(ctx, what, f.options()...) {
		if ctx.Err() != nil {
			return nil // interrupted, or nobody reads any more
		}
		if err != nil {
			return err
		}
		if asJSON {
			err = p.object(watchLineOf(event))
		} else {
			printEvent(p, event)
		}
		// Each line at once: the next may be long in coming.
		if err = p.flush(err); errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		if lines++; err != nil || lines == f.count {
			return err
		}
	}
	return nil
}

// watchLine is an event in JSON.
type watchLine struct {
	Type string `json:"type"`
	*item
	Previous *item          `json:"previous,omitempty"`
	Expired  bool           `json:"expired,omitempty"`
	Shard    uint32         `json:"shard,omitempty"`
	Progress []watchedShard `json:"progress,omitempty"`
	Token    string         `json:"token"`
}

// watchedShard is how far a watch is in a shard.
type watchedShard struct {
	Shard    uint32 `json:"shard"`
	Revision uint64 `json:"revision"`
	AgeMs    *int64 `json:"age_ms,omitempty"`
}

func watchLineOf(e *raftkv.Event) watchLine {
	out := watchLine{Type: eventName(e), Expired: e.Expired, Token: e.Token()}
	switch e.Type {
	case raftkv.EventPut:
		out.item = new(itemOf(e.Item, false))
	case raftkv.EventDelete:
		out.item = new(itemOf(e.Item, true))
	case raftkv.EventProgress:
		for _, p := range e.Progress {
			one := watchedShard{Shard: uint32(p.Shard), Revision: p.Revision}
			if p.Age >= 0 {
				one.AgeMs = new(p.Age.Milliseconds())
			}
			out.Progress = append(out.Progress, one)
		}
	}
	if out.item != nil {
		out.Shard = uint32(e.Shard)
	}
	if e.Previous != nil {
		out.Previous = new(itemOf(*e.Previous, false))
	}
	return out
}

// eventName is the type of an event in output.
func eventName(e *raftkv.Event) string {
	switch {
	case e.Initial:
		return "initial"
	case e.Type == raftkv.EventPut:
		return "put"
	case e.Type == raftkv.EventDelete:
		return "delete"
	case e.Type == raftkv.EventInitialDone:
		return "initial_done"
	default:
		return "progress"
	}
}

func printEvent(p *printer, e *raftkv.Event) {
	switch e.Type {
	case raftkv.EventPut:
		fmt.Fprintf(p, "%s %s: %s\n", eventName(e), cell([]byte(e.Item.Key)), describeItem(&e.Item))
	case raftkv.EventDelete:
		why := ""
		if e.Expired {
			why = ", expired"
		}
		fmt.Fprintf(p, "delete %s: revision %d%s\n", cell([]byte(e.Item.Key)), e.Revision, why)
	case raftkv.EventInitialDone:
		fmt.Fprintln(p, "initial done")
	case raftkv.EventProgress:
		for _, s := range e.Progress {
			if s.Age < 0 {
				fmt.Fprintf(p, "progress: shard %d up to revision %d, catching up\n", s.Shard, s.Revision)
				continue
			}
			fmt.Fprintf(p, "progress: shard %d up to revision %d, as of %s ago\n", s.Shard, s.Revision, s.Age)
		}
	}
	if e.Previous != nil {
		fmt.Fprintf(p, "  before: %s\n", describeItem(e.Previous))
	}
}
