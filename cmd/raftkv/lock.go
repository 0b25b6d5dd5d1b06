package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// Environment of a command that runs under a lock.
const (
	envLockKey   = "RAFTKV_LOCK_KEY"
	envLockToken = "RAFTKV_LOCK_TOKEN"
)

const lockHelp = `Take a lock, run a command while it is held, and give it back. The lock is the key NAME; who holds it is its value.
Those who wait get it in the order in which they came.

If the holder dies, others get the lock after --ttl. If the lock is lost while the command runs (its key was removed, or the cluster could not be reached
for nearly that long), the command gets SIGTERM, and SIGKILL after --grace. No program can be sure that it ends before another holder begins: what must not be
done twice should refuse tokens lower than the highest that it has seen. The command has the token, a number that grows from holder to
holder, as ` + envLockToken + `, and the key as ` + envLockKey + `.

The exit code is that of the command, or 128 and the number of the signal that ended it. Otherwise
  6    the lock was not to be had within --wait
  7    the lock was lost while the command ran
  127  the command could not be started
and those of other commands of raftkv for what goes wrong before the command starts.`

func newLock() *cobra.Command {
	var ttl, wait, grace time.Duration
	c := &cobra.Command{
		Use:     "lock NAME -- COMMAND [ARGUMENT...]",
		Short:   "Run a command while holding a lock",
		Long:    lockHelp,
		Example: "  raftkv lock jobs/backup -- ./backup.sh\n  raftkv lock jobs/backup --wait 0s -- ./backup.sh",
	}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
			return &usageError{errors.New("say which lock and what to run: raftkv lock NAME -- COMMAND")}
		}
		return nil
	}
	flags := c.Flags()
	flags.DurationVar(&ttl, "ttl", 10*time.Second, "how long the lock stands when its holder is gone")
	flags.DurationVar(&wait, "wait", 0, "how long to wait for the lock; 0s is not at all (default for ever)")
	flags.DurationVar(&grace, "grace", 5*time.Second, "how long the command may take to end when the lock is lost, or this is interrupted")
	run := withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		if !cmd.Flags().Changed("wait") {
			wait = -1
		}
		l, err := takeLock(cmd, client, args[0], ttl, wait)
		if err != nil {
			return err
		}
		return runLocked(cmd, l, args[1:], grace)
	})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case wait < 0:
			return &usageError{errors.New("--wait must not be negative; leave it out to wait for ever")}
		case grace < 0:
			return &usageError{errors.New("--grace must not be negative")}
		}
		return run(cmd, args)
	}
	return c
}

// takeLock waits for a lock; a negative wait is for ever.
func takeLock(cmd *cobra.Command, client *raftkv.Client, key string, ttl, wait time.Duration) (*recipes.Lock, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	options := []recipes.Option{recipes.WithTTL(ttl), recipes.WithValue(fmt.Appendf(nil, "%s, process %d", host, os.Getpid()))}
	ctx, held := cmd.Context(), error(nil)
	if wait >= 0 {
		var l *recipes.Lock
		l, held = recipes.TryAcquire(ctx, client, key, options...)
		if held == nil || !errors.Is(held, recipes.ErrHeld) {
			return l, held
		}
		if wait == 0 {
			return nil, lockHeld(held)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	l, err := recipes.Acquire(ctx, client, key, options...)
	if err != nil && held != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, lockHeld(held)
	}
	return l, err
}

func lockHeld(err error) error {
	var held *recipes.HeldError
	if errors.As(err, &held) && len(held.Value) > 0 {
		err = fmt.Errorf("%w: %s", err, cell(held.Value))
	}
	return &codedError{exitCondition, err}
}

// runLocked runs a command while the lock is held, and gives it back.
func runLocked(cmd *cobra.Command, l *recipes.Lock, command []string, grace time.Duration) error {
	ctx, cancel := l.Context(cmd.Context())
	defer cancel()
	child := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // running what the user says is what this is for
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	child.Env = append(os.Environ(), envLockKey+"="+l.Key(), envLockToken+"="+strconv.FormatUint(l.Token(), 10))
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.WaitDelay = grace
	ran := child.Run()
	release, done := context.WithTimeout(context.WithoutCancel(cmd.Context()), connectTimeout)
	defer done()
	released := l.Release(release)
	var exited *exec.ExitError
	switch {
	case errors.Is(released, recipes.ErrLost):
		return &codedError{exitLost, released}
	case ran != nil && child.ProcessState == nil:
		return &codedError{exitNotStarted, fmt.Errorf("run the command: %w", ran)}
	case errors.As(ran, &exited):
		return &commandError{exited}
	case ran != nil && child.ProcessState.ExitCode() != 0: // it was ended because this was interrupted
		return &commandError{&exec.ExitError{ProcessState: child.ProcessState}}
	case released != nil:
		fmt.Fprintln(cmd.ErrOrStderr(), "raftkv: the lock could not be given back, so it stands until its time is over:", released)
	}
	return nil
}

// commandError is that a command which ran under a lock has failed. It has said itself why.
type commandError struct{ exited *exec.ExitError }

func (e *commandError) Error() string { return "the command failed: " + e.exited.Error() }

func (e *commandError) code() int {
	if s, ok := e.exited.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	return e.exited.ExitCode()
}
