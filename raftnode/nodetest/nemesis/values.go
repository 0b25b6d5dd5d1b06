package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// values makes the values of writes. No value is made twice, and each says how long it is.
type values struct{ made atomic.Uint64 }

// next makes the name of a value of a size.
func (v *values) next(size int) string { return fmt.Sprintf("v%d-%d", v.made.Add(1), size) }

// encode makes the bytes of a value, which are as many as its name says, but no fewer than the name has.
func encode(name string) []byte {
	out := []byte(name)
	for size := sizeOf(name); len(out) < size; {
		out = append(out, '.')
	}
	return out
}

// decode returns the name of a value.
func decode(value []byte) (string, error) {
	name, _, _ := strings.Cut(string(value), ".")
	if string(encode(name)) != string(value) {
		return "", fmt.Errorf("a value of %d bytes, which nobody has written, begins with %.40q", len(value), value)
	}
	return name, nil
}

func sizeOf(name string) int {
	_, size, _ := strings.Cut(name, "-")
	n, err := strconv.Atoi(size)
	if err != nil {
		return 0
	}
	return n
}
