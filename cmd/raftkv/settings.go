package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const (
	envPrefix    = "RAFTKV_"
	envEndpoints = "RAFTKV_ENDPOINTS" // of clients

	flagInsecure      = "insecure"
	flagUnsafeNoFsync = "unsafe-no-fsync"
)

// setting is one key of the configuration. Its name is unique over all sections.
type setting struct {
	section, name string
	// also is another section in which the key is accepted.
	also  string
	list  bool
	kind  string // of the value, for the help
	usage string
	// set takes over a value; of a list, one item.
	set func(c *config, value string) error
}

func (s *setting) key() string { return s.section + "." + s.name }

// flag is the name of the flag. Those of section tls would mean nothing without it.
func (s *setting) flag() string {
	name := strings.ReplaceAll(s.name, "_", "-")
	if s.section == "tls" {
		return "tls-" + name
	}
	return name
}

func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.flag(), "-", "_"))
}

const (
	mebibyte        = 1 << 20
	portMax         = 65535
	valueSizeMax    = 8 * mebibyte
	cacheSizeMin    = 8 * mebibyte
	diskReserveMin  = 16 * mebibyte
	shardsMax       = 4096
	entriesMax      = 1_000_000_000
	intervalMin     = time.Second
	heartbeatMin    = time.Millisecond
	electionMin     = 3 * heartbeatMin
	durationMax     = 24 * time.Hour
	grpcPortOffset  = 300
	peerPortOffset  = 100
	adminPortOffset = 200
	portDefault     = 8080
)

