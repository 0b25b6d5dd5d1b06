package main

import (
	"errors"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

func newScan() *cobra.Command {
	var (
		r raftkv.Range
		o raftkv.ScanOptions
	)
	c := &cobra.Command{
		Use:   "scan",
		Short: "Print a range of keys in order",
		Long: `Print a range of keys and their values in the order of the keys' bytes: all that begin with --prefix, or from --start
up to but not including --end; all keys without any of them.

With --revision they are as they were then: a revision of their shard, such as a write prints, for a range within one {tag}, or any of a cluster of one
shard. Old revisions are forgotten.

` + consistencyHelp + `

A table shows the beginning of long values. With --output json, every key is a line of its own with the whole value: text
in "value" if it is UTF-8, else base64 in "value_base64". 'raftkv batch --non-atomic' reads such lines.`,
		Example: "  raftkv scan --prefix users/\n  raftkv scan --prefix users/ --revision 7\n  raftkv scan --start a --end b --limit 10 --output json",
		Args:    arguments(cobra.NoArgs),
	}
	flags := c.Flags()
	flags.StringVar(&r.Prefix, "prefix", "", "keys that begin with this")
	flags.StringVar(&r.Start, "start", "", "keys from this one on")
	flags.StringVar(&r.End, "end", "", "keys before this one")
	flags.IntVar(&o.Limit, "limit", 0, "how many keys at most; 0 is no limit")
	flags.BoolVar(&o.Reverse, "reverse", false, "from the last key to the first")
	flags.BoolVar(&o.KeysOnly, "keys-only", false, "leave the values out")
	flags.Uint64Var(&o.Revision, "revision", 0, "the revision at which to read; 0 is now")
	consistency := addConsistencyFlags(c)
	format := newOutput(c)
	scan := withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, _ []string) error {
		p := newPrinter(cmd)
		t := newItemTable(p, o.KeysOnly)
		show := func(i raftkv.Item) error { t.item(i); return nil }
		if format.value == "json" {
			show = func(i raftkv.Item) error { return p.object(itemOf(i, o.KeysOnly)) }
		}
		err := each(cmd, client, r, o, show)
		if format.value != "json" {
			err = errors.Join(err, t.end())
		}
		return p.flush(err)
	})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case r.Prefix != "" && (r.Start != "" || r.End != ""):
			return &usageError{errors.New("--prefix does not go with --start or --end")}
		case o.Revision != 0 && consistency.consistency.value == "stale":
			return &usageError{errors.New("--revision does not go with --consistency stale: any replica that has the revision shows it without asking others")}
		case o.Limit < 0:
			return &usageError{errors.New("--limit must not be negative")}
		}
		var err error
		if o.Stale, err = consistency.stale(); err != nil {
			return err
		}
		o.MaxStaleness, o.AtLeast = consistency.bound, raftkv.Token(consistency.token)
		return scan(cmd, args)
	}
	return c
}

// each shows the items of a range.
func each(cmd *cobra.Command, client *raftkv.Client, r raftkv.Range, o raftkv.ScanOptions, show func(raftkv.Item) error) error {
	for i, err := range client.Scan(cmd.Context(), r, o) {
		if err != nil {
			return err
		}
		if err := show(i); err != nil {
			return err
		}
	}
	return nil
}
