package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// loadText loads a configuration from the text of a file, from variables and from flags.
func loadText(t *testing.T, file string, environ, args []string) (*config, []string, error) {
	t.Helper()
	s := sources{environ: environ, flags: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	addSettings(s.flags)
	if err := s.flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if file != "" {
		s.file = filepath.Join(t.TempDir(), "raftkv.yaml")
		if err := os.WriteFile(s.file, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, ignored, err := loadConfig(s)
	if err != nil && s.file != "" {
		return c, ignored, &shortened{err, filepath.Dir(s.file) + "/"}
	}
	return c, ignored, err
}

// shortened is an error without the name of the temporary directory.
type shortened struct {
	error
	dir string
}

func (e *shortened) Error() string { return strings.ReplaceAll(e.error.Error(), e.dir, "") }
func (e *shortened) Unwrap() error { return e.error }

func mustLoad(t *testing.T, file string, environ, args []string) *config {
	t.Helper()
	c, _, err := loadText(t, file, environ, args)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConfigDefaults(t *testing.T) {
	c := mustLoad(t, "", nil, nil)
	want := defaults()
	want.Port, want.PeerPort, want.GRPCPort, want.MetricsPort, want.HealthCheckPort = 8080, 8180, 8380, 8280, 8280
	want.AdminHost = "127.0.0.1"
	want.Peers = []peer{{ID: "node1", Host: "127.0.0.1", Port: 8080, PeerPort: 8180}}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("without any settings (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want, mustLoad(t, "# nothing\nserver:\n", nil, nil)); d != "" {
		t.Errorf("from an empty file (-want +got):\n%s", d)
	}
}

// Later sources override earlier ones, setting by setting.
func TestConfigPrecedence(t *testing.T) {
	file := "server: {node_id: file, port: 1001, grpc_port: 1002}\nstorage:\n  cache_size: 16MiB\n"
	environ := []string{"RAFTKV_PORT=2001", "RAFTKV_GRPC_PORT=2002", "HOME=/root"}
	c := mustLoad(t, file, environ, []string{"--grpc-port", "3002"})
	if c.NodeID != "file" || c.Port != 2001 || c.GRPCPort != 3002 || c.CacheSize != 16<<20 {
		t.Errorf("got %q %d %d %d", c.NodeID, c.Port, c.GRPCPort, c.CacheSize)
	}
}

// Every setting can be given in the file, in its section, in its other section and without one, by variable and by flag.
func TestConfigEverySettingFromEverySource(t *testing.T) {
	values := map[string]string{
		"node_id": "n", "host": "127.0.0.2", "port": "1001", "peer_port": "1002", "grpc_port": "1003", "origins": "https://a.example",
		"max_value_size": "2MiB", "max_connections": "77", "peers": "n:127.0.0.1:1001:1002", "shards": "4", "replicas": "1",
		"election_timeout": "3s", "heartbeat_interval": "20ms", "snapshot_threshold": "7", "snapshot_interval": "9s", "max_log_entries": "8",
		"data_dir": "d", "sync_write": "false", "compression": "fast", "cache_size": "9MiB", "disk_reserve": "99MiB",
		"history_size": "5MiB", "history_age": "3h", "idempotency_window": "7m",
		"metrics_port": "1004", "health_check_port": "1005", "admin_host": "127.0.0.3", "log_level": "debug", "log_format": "json",
		"trace_endpoint": "http://127.0.0.1:4318", "trace_protocol": "http", "trace_sample_ratio": "0.5",
		"slow_request": "2s", "statistics_interval": "3m",
		"cert_file": "c", "key_file": "k", "ca_file": "a", "client_ca_file": "x",
	}
	if len(values) != len(settings) {
		t.Fatalf("%d values for %d settings", len(values), len(settings))
	}
	var sectioned, also, bare strings.Builder
	var environ, args []string
	for _, section := range sections() {
		sectioned.WriteString(section + ":\n")
		also.WriteString(section + ":\n")
		for i := range settings {
			s := &settings[i]
			line := "  " + s.name + ": " + values[s.name] + "\n"
			if s.section == section {
				sectioned.WriteString(line)
			}
			if s.also == section || s.also == "" && s.section == section {
				also.WriteString(line)
			}
		}
	}
	for i := range settings {
		s := &settings[i]
		bare.WriteString(s.name + ": " + values[s.name] + "\n")
		environ = append(environ, s.env()+"="+values[s.name])
		args = append(args, "--"+s.flag()+"="+values[s.name])
	}
	allow := []string{"--unsafe-no-fsync"}
	want := mustLoad(t, sectioned.String(), nil, allow)
	if want.SyncWrite || want.ElectionTimeout != 3*time.Second || want.MaxValueSize != 2<<20 || want.MaxConnections != 77 || want.ClientCAFile != "x" || want.AdminHost != "127.0.0.3" {
		t.Errorf("values were not taken over: %+v", want)
	}
	for name, got := range map[string]*config{
		"other sections": mustLoad(t, also.String(), nil, allow),
		"no sections":    mustLoad(t, bare.String(), nil, allow),
		"environment":    mustLoad(t, "", environ, allow),
		"flags":          mustLoad(t, "", nil, append(args, allow...)),
	} {
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-sections +%s):\n%s", name, name, d)
		}
	}
}

// The keys of the documents that describe raftkv stand for what they say.
func TestConfigKnownKeys(t *testing.T) {
	known := strings.Fields(`node_id host port data_dir peers election_timeout heartbeat_interval snapshot_threshold max_log_entries sync_write
		compression cache_size metrics_port health_check_port log_level shards replicas peer_port grpc_port`)
	for _, name := range known {
		if findSetting(name) == nil {
			t.Errorf("%s is not a setting", name)
		}
	}
	names := make(map[string]bool)
	for i := range settings {
		if names[settings[i].name] {
			t.Errorf("%s is the name of two settings", settings[i].name)
		}
		names[settings[i].name] = true
	}
}

// Everything that is wrong is reported at once, each with its place and the reason.
func TestConfigReportsEverything(t *testing.T) {
	file := `server:
  node_id: node 1
  port: 80800
  colour: blue
  cache_size: 1GiB
raft:
  election_timeout: 100ms
  heartbeat_interval: fast
  heartbeat_interval: 50ms
storage:
  sync_write: no
  compression: zstd
  data_dir: [a, b]
monitoring: loud
cluster:
  peers:
    - node1:127.0.0.1
    - {id: node2}
sharding:
  shards: 4
log_level: chatty
`
	_, _, err := loadText(t, file, []string{"RAFTKV_CACHE_SIZE=1024", "RAFTKV_GRPC_PORT=tcp://10.0.0.1:8080"}, []string{"--shards", "0"})
	want := `the configuration cannot be used:
  raftkv.yaml:4: server.colour: unknown key; section server has node_id, host, port, peer_port, grpc_port, origins, max_value_size, max_connections
  raftkv.yaml:5: server.cache_size: belongs into section storage
  raftkv.yaml:9: raft.heartbeat_interval: is set in line 8 already
  raftkv.yaml:14: monitoring: is a section; its keys go below it, indented
  raftkv.yaml:18: cluster.peers: each item of the list must be plain text: the founding nodes, as id:host:port or id:host:port:peer_port (default this node alone)
  raftkv.yaml:19: sharding: unknown section or key; the sections are server, cluster, raft, storage, monitoring, tls
  raftkv.yaml:2: server.node_id: "node 1" is no name of a node: use 1 to 64 letters, digits, '-', '_' and '.'
  raftkv.yaml:3: server.port: 80800 is out of range: it must be 1 to 65535
  RAFTKV_GRPC_PORT: server.grpc_port: "tcp://10.0.0.1:8080" is not a whole number (Kubernetes sets this variable for a service named raftkv: set enableServiceLinks to false in the pod)
  --shards: cluster.shards: 0 is out of range: it must be 1 to 4096
  raftkv.yaml:8: raft.heartbeat_interval: "fast" is not a duration: write 150ms, 2s or 5m, or a number of milliseconds
  raftkv.yaml:13: storage.data_dir: takes one value, not a list
  raftkv.yaml:11: storage.sync_write: "no" is neither true nor false
  raftkv.yaml:12: storage.compression: "zstd" is not available: the files of the state are always compressed fast
  RAFTKV_CACHE_SIZE: storage.cache_size: 1024 bytes is out of range: it must be 8 MiB to 1024 TiB
  raftkv.yaml:21: monitoring.log_level: "chatty" is none of debug, info, warn, error
  raftkv.yaml:7: raft.election_timeout: 100ms is less than three heartbeat intervals of 100ms: a follower that misses one or two heartbeats would campaign`
	if err == nil {
		t.Fatal("no error")
	}
	if d := cmp.Diff(want, err.Error()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if exitCode(err) != exitUsage {
		t.Errorf("exit code %d", exitCode(err))
	}
}

// Ports that follow from what is missing are not reported as well.
func TestConfigWithoutNodeID(t *testing.T) {
	_, _, err := loadText(t, "", nil, []string{"--peers", "n1:127.0.0.1:7001,n2:127.0.0.1:7002"})
	var c *configError
	if !errors.As(err, &c) || len(c.problems) != 1 {
		t.Errorf("%v", err)
	}
}

// Values that are fine by themselves and do not go together.
func TestConfigChecks(t *testing.T) {
	const three = "n1:127.0.0.1:7001,n2:127.0.0.1:7002,n3:127.0.0.1:7003"
	for _, test := range []struct {
		args string
		want string // within the error; empty is none
	}{
		{"--node-id n2 --peers " + three, ""},
		{"--node-id n2 --port 7002 --peers " + three, ""},
		{"--node-id n4 --port 7004 --peers " + three, ""},
		{"--replicas 2", "--replicas: cluster.replicas: 2 replicas of each shard need as many nodes; there are 1"},
		{"--peers " + three, "default: server.node_id: is not set; say which of the peers this node is"},
		{"--node-id n2 --port 8080 --peers " + three, "--port: server.port: is 8080, but peers say that n2 serves clients on 7002"},
		{"--node-id n2 --peer-port 9000 --peers " + three, "on every node, list it as n2:127.0.0.1:7002:9000"},
		{"--node-id n1 --peers n1:127.0.0.1:7001:9000,n2:[::1]:7001", ""},
		{"--node-id n1 --peers n1:127.0.0.1:7001,n1:127.0.0.1:7002", "node n1 is listed twice"},
		{"--node-id n1 --peers n1:127.0.0.1:7001,n2:127.0.0.1:7101", "nodes n1 and n2 have the same address"},
		{"--node-id n1 --peers n1:10.0.0.1:7001,n2:10.0.0.2:7001", "default: server.host: 127.0.0.1 cannot be reached by the other nodes"},
		{"--node-id n1 --peers n1:0.0.0.0:7001", "0.0.0.0 is no address that others can reach"},
		{"--peers n1", `"n1" is not a node: there is no host`},
		{"--peers n1:h", `"n1:h" is not a node: there is no port`},
		{"--peers n1:h:0", `"0" is not a port`},
		{"--peers n1:h:1:x", `"x" is not a port`},
		{"--peers n1:h:65500", "the peer port would be 65600"},
		{"--peers n*:h:1", `"n*" is no name of a node`},
		{"--peers n1:::1:80", "is not a node"},
		{"--port 65300", "default: server.grpc_port: would be 65600; set it, a port is at most 65535"},
		{"--grpc-port 8180", "--grpc-port: server.grpc_port: is 8180, the same as server.peer_port"},
		{"--metrics-port 9000 --health-check-port 9000", ""},
		{"--metrics-port 9000 --health-check-port 8080", "monitoring.health_check_port: is 8080, the same as server.port"},
		{"--host 10.0.0.1", "--host: server.host: 10.0.0.1 can be reached by others, and there is no TLS"},
		{"--host example.org", "can be reached by others"},
		{"--host localhost", ""},
		{"--host ::1", ""},
		{"--host 127.0.0.1:80", "the port is a key of its own"},
		{"--host 10.0.0.1 --insecure", ""},
		{"--host 0.0.0.0 --insecure", "--host: server.host: 0.0.0.0 tells nobody where this node is: list it in peers too, as node1:ADDRESS:8080"},
		{"--host 0.0.0.0 --insecure --node-id n1 --peers n1:10.0.0.1:8080,n2:10.0.0.2:8080", ""},
		{"--trace-endpoint 127.0.0.1:4317", `monitoring.trace_endpoint: "127.0.0.1:4317" is no address of a collector`},
		{"--trace-protocol udp", `monitoring.trace_protocol: "udp" is none of grpc, http`},
		{"--trace-sample-ratio 2", "monitoring.trace_sample_ratio: must be a number from 0 to 1"},
		{"--slow-request off --statistics-interval off", ""},
		{"--statistics-interval 1ms", "--statistics-interval: monitoring.statistics_interval: 1ms is out of range: it must be 1s to 24h0m0s"},
		{"--admin-host 10.0.0.1", "--admin-host: monitoring.admin_host: 10.0.0.1 can be reached by others"},
		{"--host 10.0.0.1 --tls-cert-file c --tls-key-file k --tls-ca-file a", ""},
		{"--tls-cert-file c --tls-ca-file a", "default: tls.key_file: is not set; TLS needs cert_file, key_file and ca_file"},
		{"--tls-client-ca-file c", "tls.cert_file: is not set"},
		{"--sync-write=false", "--sync-write: storage.sync_write: without fsync"},
		{"--sync-write=false --unsafe-no-fsync", ""},
		{"--sync-write", ""},
		{"--election-timeout 1500 --heartbeat-interval 500", ""},
		{"--election-timeout 1499", ""},
		{"--election-timeout 1499 --heartbeat-interval 500ms", "1.499s is less than three heartbeat intervals of 500ms"},
		{"--election-timeout 48h", "48h0m0s is out of range"},
		{"--cache-size 1e3GiB", ""},
		{"--cache-size 9MB", ""},
		{"--cache-size -1MB", `"-1MB" is not a size`},
		{"--cache-size much", `"much" is not a size`},
		{"--max-value-size 9MiB", "is out of range: it must be 1 B to 8 MiB"},
		{"--data-dir=", "is empty"},
	} {
		_, _, err := loadText(t, "", nil, strings.Fields(test.args))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.args, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: want %q, got %v", test.args, test.want, err)
		}
	}
}

func TestConfigUnreadable(t *testing.T) {
	if _, _, err := loadConfig(sources{file: filepath.Join(t.TempDir(), "none.yaml")}); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
	_, _, err := loadText(t, "server:\n\tport: 1\n", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "raftkv.yaml is not YAML: line 2") {
		t.Errorf("a tab: %v", err)
	}
	_, _, err = loadText(t, "- port\n", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "raftkv.yaml:1: the file must hold the sections server") {
		t.Errorf("a list: %v", err)
	}
}

// Variables that only look like settings are no reason to stop, and not passed over in silence.
func TestConfigIgnoredVariables(t *testing.T) {
	_, ignored, err := loadText(t, "", []string{"RAFTKV_PROT=1", "RAFTKV_ENDPOINTS=a:1", "OTHER=1"}, nil)
	if err != nil || !slices.Equal(ignored, []string{"RAFTKV_PROT"}) {
		t.Errorf("%v, %v", ignored, err)
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 10: "1 KiB", 1536: "1.5 KiB", 1 << 20: "1 MiB", 5 << 30: "5 GiB", 3 << 40: "3 TiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestParseMemInfo(t *testing.T) {
	if n := parseMemInfo([]byte("Foo: 1 kB\nMemTotal:   2048 kB\nBar: 3 kB\n")); n != 2<<20 {
		t.Errorf("got %d", n)
	}
	for _, bad := range []string{"", "MemTotal:", "MemTotal: x kB"} {
		if n := parseMemInfo([]byte(bad)); n != 0 {
			t.Errorf("%q: got %d", bad, n)
		}
	}
}
