package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// item is a key and its value in JSON: the value as text if it is UTF-8, which is lossless, else in base64.
type item struct {
	Key            string  `json:"key"`
	Value          *string `json:"value,omitempty"`
	ValueBase64    *string `json:"value_base64,omitempty"`
	CreateRevision uint64  `json:"create_revision,omitempty"`
	ModRevision    uint64  `json:"mod_revision,omitempty"`
	Version        uint64  `json:"version,omitempty"`
	TTLMs          int64   `json:"ttl_ms,omitempty"`
	// Lease is text, because numbers of this size lose digits in many programs.
	Lease string `json:"lease,omitempty"`
}

func itemOf(i raftkv.Item, keysOnly bool) item {
	out := item{Key: i.Key, CreateRevision: i.CreateRevision, ModRevision: i.ModRevision, Version: i.Version, TTLMs: i.TTL.Milliseconds()}
	if i.Lease != 0 {
		out.Lease = formatLease(i.Lease)
	}
	switch {
	case keysOnly:
	case utf8.Valid(i.Value):
		out.Value = new(string(i.Value))
	default:
		out.ValueBase64 = new(base64.StdEncoding.EncodeToString(i.Value))
	}
	return out
}

// written is the result of a write in JSON.
type written struct {
	Key      string `json:"key,omitempty"`
	Revision uint64 `json:"revision"`
	Shard    uint32 `json:"shard"`
	Version  uint64 `json:"version,omitempty"`
	Deleted  *bool  `json:"deleted,omitempty"`
	// Token is for later reads that must not be behind the write.
	Token raftkv.Token `json:"token,omitempty"`
}

func newGet() *cobra.Command {
	format := newChoice("value", "value", "table", "json")
	var revision uint64
	c := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Long: `Print the value of a key: exactly its bytes, with nothing added. With --output table or json, also its revisions.
In JSON the value is text in "value" if it is UTF-8, else base64 in "value_base64"; "ttl_ms" is what is left of its time to live, "lease" the lease on which
it hangs.

With --revision it is the value that the key had then: a revision of its shard, such as a write prints. Old ones are forgotten.

` + consistencyHelp + `

A key that does not exist is exit code 3.`,
		Example: "  raftkv get greeting\n  raftkv get photo > photo.jpg\n  raftkv get greeting --revision 7\n  raftkv get greeting --consistency stale --max-staleness 5s",
		Args:    arguments(cobra.ExactArgs(1)),
	}
	format.add(c)
	c.Flags().Uint64Var(&revision, "revision", 0, "the revision at which to read; 0 is now")
	consistency := addConsistencyFlags(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		options, err := consistency.options()
		if err != nil {
			return err
		}
		got, err := client.Get(cmd.Context(), args[0], append(options, raftkv.AtRevision(revision))...)
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		switch format.value {
		case "json":
			err = p.object(itemOf(got, false))
		case "table":
			t := newItemTable(p, false)
			t.item(got)
			err = t.end()
		default:
			_, err = p.Write(got.Value)
		}
		return p.flush(err)
	})
	return c
}

func newPut() *cobra.Command {
	c := &cobra.Command{
		Use:   "put KEY VALUE|-",
		Short: "Write a key",
		Long: `Write a key, whether or not it exists. The value - is read from standard input, as it is; to write a single
dash, put it there: printf - | raftkv put KEY -

` + conditionHelp + `

` + lifeHelp + `

The write is retried until --timeout, and applied once. If its outcome is not known then, the exit code is 4.`,
		Example: "  raftkv put greeting hello\n  raftkv put session abc --ttl 30m\n  raftkv put photo - < photo.jpg\n  raftkv put lock me --if-absent",
		Args:    arguments(cobra.ExactArgs(2)),
	}
	format := newOutput(c)
	flags := addConditionFlags(c)
	life := addLifeFlags(c)
	c.Flags().BoolVar(&flags.absent, "if-absent", false, "only if the key does not exist")
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		conditions, err := flags.conditions(cmd)
		if err != nil {
			return err
		}
		lives, err := life.lives(cmd)
		if err != nil {
			return err
		}
		var options []raftkv.PutOption
		for _, condition := range conditions {
			options = append(options, condition)
		}
		for _, l := range lives {
			options = append(options, l)
		}
		value := []byte(args[1])
		if args[1] == "-" {
			if value, err = io.ReadAll(cmd.InOrStdin()); err != nil {
				return fmt.Errorf("read the value from standard input: %w", err)
			}
		}
		r, err := client.Put(cmd.Context(), args[0], value, options...)
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(written{Key: args[0], Revision: r.Revision, Shard: uint32(r.Shard), Version: r.Version, Token: client.TokenAt(r.Shard, r.Revision)}))
		}
		fmt.Fprintf(p, "written: revision %d, version %d\n", r.Revision, r.Version)
		return p.flush(nil)
	})
	return c
}

func newDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete KEY",
		Aliases: []string{"del"},
		Short:   "Remove a key",
		Long: `Remove a key. Removing one that does not exist succeeds and changes nothing.

` + conditionHelp + `

The write is retried until --timeout, and applied once. If its outcome is not known then, the exit code is 4.`,
		Args: arguments(cobra.ExactArgs(1)),
	}
	format := newOutput(c)
	flags := addConditionFlags(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		conditions, err := flags.conditions(cmd)
		if err != nil {
			return err
		}
		var options []raftkv.DeleteOption
		for _, condition := range conditions {
			options = append(options, condition)
		}
		r, err := client.Delete(cmd.Context(), args[0], options...)
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		switch {
		case format.value == "json":
			return p.flush(p.object(written{Key: args[0], Revision: r.Revision, Shard: uint32(r.Shard), Deleted: &r.Deleted, Token: client.TokenAt(r.Shard, r.Revision)}))
		case r.Deleted:
			fmt.Fprintf(p, "deleted: revision %d\n", r.Revision)
		default:
			fmt.Fprintln(p, "nothing to delete: the key does not exist")
		}
		return p.flush(nil)
	})
	return c
}

// itemTable prints items with aligned columns.
type itemTable struct {
	*table
	keysOnly bool
}

func newItemTable(p *printer, keysOnly bool) itemTable {
	columns := []string{"KEY", "REVISION", "VERSION", "VALUE"}
	if keysOnly {
		columns = columns[:3]
	}
	return itemTable{newTable(p, columns...), keysOnly}
}

func (t itemTable) item(i raftkv.Item) {
	cells := []string{cell([]byte(i.Key)), strconv.FormatUint(i.ModRevision, 10), strconv.FormatUint(i.Version, 10)}
	if !t.keysOnly {
		cells = append(cells, cell(i.Value))
	}
	t.row(cells...)
}
