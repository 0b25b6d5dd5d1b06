package main

import (
	"errors"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// conditionFlags say what must hold of a key for a command to change it.
type conditionFlags struct {
	absent, exists bool
	revision       uint64
}

// conditionHelp goes into the help of commands that have them.
const conditionHelp = `With --if-… it is done only if that holds of the key when the write is applied; if not, nothing is changed, the error says
at which revision the key is, and the exit code is 6.`

func addConditionFlags(c *cobra.Command) *conditionFlags {
	f := &conditionFlags{}
	c.Flags().BoolVar(&f.exists, "if-exists", false, "only if the key exists")
	c.Flags().Uint64Var(&f.revision, "if-revision", 0, "only if the last write of the key made this revision; 0: only if the key does not exist")
	return f
}

// conditions are those that the command line has, which is one at the most.
func (f *conditionFlags) conditions(c *cobra.Command) ([]raftkv.Condition, error) {
	var out []raftkv.Condition
	if f.absent {
		out = append(out, raftkv.IfAbsent())
	}
	if f.exists {
		out = append(out, raftkv.IfExists())
	}
	if c.Flags().Changed("if-revision") {
		out = append(out, raftkv.IfRevision(f.revision))
	}
	if len(out) > 1 {
		return nil, &usageError{errors.New("there are several conditions; use one of --if-exists, --if-revision and, to put, --if-absent")}
	}
	return out, nil
}
