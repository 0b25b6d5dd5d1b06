package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

const batchHelp = `Apply the puts and deletes of a file, or of standard input: all of them or none, under one revision. The keys must live
on one shard (with one shard they all do; keys with the same {tag} always do), each at most once, 1,000 in all.

With --non-atomic every line is applied by itself. There may be any number, on any shards; lines of one key are applied in their
order. Lines that fail are reported, and the others are applied all the same; after ten failures, or behind a line that is none of
those below, no more lines are read.

A line is one of
  put KEY VALUE
  delete KEY
  {"op":"put","key":KEY,"value":TEXT}
  {"op":"put","key":KEY,"value_base64":BASE64}
  {"op":"delete","key":KEY}
Words are separated by blanks. A word in double quotes may hold anything, with the escapes \" \\ \n \t \x00 \u00e9.
In JSON, the operation is put if there is none, so that lines of 'raftkv scan --output json' can be loaded. It must be valid
UTF-8 without halves of surrogate pairs; bytes that are no text go into value_base64. A put may have "ttl_ms", how many milliseconds the key lives, or
"lease", the id of the lease on which it hangs, as text.
Empty lines and lines that begin with # are skipped.`

func newBatch() *cobra.Command {
	var nonAtomic bool
	c := &cobra.Command{
		Use:     "batch [FILE]",
		Short:   "Apply many puts and deletes",
		Long:    batchHelp,
		Example: "  printf 'put a 1\\nput b \"two words\"\\ndelete c\\n' | raftkv batch\n  raftkv batch --non-atomic dump.jsonl",
		Args:    arguments(cobra.MaximumNArgs(1)),
	}
	c.Flags().BoolVar(&nonAtomic, "non-atomic", false, "apply every line by itself")
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		in, err := openInput(cmd, args)
		if err != nil {
			return err
		}
		defer in.Close() // it was only read
		if nonAtomic {
			return loadEach(cmd, client, in, in.size, format.value == "json")
		}
		return applyBatch(cmd, client, in, format.value == "json")
	})
	return c
}

// input is the file that a command reads, or its standard input.
type input struct {
	io.ReadCloser
	// size is negative if it is not known.
	size int64
}

// openInput opens the file that the only argument names. Without one, or if it is -, that is standard input.
func openInput(cmd *cobra.Command, args []string) (*input, error) {
	if len(args) == 0 || args[0] == "-" {
		return &input{io.NopCloser(cmd.InOrStdin()), -1}, nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, fmt.Errorf("read the operations: %w", err)
	}
	size := int64(-1)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return &input{f, size}, nil
}

// applyBatch applies everything in one command.
func applyBatch(cmd *cobra.Command, client *raftkv.Client, in io.Reader, asJSON bool) error {
	var ops []raftkv.Op
	if err := operations(in, func(o operation) bool { ops = append(ops, o.op()); return true }); err != nil {
		var bad *lineError
		if errors.As(err, &bad) {
			return &usageError{err}
		}
		return err
	}
	r, err := client.Batch(cmd.Context(), ops...)
	if err != nil {
		return err
	}
	p := newPrinter(cmd)
	if asJSON {
		return p.flush(p.object(batchDone{len(ops), r.Revision, uint32(r.Shard), client.TokenAt(r.Shard, r.Revision)}))
	}
	fmt.Fprintf(p, "applied %d operations: revision %d\n", len(ops), r.Revision)
	return p.flush(nil)
}

// batchDone is the result of a batch in JSON, loadDone that of --non-atomic. Token is for later reads that must not be behind what was applied.
type (
	batchDone struct {
		Operations int          `json:"operations"`
		Revision   uint64       `json:"revision"`
		Shard      uint32       `json:"shard"`
		Token      raftkv.Token `json:"token,omitempty"`
	}
	loadDone struct {
		Applied int          `json:"applied"`
		Failed  int          `json:"failed"`
		Unknown int          `json:"unknown"`
		Token   raftkv.Token `json:"token,omitempty"`
	}
)

