package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// config is what a node is told. settings.go says under which names; the sections of the file are the groups here.
type config struct {
	NodeID                   string
	Host                     string
	Port, PeerPort, GRPCPort int // 0: derived, see complete
	Origins                  []string
	MaxValueSize             int64
	// MaxConnections is 0 if the node shall choose it.
	MaxConnections int

	Peers            []peer
	Shards, Replicas int // replicas 0: one on each node, at most 5

	ElectionTimeout, HeartbeatInterval time.Duration
	SnapshotThreshold                  int
	SnapshotInterval                   time.Duration
	MaxLogEntries                      int

	DataDir   string
	SyncWrite bool
	CacheSize int64
	// DiskReserve is 0 if the node shall choose it.
	DiskReserve int64
	// HistorySize is 0 if the node shall choose it.
	HistorySize int64
	HistoryAge  time.Duration

	IdempotencyWindow time.Duration

	MetricsPort, HealthCheckPort int // 0: derived
	AdminHost                    string
	LogLevel, LogFormat          string
	// TraceEndpoint is empty without traces, TraceProtocol if it is to be that of the environment, else gRPC.
	TraceEndpoint, TraceProtocol string
	TraceRatio                   float64
	// SlowRequest and StatisticsInterval are 0 if nothing shall be logged.
	SlowRequest, StatisticsInterval time.Duration

	CertFile, KeyFile, CAFile, ClientCAFile string

	// Insecure and UnsafeNoFsync are given on the command line only, so that a file that is copied does not bring them along.
	Insecure, UnsafeNoFsync bool

	// ProcessNodes is how many nodes the process has, which share what it may have open.
	ProcessNodes int
}

// defaults is a cluster of one node on loopback.
func defaults() *config {
	return &config{
		NodeID:            "node1",
		Host:              "127.0.0.1",
		MaxValueSize:      1 << 20,
		ProcessNodes:      1,
		Shards:            1,
		ElectionTimeout:   time.Second,
		HeartbeatInterval: 100 * time.Millisecond,
		SnapshotThreshold: 50_000,
		SnapshotInterval:  5 * time.Minute,
		HistoryAge:        time.Hour,
		IdempotencyWindow: time.Hour,
		MaxLogEntries:     10_000,
		DataDir:           "data",
		SyncWrite:         true,
		CacheSize:         256 << 20,
		LogLevel:          "info",
		LogFormat:         "text",
		TraceRatio:        0.01,
		SlowRequest:       time.Second,

		StatisticsInterval: time.Minute,
	}
}

// sources are where a configuration comes from; each overrides those before it.
type sources struct {
	file    string // path; empty is none
	environ []string
	flags   *pflag.FlagSet // those of addSettings
}

// problem is one thing that is wrong with a configuration.
type problem struct {
	origin, key, reason string
}

// configError is everything that is wrong with a configuration.
type configError struct{ problems []problem }

func (e *configError) Error() string {
	var b strings.Builder
	b.WriteString("the configuration cannot be used:")
	for _, p := range e.problems {
		b.WriteString("\n  ")
		for _, part := range []string{p.origin, p.key} {
			if part != "" {
				b.WriteString(part + ": ")
			}
		}
		b.WriteString(p.reason)
	}
	return b.String()
}

// loader reads one configuration.
type loader struct {
	sources
	koanf    *koanf.Koanf
	lines    map[string]int // key → line of the file
	problems []problem
	// ignored are variables of the environment that look like ours and are not.
	ignored []string
}

