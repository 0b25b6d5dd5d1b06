package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// Exit codes; rootHelp documents them.
const (
	exitDone = iota
	exitFailed
	exitUsage
	exitNotFound
	exitUnknown
	exitUnavailable
	exitCondition
	exitLost
	exitNotStarted = 127
)

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// unreachableError says that no node answered at all.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string {
	return e.err.Error() + "; is a node running there? Say where one is with --endpoints or " + envEndpoints
}
func (e *unreachableError) Unwrap() error { return e.err }

// codedError is an error that knows its exit code.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// finish tells the user how a command ended.
func finish(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	if command := (*commandError)(nil); errors.As(err, &command) {
		return command.code()
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "raftkv:", err)
	var usage *usageError
	var cross *raftkv.CrossShardError
	var unknown *raftkv.OutcomeUnknownError
	var notLeader *raftkv.NotLeaderError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(cmd.ErrOrStderr(), "See '%s --help'.\n", cmd.CommandPath())
	case errors.As(err, &cross):
		for _, g := range cross.Groups {
			fmt.Fprintf(cmd.ErrOrStderr(), "  shard %d: %s\n", g.Shard, someKeys(g.Keys))
		}
	case errors.As(err, &notLeader) && notLeader.Leader == "" && !errors.As(err, &unknown):
		fmt.Fprintf(cmd.ErrOrStderr(), "Shard %d has no leader, for which a majority of its nodes must be up and reach each other. Nothing was applied.\n"+
			"'raftkv status' shows which nodes are missing; try again when enough of them are back.\n", notLeader.Shard)
	}
	return exitCode(err)
}

// exitCode sorts an error. The order matters: what may have been applied is unknown whatever its cause.
func exitCode(err error) int {
	var (
		usage       *usageError
		coded       *codedError
		unknown     *raftkv.OutcomeUnknownError
		invalid     *raftkv.InvalidError
		notLeader   *raftkv.NotLeaderError
		stale       *raftkv.StaleRouteError
		overloaded  *raftkv.OverloadedError
		full        *raftkv.DiskFullError
		unreachable *unreachableError
		failed      *raftkv.PreconditionFailedError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage), isConfigError(err):
		return exitUsage
	case errors.As(err, &unknown):
		return exitUnknown
	case errors.Is(err, raftkv.ErrNotFound), errors.As(err, new(*raftkv.LeaseNotFoundError)):
		return exitNotFound
	case errors.As(err, &failed):
		return exitCondition
	case errors.As(err, &invalid):
		return exitUsage
	case errors.Is(err, raftkv.ErrRefused):
		return exitFailed
	case errors.Is(err, raftkv.ErrLeaseLost), errors.Is(err, raftkv.ErrUnavailable), errors.Is(err, raftkv.ErrTimeout),
		errors.As(err, &notLeader), errors.As(err, &stale), errors.As(err, &overloaded), errors.As(err, &full), errors.As(err, &unreachable):
		return exitUnavailable
	}
	return exitFailed
}

// someKeys shows the first keys of a list.
func someKeys(keys []string) string {
	const shown = 5
	var b strings.Builder
	for i, k := range keys {
		if i == shown {
			fmt.Fprintf(&b, " and %d more", len(keys)-shown)
			break
		}
		if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(cell([]byte(k)))
	}
	return b.String()
}
