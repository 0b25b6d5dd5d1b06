package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"
)

// pressureName is where Linux says how long processes have waited for a CPU.
const pressureName = "/proc/pressure/cpu"

var pressureTotal = regexp.MustCompile(`(?m)^some .*total=(\d+)$`)

// parsePressure returns the time in which some process waited.
func parsePressure(text string) (time.Duration, error) {
	m := pressureTotal.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%s has another form: %.100q", pressureName, text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return time.Duration(n) * time.Microsecond, err
}

// pressure is the share of time in which some process of this machine waited for a CPU: how far figures are those of the cluster.
type pressure struct {
	began time.Time
	total time.Duration
}

func (p *pressure) start() {
	p.began, p.total = time.Now(), readPressure()
}

func (p *pressure) String() string {
	if p.total < 0 {
		return "not known"
	}
	return fmt.Sprintf("%.0f %% of the time", 100*float64(readPressure()-p.total)/float64(time.Since(p.began)))
}

// readPressure is negative on systems that do not tell.
func readPressure() time.Duration {
	text, err := os.ReadFile(pressureName)
	if err != nil {
		return -1
	}
	total, err := parsePressure(string(text))
	if err != nil {
		return -1
	}
	return total
}