// loadConfig reads the configuration, completes and checks it. The error is a *configError with everything that is wrong, unless
// the file cannot be read at all. ignored are variables of the environment that look like settings and are none.
func loadConfig(s sources) (c *config, ignored []string, err error) {
	l := &loader{sources: s, koanf: koanf.New("."), lines: make(map[string]int)}
	if err := l.read(); err != nil {
		return nil, nil, err
	}
	c = defaults()
	for i := range settings {
		l.apply(c, &settings[i])
	}
	if s.flags != nil {
		c.Insecure, _ = s.flags.GetBool(flagInsecure)
		c.UnsafeNoFsync, _ = s.flags.GetBool(flagUnsafeNoFsync)
	}
	(&checker{config: c, given: l.given, report: l.report}).run()
	if len(l.problems) > 0 {
		return nil, nil, &configError{l.problems}
	}
	return c, l.ignored, nil
}

// read collects the values of all sources, in the order in which they override each other.
func (l *loader) read() error {
	if l.file != "" {
		content, err := os.ReadFile(l.file)
		if err != nil {
			return fmt.Errorf("read the configuration: %w", err)
		}
		if err := l.koanf.Load(rawbytes.Provider(content), yamlFile{l}); err != nil {
			return err
		}
	}
	err := l.koanf.Load(env.Provider(".", env.Opt{
		Prefix:        envPrefix,
		TransformFunc: l.fromEnv,
		EnvironFunc:   func() []string { return l.environ },
	}), nil)
	if err == nil && l.flags != nil {
		err = l.koanf.Load(posflag.ProviderWithFlag(l.flags, ".", l.koanf, fromFlag), nil)
	}
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return nil
}

// fromEnv finds the setting of a variable.
func (l *loader) fromEnv(name, value string) (string, any) {
	for i := range settings {
		if s := &settings[i]; s.env() == name {
			return s.key(), value
		}
	}
	if name != envEndpoints {
		l.ignored = append(l.ignored, name)
	}
	return "", nil
}

// fromFlag finds the setting of a flag that was given.
func fromFlag(f *pflag.Flag) (string, any) {
	for i := range settings {
		if s := &settings[i]; f.Changed && s.flag() == f.Name {
			return s.key(), f.Value.String()
		}
	}
	return "", nil
}

// apply sets what was given for s.
func (l *loader) apply(c *config, s *setting) {
	if !l.given(s.key()) {
		return
	}
	var values []string
	switch v := l.koanf.Get(s.key()).(type) {
	case []string:
		if !s.list {
			l.report(s.key(), "takes one value, not a list")
			return
		}
		values = v
	case string:
		values = []string{v}
		if s.list {
			values = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	for _, v := range values {
		if err := s.set(c, v); err != nil {
			l.report(s.key(), "%s", l.explain(s, v, err))
		}
	}
}

// explain adds what is known about a common cause of an error.
func (l *loader) explain(s *setting, value string, err error) string {
	if strings.HasPrefix(value, "tcp://") && l.origin(s.key()) == s.env() {
		return err.Error() + " (Kubernetes sets this variable for a service named raftkv: set enableServiceLinks to false in the pod)"
	}
	return err.Error()
}

// given says whether any source has a value for a key.
func (l *loader) given(key string) bool { return l.koanf.Exists(key) }

// origin says which source the value of a key comes from.
func (l *loader) origin(key string) string {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.key() == key })
	if i < 0 {
		return ""
	}
	s := &settings[i]
	if l.flags != nil && l.flags.Changed(s.flag()) {
		return "--" + s.flag()
	}
	if slices.ContainsFunc(l.environ, func(v string) bool { return strings.HasPrefix(v, s.env()+"=") }) {
		return s.env()
	}
	if line, ok := l.lines[key]; ok {
		return l.at(line)
	}
	return "default"
}

// at names a line of the file.
func (l *loader) at(line int) string { return fmt.Sprintf("%s:%d", l.file, line) }

// report notes a problem with the value of a key.
func (l *loader) report(key, format string, args ...any) {
	l.problems = append(l.problems, problem{origin: l.origin(key), key: key, reason: fmt.Sprintf(format, args...)})
}

// isConfigError says whether err lists problems of a configuration.
func isConfigError(err error) bool {
	var e *configError
	return errors.As(err, &e)
}
