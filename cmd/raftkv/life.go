package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// lifeFlags say how long a key lives.
type lifeFlags struct {
	ttl   time.Duration
	lease string
}

// lifeHelp goes into the help of commands that have them.
const lifeHelp = `With --ttl the key goes by itself after that time, some seconds later at the most; with --lease, when that lease ends. Without
them it lives for ever, also if it had a time to live before.`

func addLifeFlags(c *cobra.Command) *lifeFlags {
	f := &lifeFlags{}
	c.Flags().DurationVar(&f.ttl, "ttl", 0, "how long the key lives, as 30s or 1h30m")
	c.Flags().StringVar(&f.lease, "lease", "", "the id of the lease on which the key hangs; see 'raftkv lease grant'")
	return f
}

// lives are those that the command line has, which is one at the most.
func (f *lifeFlags) lives(c *cobra.Command) ([]raftkv.Life, error) {
	ttl, lease := c.Flags().Changed("ttl"), c.Flags().Changed("lease")
	switch {
	case ttl && lease:
		return nil, &usageError{errors.New("--ttl does not go with --lease")}
	case ttl:
		return []raftkv.Life{raftkv.WithTTL(f.ttl)}, nil
	case lease:
		id, err := parseLease(f.lease)
		if err != nil {
			return nil, err
		}
		return []raftkv.Life{raftkv.WithLease(id)}, nil
	}
	return nil, nil
}

// parseLease reads the id of a lease.
func parseLease(text string) (raftkv.LeaseID, error) {
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return 0, &usageError{fmt.Errorf("%q is not the id of a lease, which is a number that 'raftkv lease grant' prints", text)}
	}
	return raftkv.LeaseID(id), nil
}

func formatLease(id raftkv.LeaseID) string { return strconv.FormatUint(uint64(id), 10) }

// livesOf are of a put in a file; 0 is none.
func livesOf(ttlMs, lease uint64) []raftkv.Life {
	var out []raftkv.Life
	if ttlMs != 0 {
		out = append(out, raftkv.WithTTL(time.Duration(min(ttlMs, uint64(200*365*24*time.Hour/time.Millisecond)))*time.Millisecond)) // more is refused anyway
	}
	if lease != 0 {
		out = append(out, raftkv.WithLease(raftkv.LeaseID(lease)))
	}
	return out
}
