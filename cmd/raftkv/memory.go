package main

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
)

const (
	// gcPercent lets the heap grow to five times what lives before it is collected. What lives is small (values are in the state
	// engine), so collecting at the usual twice costs more of the processors than the requests are worth: measured, GOGC 800
	// instead of 100 gave 1.4 to 1.9 times the requests.
	gcPercent = 400
	// memoryShare of the machine is the soft limit towards which the collector works harder, so that a heap that does grow large
	// ends in more collections and not in the end of the process. The rest is for the page cache, which reads need.
	memoryShare = 0.6
)

// tuneMemory sets the collector up, unless the environment does.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if total := memoryBytes(); total > 0 {
			debug.SetMemoryLimit(int64(float64(total) * memoryShare))
		}
	}
}

// memoryBytes is how much memory this process can have: that of its control group, or of the machine; 0 if that cannot be known.
func memoryBytes() int64 {
	total := int64(0)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		total = parseMemInfo(info)
	}
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} { // of version 2, of version 1
		limit, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(limit)), 10, 64); err == nil && n > 0 && (total == 0 || n < total) {
			total = n
		}
	}
	return total
}

// parseMemInfo finds the line "MemTotal:  24689764 kB".
func parseMemInfo(info []byte) int64 {
	for line := range bytes.Lines(info) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "MemTotal:" {
			continue
		}
		if kib, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			return kib << 10
		}
	}
	return 0
}
