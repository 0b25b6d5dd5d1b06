package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

const consistencyHelp = `By default the newest value is read, for which the node asks a majority. With --consistency stale it is what the node has, if that is at most
--max-staleness old (any age without) and holds what --token names, which put, delete, txn and batch print with --output json; else a majority is asked. Without one,
that fails with exit code 5. The age counts from when the node last asked a majority, for such a read, a linearizable one, or a watch.`

// consistencyFlags say how new what is read must be.
type consistencyFlags struct {
	consistency *choiceFlag
	bound       time.Duration
	token       string
}

func addConsistencyFlags(c *cobra.Command) *consistencyFlags {
	f := &consistencyFlags{consistency: newChoice("linearizable", "linearizable", "stale")}
	c.Flags().Var(f.consistency, "consistency", "how new what is read must be")
	_ = c.RegisterFlagCompletionFunc("consistency", cobra.FixedCompletions(f.consistency.values, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags only
	c.Flags().DurationVar(&f.bound, "max-staleness", 0, "how old it may be; 0 is any age (with --consistency stale)")
	c.Flags().StringVar(&f.token, "token", "", "what it must hold: the token of an earlier answer (with --consistency stale)")
	return f
}

// stale says whether what is read may be old.
func (f *consistencyFlags) stale() (bool, error) {
	stale := f.consistency.value == "stale"
	if !stale && (f.bound != 0 || f.token != "") {
		return false, &usageError{errors.New("--max-staleness and --token need --consistency stale")}
	}
	return stale, nil
}

// options are those of a get.
func (f *consistencyFlags) options() ([]raftkv.GetOption, error) {
	stale, err := f.stale()
	if !stale || err != nil {
		return nil, err
	}
	options := []raftkv.GetOption{raftkv.StaleWithin(f.bound)}
	if f.token != "" {
		options = append(options, raftkv.AtLeast(raftkv.Token(f.token)))
	}
	return options, nil
}
