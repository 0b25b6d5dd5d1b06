package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The functions here make the set function of a setting from the field that it sets.

var nodeNames = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func checkNodeName(v string) error {
	if !nodeNames.MatchString(v) {
		return fmt.Errorf("%q is no name of a node: use 1 to 64 letters, digits, '-', '_' and '.'", v)
	}
	return nil
}

func nodeName(field func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		*field(c) = v
		return checkNodeName(v)
	}
}

func host(field func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		*field(c) = v
		return checkHost(v)
	}
}

func checkHost(v string) error {
	if v == "" || strings.ContainsAny(v, " /[]") || strings.Contains(v, ":") && net.ParseIP(v) == nil {
		return fmt.Errorf("%q is neither a name nor an address of a machine; the port is a key of its own", v)
	}
	return nil
}

func path(field func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		if v == "" {
			return errors.New("is empty; name a path")
		}
		*field(c) = v
		return nil
	}
}

// number takes a whole number from 1 on.
func number(field func(*config) *int, high int) func(*config, string) error {
	return func(c *config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", v)
		}
		if n < 1 || n > high {
			return fmt.Errorf("%d is out of range: it must be 1 to %d", n, high)
		}
		*field(c) = n
		return nil
	}
}

// duration takes a number with a unit, or a bare number of milliseconds.
func duration(field func(*config) *time.Duration, low time.Duration) func(*config, string) error {
	return func(c *config, v string) error {
		d, err := time.ParseDuration(v)
		if ms, isNumber := strconv.ParseInt(v, 10, 32); isNumber == nil {
			d, err = time.Duration(ms)*time.Millisecond, nil
		}
		if err != nil {
			return fmt.Errorf("%q is not a duration: write 150ms, 2s or 5m, or a number of milliseconds", v)
		}
		if d < low || d > durationMax {
			return fmt.Errorf("%s is out of range: it must be %s to %s", d, low, durationMax)
		}
		*field(c) = d
		return nil
	}
}

// orOff takes the word off for 0, too.
func orOff(field func(*config) *time.Duration, low time.Duration) func(*config, string) error {
	set := duration(field, low)
	return func(c *config, v string) error {
		if v == "off" {
			*field(c) = 0
			return nil
		}
		return set(c, v)
	}
}

var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

func parseSize(v string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(v, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || n < 0 || n*u.bytes > math.MaxInt64/2 || math.IsNaN(n) {
			break
		}
		return int64(n * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: write 256MiB, 1GiB or a number of bytes", v)
}

func formatSize(n int64) string {
	for _, u := range []int{3, 2, 1, 0} {
		if unit := int64(units[u].bytes); n >= unit {
			return strconv.FormatFloat(math.Round(float64(n)/float64(unit)*10)/10, 'f', -1, 64) + " " + units[u].name
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}

func size(field func(*config) *int64, low, high int64) func(*config, string) error {
	return func(c *config, v string) error {
		n, err := parseSize(v)
		if err != nil {
			return err
		}
		if n < low || n > high {
			return fmt.Errorf("%d bytes is out of range: it must be %s to %s", n, formatSize(low), formatSize(high))
		}
		*field(c) = n
		return nil
	}
}

func truth(field func(*config) *bool) func(*config, string) error {
	return func(c *config, v string) error {
		switch v {
		case "true", "false":
			*field(c) = v == "true"
			return nil
		}
		return fmt.Errorf("%q is neither true nor false", v)
	}
}

func choice(field func(*config) *string, values ...string) func(*config, string) error {
	return func(c *config, v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(values, ", "))
		}
		*field(c) = v
		return nil
	}
}

// compression knows one value because the state is always compressed by the fastest algorithm. A key that is accepted and
// does nothing would be worse than one that says so.
func compression(_ *config, v string) error {
	if v != "fast" && v != "true" {
		return fmt.Errorf("%q is not available: the files of the state are always compressed fast", v)
	}
	return nil
}
