package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// leaseView is a lease in JSON. The id is text, because numbers of this size lose digits in many programs.
type leaseView struct {
	Lease       string    `json:"lease"`
	TTLMs       int64     `json:"ttl_ms,omitempty"`
	RemainingMs int64     `json:"remaining_ms,omitempty"`
	Keys        *[]string `json:"keys,omitempty"`
	Revoked     bool      `json:"revoked,omitempty"`
}

func leaseViewOf(l raftkv.LeaseInfo) leaseView {
	return leaseView{Lease: formatLease(l.ID), TTLMs: l.TTL.Milliseconds(), RemainingMs: l.Remaining.Milliseconds()}
}

func newLease() *cobra.Command {
	c := &cobra.Command{
		Use:   "lease",
		Short: "Grant, keep alive and end leases, on which keys hang",
		Long: `Keys that hang on a lease go when the lease ends: when it is revoked, or was not kept alive for its time to live. They may be
of any shards. 'raftkv put --lease ID' puts a key on a lease.`,
	}
	group(c)
	c.AddCommand(newLeaseGrant(), newLeaseKeepAlive(), newLeaseRevoke(), newLeaseGet(), newLeaseList())
	return c
}

func newLeaseGrant() *cobra.Command {
	c := &cobra.Command{
		Use:   "grant TTL",
		Short: "Begin a lease, and print its id",
		Long: `Begin a lease that lives for TTL, as 30s or 1h30m, and print its id. It ends then unless somebody keeps it alive: see
'raftkv lease keep-alive'.`,
		Example: "  id=$(raftkv lease grant 30s) && raftkv put members/me here --lease $id",
		Args:    arguments(cobra.ExactArgs(1)),
	}
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		ttl, err := time.ParseDuration(args[0])
		if err != nil {
			return &usageError{fmt.Errorf("%q is not a time, as 30s or 1h30m", args[0])}
		}
		l, err := client.Grant(cmd.Context(), ttl, raftkv.WithoutKeepAlive())
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(leaseView{Lease: formatLease(l.ID()), TTLMs: l.TTL().Milliseconds()}))
		}
		fmt.Fprintln(p, formatLease(l.ID()))
		return p.flush(nil)
	})
	return c
}

func newLeaseKeepAlive() *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use:   "keep-alive ID",
		Short: "Keep a lease alive until this is interrupted",
		Long: `Keep a lease alive until this is interrupted (Ctrl-C), or once. If the lease does not exist or ends, the exit code is 3; if no node
could be reached before its time was over, 5.`,
		Args: arguments(cobra.ExactArgs(1)),
	}
	c.Flags().BoolVar(&once, "once", false, "prolong it once, and do not wait")
	format := newOutput(c)
	c.RunE = withLease(c, func(cmd *cobra.Command, client *raftkv.Client, id raftkv.LeaseID) error {
		var options []raftkv.GrantOption
		if once {
			options = append(options, raftkv.WithoutKeepAlive())
		}
		l, err := client.ResumeLease(cmd.Context(), id, options...)
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		switch {
		case format.value == "json":
			err = p.object(leaseView{Lease: formatLease(id), TTLMs: l.TTL().Milliseconds()})
		case once:
			fmt.Fprintf(p, "lease %d lives for another %s\n", id, l.TTL())
		default:
			fmt.Fprintf(p, "lease %d is kept alive, for %s at a time, until you press Ctrl-C\n", id, l.TTL())
		}
		if err = p.flush(err); err != nil || once {
			return err
		}
		select {
		case <-l.Done():
			return l.Err()
		case <-cmd.Context().Done():
			return nil
		}
	})
	return c
}

func newLeaseRevoke() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "End a lease, and remove the keys that hang on it",
		Long:  "End a lease. Its keys go: most of them at once, those of other shards within seconds.",
		Args:  arguments(cobra.ExactArgs(1)),
	}
	format := newOutput(c)
	c.RunE = withLease(c, func(cmd *cobra.Command, client *raftkv.Client, id raftkv.LeaseID) error {
		if err := raftkv.RevokeLease(cmd.Context(), client, id); err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(leaseView{Lease: formatLease(id), Revoked: true}))
		}
		fmt.Fprintf(p, "revoked: lease %d\n", id)
		return p.flush(nil)
	})
	return c
}

func newLeaseGet() *cobra.Command {
	var keys bool
	c := &cobra.Command{
		Use:   "get ID",
		Short: "Print a lease",
		Args:  arguments(cobra.ExactArgs(1)),
	}
	c.Flags().BoolVar(&keys, "keys", false, "also print the keys that hang on it, of all shards")
	format := newOutput(c)
	c.RunE = withLease(c, func(cmd *cobra.Command, client *raftkv.Client, id raftkv.LeaseID) error {
		l, err := client.GetLease(cmd.Context(), id)
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(printLeaseJSON(cmd.Context(), p, client, l, keys))
		}
		t := newLeaseTable(p)
		leaseRow(t, l)
		if err := t.end(); err != nil || !keys {
			return p.flush(err)
		}
		for key, err := range client.LeaseKeys(cmd.Context(), id) {
			if err != nil {
				return p.flush(err)
			}
			fmt.Fprintln(p, cell([]byte(key)))
		}
		return p.flush(nil)
	})
	return c
}

func printLeaseJSON(ctx context.Context, p *printer, client *raftkv.Client, l raftkv.LeaseInfo, keys bool) error {
	view := leaseViewOf(l)
	if keys {
		view.Keys = &[]string{}
		for key, err := range client.LeaseKeys(ctx, l.ID) {
			if err != nil {
				return err
			}
			*view.Keys = append(*view.Keys, key)
		}
	}
	return p.object(view)
}

func newLeaseList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the leases",
		Args:  arguments(cobra.NoArgs),
	}
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, _ []string) error {
		p := newPrinter(cmd)
		t := newLeaseTable(p)
		var failed error
		for l, err := range client.ListLeases(cmd.Context()) {
			if failed = err; err != nil {
				break
			}
			if format.value != "json" {
				leaseRow(t, l)
			} else if failed = p.object(leaseViewOf(l)); failed != nil {
				break
			}
		}
		if format.value != "json" {
			failed = errors.Join(failed, t.end())
		}
		return p.flush(failed)
	})
	return c
}

func newLeaseTable(p *printer) *table { return newTable(p, "LEASE", "TTL", "REMAINING") }

func leaseRow(t *table, l raftkv.LeaseInfo) {
	t.row(strconv.FormatUint(uint64(l.ID), 10), l.TTL.String(), l.Remaining.String())
}

// withLease makes the RunE of a command whose argument is a lease.
func withLease(c *cobra.Command, do func(*cobra.Command, *raftkv.Client, raftkv.LeaseID) error) func(*cobra.Command, []string) error {
	run := withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		id, err := parseLease(args[0])
		if err != nil {
			return err
		}
		return do(cmd, client, id)
	})
	return func(cmd *cobra.Command, args []string) error {
		if _, err := parseLease(args[0]); err != nil { // before a node is looked for
			return err
		}
		return run(cmd, args)
	}
}