// settings are all keys, in the order in which help and reports show them.
var settings = []setting{
	{
		section: "server", name: "node_id", kind: "name", usage: "name of this node (default node1; needed if peers are listed)",
		set: nodeName(func(c *config) *string { return &c.NodeID }),
	}, {
		section: "server", name: "host", kind: "address", usage: "address that the listeners bind to (default 127.0.0.1)",
		set: host(func(c *config) *string { return &c.Host }),
	}, {
		section: "server", name: "port", kind: "port", usage: "port for clients: HTTP, Connect, gRPC-Web, gRPC (default as in peers, else 8080)",
		set: number(func(c *config) *int { return &c.Port }, portMax),
	}, {
		section: "server", name: "peer_port", kind: "port", usage: "port for the other nodes (default as in peers, else port + 100)",
		set: number(func(c *config) *int { return &c.PeerPort }, portMax),
	}, {
		section: "server", name: "grpc_port", kind: "port", usage: "port for native gRPC, the faster one (default port + 300)",
		set: number(func(c *config) *int { return &c.GRPCPort }, portMax),
	}, {
		section: "server", name: "origins", kind: "list", list: true, usage: "web origins whose pages may call this node, as https://host, or *",
		set: func(c *config, v string) error { c.Origins = append(c.Origins, v); return nil },
	}, {
		section: "server", name: "max_value_size", kind: "size", usage: "longest value; the same on all nodes (default 1MiB)",
		set: size(func(c *config) *int64 { return &c.MaxValueSize }, 1, valueSizeMax),
	}, {
		section: "server", name: "max_connections", kind: "number", usage: "connections that clients may have to each port; more wait (default 10000, or what the limit of open files leaves)",
		set: number(func(c *config) *int { return &c.MaxConnections }, connectionsMax),
	}, {
		section: "cluster", name: "peers", kind: "list", list: true, usage: "the founding nodes, as id:host:port or id:host:port:peer_port (default this node alone)",
		set: func(c *config, v string) error {
			p, err := parsePeer(v)
			c.Peers = append(c.Peers, p)
			return err
		},
	}, {
		section: "cluster", name: "shards", kind: "number", usage: "data shards of a new cluster (default 1)",
		set: number(func(c *config) *int { return &c.Shards }, shardsMax),
	}, {
		section: "cluster", name: "replicas", kind: "number", usage: "replicas of each shard of a new cluster (default one on each node, at most 5)",
		set: number(func(c *config) *int { return &c.Replicas }, shardsMax),
	}, {
		section: "raft", name: "election_timeout", also: "cluster", kind: "duration", usage: "how long a follower waits for its leader (default 1s)",
		set: duration(func(c *config) *time.Duration { return &c.ElectionTimeout }, electionMin),
	}, {
		section: "raft", name: "heartbeat_interval", also: "cluster", kind: "duration", usage: "how often a leader reports to its followers (default 100ms)",
		set: duration(func(c *config) *time.Duration { return &c.HeartbeatInterval }, heartbeatMin),
	}, {
		section: "raft", name: "snapshot_threshold", kind: "number", usage: "applied entries that make the state be flushed and the log be cut (default 50000)",
		set: number(func(c *config) *int { return &c.SnapshotThreshold }, entriesMax),
	}, {
		section: "raft", name: "snapshot_interval", kind: "duration", usage: "time after which the same happens (default 5m)",
		set: duration(func(c *config) *time.Duration { return &c.SnapshotInterval }, intervalMin),
	}, {
		section: "raft", name: "max_log_entries", kind: "number", usage: "applied entries kept in the log for nodes that lag (default 10000)",
		set: number(func(c *config) *int { return &c.MaxLogEntries }, entriesMax),
	}, {
		section: "storage", name: "data_dir", also: "server", kind: "path", usage: "directory that holds everything the node keeps (default data)",
		set: path(func(c *config) *string { return &c.DataDir }),
	}, {
		section: "storage", name: "sync_write", kind: "bool", usage: "fsync before a write is acknowledged (default true; false needs --unsafe-no-fsync)",
		set: truth(func(c *config) *bool { return &c.SyncWrite }),
	}, {
		section: "storage", name: "compression", kind: "name", usage: "of the files of the state; fast is the only one (default fast)",
		set: compression,
	}, {
		section: "storage", name: "cache_size", kind: "size", usage: "memory for blocks of the state that were read, and for records that were written of late (default 256MiB)",
		set: size(func(c *config) *int64 { return &c.CacheSize }, cacheSizeMin, 1<<50),
	}, {
		section: "storage", name: "disk_reserve", kind: "size", usage: "room on the disk kept for deletes, reads and recovery (default an eighth of it, 32MiB to 1GiB)",
		set: size(func(c *config) *int64 { return &c.DiskReserve }, diskReserveMin, 1<<50),
	}, {
		section: "storage", name: "history_size", kind: "size", usage: "history that a shard keeps for watches and old revisions (default 64MiB, at most a sixteenth of the reserve)",
		set: size(func(c *config) *int64 { return &c.HistorySize }, mebibyte, 1<<50),
	}, {
		section: "storage", name: "history_age", kind: "duration", usage: "for how long it keeps it, if history_size does not end it sooner (default 1h)",
		set: duration(func(c *config) *time.Duration { return &c.HistoryAge }, intervalMin),
	}, {
		section: "storage", name: "idempotency_window", kind: "duration", usage: "for how long the answer to a write under an Idempotency-Key is kept (default 1h)",
		set: duration(func(c *config) *time.Duration { return &c.IdempotencyWindow }, time.Second),
	}, {
		section: "monitoring", name: "metrics_port", kind: "port", usage: "port for /metrics, probes and profiles (default port + 200)",
		set: number(func(c *config) *int { return &c.MetricsPort }, portMax),
	}, {
		section: "monitoring", name: "health_check_port", kind: "port", usage: "port for /livez and /readyz; may be the same (default metrics_port)",
		set: number(func(c *config) *int { return &c.HealthCheckPort }, portMax),
	}, {
		section: "monitoring", name: "admin_host", kind: "address", usage: "address that both bind to (default host)",
		set: host(func(c *config) *string { return &c.AdminHost }),
	}, {
		section: "monitoring", name: "log_level", kind: "name", usage: "debug, info, warn or error (default info)",
		set: choice(func(c *config) *string { return &c.LogLevel }, "debug", "info", "warn", "error"),
	}, {
		section: "monitoring", name: "log_format", kind: "name", usage: "text or json, on standard error (default text)",
		set: choice(func(c *config) *string { return &c.LogFormat }, "text", "json"),
	}, {
		section: "monitoring", name: "trace_endpoint", kind: "url", usage: "collector of traces (OTLP), as http://host:4317, or https:// for TLS (default none)",
		set: traceEndpoint,
	}, {
		section: "monitoring", name: "trace_protocol", kind: "name", usage: "grpc or http (default grpc)",
		set: choice(func(c *config) *string { return &c.TraceProtocol }, protocolGRPC, protocolHTTP),
	}, {
		section: "monitoring", name: "trace_sample_ratio", kind: "number", usage: "part of the requests without a trace of their own that begin one (default 0.01)",
		set: traceRatio,
	}, {
		section: "monitoring", name: "slow_request", kind: "duration", usage: "requests that take this long are logged, with where their time went (default 1s; off)",
		set: orOff(func(c *config) *time.Duration { return &c.SlowRequest }, time.Millisecond),
	}, {
		section: "monitoring", name: "statistics_interval", kind: "duration", usage: "how often a line of statistics is logged (default 1m; off)",
		set: orOff(func(c *config) *time.Duration { return &c.StatisticsInterval }, time.Second),
	}, {
		section: "tls", name: "cert_file", kind: "file", usage: "certificate of this node, PEM, with its chain; every listener then speaks TLS",
		set: path(func(c *config) *string { return &c.CertFile }),
	}, {
		section: "tls", name: "key_file", kind: "file", usage: "its private key, PEM",
		set: path(func(c *config) *string { return &c.KeyFile }),
	}, {
		section: "tls", name: "ca_file", kind: "file", usage: "authority of the certificates of all nodes, PEM; nodes always authenticate each other",
		set: path(func(c *config) *string { return &c.CAFile }),
	}, {
		section: "tls", name: "client_ca_file", kind: "file", usage: "authority of the certificates of clients, PEM; clients must then show one (mutual TLS)",
		set: path(func(c *config) *string { return &c.ClientCAFile }),
	},
}

// sections are those of the file, in order.
func sections() []string {
	var out []string
	for i := range settings {
		if s := settings[i].section; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func isSection(name string) bool { return slices.Contains(sections(), name) }

func sectionList() string { return strings.Join(sections(), ", ") }

// namesOf returns the keys of a section.
func namesOf(section string) []string {
	var out []string
	for i := range settings {
		if settings[i].section == section {
			out = append(out, settings[i].name)
		}
	}
	return out
}

func findSetting(name string) *setting {
	for i := range settings {
		if settings[i].name == name {
			return &settings[i]
		}
	}
	return nil
}

// given is the value of the flag of a setting: its text, until the configuration is put together. It implements pflag.Value.
type given struct{ text, kind string }

func (g *given) String() string     { return g.text }
func (g *given) Set(v string) error { g.text = v; return nil }
func (g *given) Type() string       { return g.kind }

// addSettings adds a flag for every setting.
func addSettings(flags *pflag.FlagSet) {
	flags.SortFlags = false
	for i := range settings {
		s := &settings[i]
		f := flags.VarPF(&given{kind: s.kind}, s.flag(), "", fmt.Sprintf("%s [%s]", s.usage, s.key()))
		if s.kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	flags.Bool(flagInsecure, false, "allow addresses other than loopback without TLS: anybody who reaches them can read and write everything")
	flags.Bool(flagUnsafeNoFsync, false, "allow sync_write: false, with which acknowledged writes are lost when the machine fails")
}
