package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const rootHelp = `raftkv is a strongly consistent, sharded key-value service.

  raftkv demo                  three nodes on this machine, to try things out
  raftkv serve                 one node; alone it is a cluster of its own
  raftkv put greeting hello    a client; so are get, delete, scan, batch, txn, watch, lease and lock

Clients find the cluster by --endpoints or RAFTKV_ENDPOINTS, the addresses of some of its nodes; by default
127.0.0.1:8080. Commands that read print tables, or JSON with --output json. Errors go to standard error.

Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  the key or lease does not exist
  4  the outcome is unknown: a write may have been applied; read before you write again
  5  unavailable: no node could execute it in time; it was not applied
  6  the condition of a write does not hold; it was not applied
  7  a lock was lost; see 'raftkv lock --help', whose exit codes are mostly those of what it runs`

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "raftkv",
		Short:         "A strongly consistent, sharded key-value service",
		Long:          rootHelp,
		Version:       version,
		SilenceErrors: true, // finish prints them
		SilenceUsage:  true,
	}
	root.AddGroup(
		&cobra.Group{ID: "node", Title: "Nodes:"},
		&cobra.Group{ID: "data", Title: "Keys and values:"},
		&cobra.Group{ID: "admin", Title: "Operation:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("node", newServe(), newDemo())
	add("data", newGet(), newPut(), newDelete(), newScan(), newBatch(), newTxn(), newWatch(), newLease(), newLock())
	add("admin", newStatus(), newNodes(), newShards(), newLog(), newBench())
	root.AddCommand(newVersion())
	group(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	return root
}

// group makes a command one that only holds others: alone it shows its help, with anything else it says what it holds.
func group(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		message := fmt.Sprintf("%q is no command of %s", args[0], cmd.CommandPath())
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			message += "; did you mean " + strings.Join(similar, " or ") + "?"
		}
		return &usageError{errors.New(message)}
	}
}

// arguments makes cobra's complaint about arguments a usageError.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{fmt.Errorf("%w; the command is: %s", err, cmd.UseLine())}
		}
		return nil
	}
}