const (
	loaders = 256
	// failuresMax is after how many failed lines loading stops: more are not likely to have a reason of their own.
	failuresMax = 10
	// progressThrottle is how often the progress bar is drawn, at most.
	progressThrottle = 100 * time.Millisecond
)

// load applies operations one by one, many at once. Operations of one key go to the same loader, which keeps their order.
type load struct {
	client *raftkv.Client
	report func(error)

	// mu guards what follows. A leaf, except that report is called under it, so that reports do not mix.
	mu              sync.Mutex
	applied, failed int
	unknown         int
	code            int
	// tooMany is closed at failuresMax.
	tooMany chan struct{}
}

func loadEach(cmd *cobra.Command, client *raftkv.Client, in io.Reader, size int64, asJSON bool) error {
	bar := newProgress(cmd, size)
	l := &load{client: client, tooMany: make(chan struct{}), report: func(err error) {
		_ = bar.Clear() // a terminal that is gone needs none
		fmt.Fprintln(cmd.ErrOrStderr(), "raftkv:", err)
	}}
	reading := l.run(cmd.Context(), io.TeeReader(in, bar))
	_ = bar.Finish() // the same
	p := newPrinter(cmd)
	var err error
	if asJSON {
		err = p.object(loadDone{l.applied, l.failed, l.unknown, client.Token()})
	} else {
		fmt.Fprintf(p, "applied %d operations\n", l.applied)
	}
	switch {
	case l.failed > 0:
		err = &codedError{l.code, fmt.Errorf("%d operations failed, of %d of them the outcome is unknown", l.failed, l.unknown)}
	case reading != nil:
		err = fmt.Errorf("%w; the %d operations before it were applied", reading, l.applied)
	}
	return p.flush(err)
}

// run reads in to its end, or until something is wrong with it, and returns when everything read is answered.
func (l *load) run(ctx context.Context, in io.Reader) error {
	var all sync.WaitGroup
	queues := make([]chan operation, loaders)
	for i := range queues {
		queues[i] = make(chan operation, 4)
		all.Go(func() {
			for o := range queues[i] {
				l.apply(ctx, &o)
			}
		})
	}
	err := operations(in, func(o operation) bool {
		h := fnv.New32a()
		_, _ = io.WriteString(h, o.key) // never fails
		select {
		case queues[h.Sum32()%loaders] <- o:
			return true
		case <-l.tooMany:
		case <-ctx.Done():
		}
		return false
	})
	for _, q := range queues {
		close(q)
	}
	all.Wait()
	return errors.Join(err, ctx.Err())
}

func (l *load) apply(ctx context.Context, o *operation) {
	var err error
	if o.remove {
		_, err = l.client.Delete(ctx, o.key)
	} else {
		var options []raftkv.PutOption
		for _, life := range o.lives {
			options = append(options, life)
		}
		_, err = l.client.Put(ctx, o.key, o.value, options...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.applied++
		return
	}
	l.failed++
	code := exitCode(err)
	if code == exitUnknown {
		l.unknown++
	}
	// What may have been applied is the worst that can be said of the whole.
	if l.code == exitDone || code == exitUnknown {
		l.code = code
	}
	if l.failed <= failuresMax {
		l.report(&lineError{o.line, err})
	}
	if l.failed == failuresMax {
		close(l.tooMany)
	}
}

// newProgress shows on a terminal how far reading has come; size is negative if the end is not known.
func newProgress(cmd *cobra.Command, size int64) *progressbar.ProgressBar {
	f, ok := cmd.ErrOrStderr().(*os.File)
	visible := ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // descriptors are small
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetVisibility(visible),
		progressbar.OptionShowBytes(true), progressbar.OptionSetDescription("loading"),
		progressbar.OptionThrottle(progressThrottle), progressbar.OptionClearOnFinish(),
	)
}
