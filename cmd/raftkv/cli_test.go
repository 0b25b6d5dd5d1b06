package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// freeBase returns a base port of which all ports of a demo of n nodes are free. It lies below the ports that the system gives to
// connections.
func freeBase(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		base := 10_000 + rand.IntN(20_000)
		if free(base, n) {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

func free(base, n int) bool {
	for i := range n {
		for _, offset := range []int{0, peerPortOffset, adminPortOffset, grpcPortOffset} {
			l, err := net.Listen("tcp", hostPort("127.0.0.1", base+i+offset))
			if err != nil {
				return false
			}
			l.Close()
		}
	}
	return true
}

// startCluster starts what demo starts, and points the clients at it.
func startCluster(t *testing.T, nodes, shards int) []*config {
	t.Helper()
	configs := demoConfigs(demoFlags{nodes: nodes, shards: shards, basePort: freeBase(t, nodes), data: t.TempDir()})
	startNodes(t, configs)
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	return configs
}

// openClient opens a client of a cluster for as long as the test lasts.
func openClient(t *testing.T, configs []*config) *raftkv.Client {
	t.Helper()
	client, err := raftkv.Open(t.Context(), []string{hostPort("127.0.0.1", configs[0].Port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func startNodes(t *testing.T, configs []*config) {
	t.Helper()
	var nodes []*node
	t.Cleanup(func() {
		if err := stopAll(nodes); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	for _, c := range configs {
		n, err := startNode(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	if err := waitReady(t.Context(), nodes); err != nil {
		t.Fatal(err)
	}
}

// outcome is what a command line did.
type outcome struct {
	code        int
	out, errOut string
}

// raft runs a command line with an input.
func raft(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code := run(ctx, args, strings.NewReader(input), &out, &errOut)
	return outcome{code, out.String(), errOut.String()}
}

// step is a command line and what it must print.
type step struct {
	line  string // words; ~ is a blank
	input string
	code  int
	out   string
	err   string // within standard error; empty is nothing there
}

// tokens are of the cluster, which is another one each time.
var tokens = regexp.MustCompile(`,"token":"[-_0-9A-Za-z]+"`)

func (s *step) run(t *testing.T) {
	t.Helper()
	args := strings.Fields(s.line)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "~", " ")
	}
	got := raft(t, s.input, args...)
	if got.code != s.code {
		t.Errorf("%s: exit code %d, want %d: %s", s.line, got.code, s.code, got.errOut)
	}
	if d := cmp.Diff(s.out, tokens.ReplaceAllString(got.out, "")); d != "" {
		t.Errorf("%s: output (-want +got):\n%s", s.line, d)
	}
	if s.err == "" && got.errOut != "" || !strings.Contains(got.errOut, s.err) {
		t.Errorf("%s: on standard error %q, want %q", s.line, got.errOut, s.err)
	}
}

// Every command for keys and values, in one story, since revisions count.
func TestCommands(t *testing.T) {
	startCluster(t, 3, 1)
	file := filepath.Join(t.TempDir(), "operations")
	if err := os.WriteFile(file, []byte("put file 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []step{
		{line: "get a", code: exitNotFound, err: `raftkv: key "a" not found`},
		{line: "put a one", out: "written: revision 1, version 1\n"},
		{line: "put a two -o json", out: `{"key":"a","revision":2,"shard":1,"version":2}` + "\n"},
		{line: "get a", out: "two"},
		{line: "put b -", input: "\x00\xff\n", out: "written: revision 3, version 1\n"},
		{line: "get b", out: "\x00\xff\n"},
		{line: "get b -o json", out: `{"key":"b","value_base64":"AP8K","create_revision":3,"mod_revision":3,"version":1}` + "\n"},
		{line: "get a -o table", out: "KEY  REVISION  VERSION  VALUE\na    2         2        two\n"},
		{line: "put <c>~& -", out: "written: revision 4, version 1\n"},
		{line: "get <c>~&", out: ""},
		{line: "get <c>~& -o json", out: `{"key":"<c> &","value":"","create_revision":4,"mod_revision":4,"version":1}` + "\n"},
		{line: "scan", out: "KEY    REVISION  VERSION  VALUE\n<c> &  4         1        \"\"\na      2         2        two\nb      3         1        \"\\x00\\xff\\n\"\n"},
		{line: "scan --keys-only --reverse --limit 2", out: "KEY  REVISION  VERSION\nb    3         1\na    2         2\n"},
		{line: "scan --prefix a -o json", out: `{"key":"a","value":"two","create_revision":1,"mod_revision":2,"version":2}` + "\n"},
		{line: "scan --start a --end b -o json --keys-only", out: `{"key":"a","create_revision":1,"mod_revision":2,"version":2}` + "\n"},
		{line: "scan --revision 1 -o json", out: `{"key":"a","value":"one","create_revision":1,"mod_revision":1,"version":1}` + "\n"},
		{line: "scan --revision 3 --reverse --keys-only", out: "KEY  REVISION  VERSION\nb    3         1\na    2         2\n"},
		{line: "scan --revision 99", code: exitFailed, out: "KEY  REVISION  VERSION  VALUE\n", err: "99"},
		{line: "scan --prefix zzz", out: "KEY  REVISION  VERSION  VALUE\n"},
		{line: "delete a", out: "deleted: revision 5\n"},
		{line: "delete a", out: "nothing to delete: the key does not exist\n"},
		{line: "del a -o json", out: `{"key":"a","revision":5,"shard":1,"deleted":false}` + "\n"},
		{line: "batch", input: "# three\nput x 1\n\nput y \"two words\"\ndelete b\n", out: "applied 3 operations: revision 6\n"},
		{line: "batch -o json " + file, out: `{"operations":1,"revision":7,"shard":1}` + "\n"},
		{line: "get y", out: "two words"},
		{line: "batch --non-atomic", input: "put n 1\nput n 2\ndelete n\nput n 3\nput m 1", out: "applied 5 operations\n"},
		{line: "get n", out: "3"},
		{line: "batch --non-atomic -o json", input: `{"key":"n","value":"4","version":9}`, out: `{"applied":1,"failed":0,"unknown":0}` + "\n"},
		{line: "put cas 1 --if-exists", code: exitCondition, err: `raftkv: put "cas": the condition does not hold: the key does not exist` + "\n"},
		{line: "put cas 1 --if-absent", out: "written: revision 14, version 1\n"},
		{line: "put cas 2 --if-absent", code: exitCondition, err: `put "cas": the condition does not hold: the key is at revision 14`},
		{line: "put cas 2 --if-revision 0", code: exitCondition, err: "the key is at revision 14"},
		{line: "put cas 2 --if-revision 14 -o json", out: `{"key":"cas","revision":15,"shard":1,"version":2}` + "\n"},
		{line: "put cas - --if-revision 14", input: "3", code: exitCondition, err: "the key is at revision 15"},
		{line: "delete cas --if-revision 14", code: exitCondition, err: `delete "cas": the condition does not hold: the key is at revision 15`},
		{line: "delete cas --if-revision 15", out: "deleted: revision 16\n"},
		{line: "delete cas --if-exists", code: exitCondition, err: "the key does not exist"},
		{line: "get cas", code: exitNotFound, err: "not found"},
		{line: "get cas --revision 14", out: "1"},
		{line: "get cas --revision 15 -o table", out: "KEY  REVISION  VERSION  VALUE\ncas  15        2        2\n"},
		{line: "get cas --revision 13", code: exitNotFound, err: "not found"},
		{line: "get cas --revision 99", code: exitFailed, err: "revision 99 is not reached, the shard is at 16"},
		{
			line: "txn", input: "# a lock\nif lock absent\n\nif n value 4\nthen put lock \"me too\"\nthen get n\nthen delete nothing\nelse get lock\n",
			out: "then, at revision 17:\n  put lock: version 1\n  get n: 4, revision 13, version 2\n  delete nothing: the key does not exist\n",
		},
		{
			line: "txn", input: "if lock absent\nthen put lock me\nelse get lock", code: exitCondition,
			out: "else, at revision 17:\n  get lock: me too, revision 17, version 1\n", err: "raftkv: 'if lock absent' does not hold, the key is at revision 17\n",
		},
		{
			line: "txn --prev -o json", input: `{"compare":[{"key":"lock","modRevision":"17"},{"key":"n","exists":true}],"then":[{"delete":{"key":"lock"}},{"put":{"key":"n","value":"NQ=="}}]}`,
			out: `{"succeeded":true,"revision":18,"shard":1,"results":[` +
				`{"op":"delete","key":"lock","deleted":true,"previous":{"key":"lock","value":"me too","create_revision":17,"mod_revision":17,"version":1}},` +
				`{"op":"put","key":"n","version":3,"previous":{"key":"n","value":"4","create_revision":12,"mod_revision":13,"version":2}}]}` + "\n",
		},
		{
			line: "txn -o json", input: "if lock exists", code: exitCondition,
			out: `{"succeeded":false,"revision":18,"shard":1,"failed":{"index":0,"current":0},"results":[]}` + "\n", err: "'if lock exists' does not hold",
		},
	} {
		s.run(t)
	}
}

// What goes wrong, with the exit codes that the help documents.
func TestCommandErrors(t *testing.T) {
	startCluster(t, 1, 2)
	big := strings.Repeat("x", 1<<20+1)
	for _, s := range []step{
		{line: "put big -", input: big, code: exitFailed, err: "value is 1048577, the limit is 1048576"},
		{line: "put \xff 1", code: exitUsage, err: "key must be valid UTF-8"},
		{line: "batch", input: "put a 1\nput b 2\nput c 3\nput d 4\nput e 5\nput f 6", code: exitFailed, err: "  shard 2: "},
		{line: "batch", input: "put a 1\nget b", code: exitUsage, err: `line 2: "get" is no operation`},
		{line: "batch", code: exitUsage, err: "operations must not be empty"},
		{line: "batch /nonexistent", code: exitFailed, err: "no such file"},
		{
			line: "batch --non-atomic", input: "put a 1\nput b " + big + "\nput c 3\n", code: exitFailed,
			out: "applied 2 operations\n", err: "line 2: put \"b\": value is 1048577, the limit is 1048576\nraftkv: 1 operations failed",
		},
		{
			line: "batch --non-atomic", input: "put a 1\nput b\n", code: exitFailed,
			out: "applied 1 operations\n", err: "line 2: put takes a key and a value, not 1 words; put \"quotes\" around what holds spaces; the 1 operations before it were applied",
		},
		{line: "txn", code: exitUsage, err: "there is nothing to do"},
		{line: "txn", input: "then put a 1\nif a is 1", code: exitUsage, err: "line 2: write if KEY absent"},
		{line: "txn", input: "if a revision x", code: exitUsage, err: `line 1: "x" is no revision`},
		{line: "txn", input: "then put a two words", code: exitUsage, err: "line 1: write then put KEY VALUE"},
		{line: "txn", input: "put a 1", code: exitUsage, err: `line 1: "put" begins no line`},
		{line: "txn", input: "then get a\nthen put a 1", code: exitUsage, err: "then[1].put.key: then[0] has the same key"},
		{line: "txn", input: "then get a\nelse get a", code: exitUsage, err: "Else needs a compare"},
		{line: "txn", input: `{"then":[{"get":{"key":"a"}}],"then":[]}`, code: exitUsage, err: "duplicate"},
		{line: "txn", input: `{"idempotencyKey":"once","then":[{"put":{"key":"a"}}]}`, code: exitUsage, err: "idempotencyKey has no effect here: this program makes an id of its own for each run; leave it out, or send"},
		{line: "txn", input: `{"idempotency_key":"once","then":[{"put":{"key":"a"}}]}`, code: exitUsage, err: "idempotencyKey has no effect here"},
		{line: "txn", input: `{"requestId":{"sequence":"1"},"then":[{"put":{"key":"a"}}]}`, code: exitUsage, err: "requestId is made by this program"},
		{line: "txn", input: `{"compare":[{"key":"a"}]}`, code: exitUsage, err: "compare[0]: it needs exists"},
		{line: "txn /nonexistent", code: exitFailed, err: "no such file"},
		{line: "txn", input: "then get a\nthen get b\nthen get c\nthen get d\nthen get e\nthen get f", code: exitFailed, err: "  shard 2: "},
		{line: "shard transfer-leader 1 nobody", code: exitUsage, err: "node nobody holds no replica of shard 1"},
		{line: "shard transfer-leader one node1", code: exitUsage, err: `"one" is not the number of a shard`},
		{line: "scan --prefix a --start b", code: exitUsage, err: "--prefix does not go with --start"},
		{line: "scan --revision 1 --consistency stale", code: exitUsage, err: "--revision does not go with --consistency stale"},
		{line: "scan --limit -1", code: exitUsage, err: "--limit must not be negative"},
		{line: "get", code: exitUsage, err: "the command is: raftkv get KEY"},
		{line: "get a --max-staleness 1s", code: exitUsage, err: "--max-staleness and --token need --consistency stale"},
		{line: "scan --token x", code: exitUsage, err: "--max-staleness and --token need --consistency stale"},
		{line: "get a --consistency old", code: exitUsage, err: "it must be linearizable or stale"},
		{line: "put a 1 --if-absent --if-revision 3", code: exitUsage, err: "there are several conditions; use one of --if-exists, --if-revision and, to put, --if-absent"},
		{line: "delete a --if-revision last", code: exitUsage, err: "--if-revision"},
		{line: "get a --output yaml", code: exitUsage, err: "it must be value or table or json\nSee 'raftkv get --help'."},
		{line: "get a --timeout 0s", code: exitUsage, err: "--timeout must be more than 0"},
		{line: "get a --endpoints nowhere", code: exitUsage, err: `endpoint "nowhere" is not host:port`},
		{line: "get a --cert c", code: exitUsage, err: "--cert and --key go together"},
		{line: "get a --cacert /nonexistent", code: exitFailed, err: "--cacert: open /nonexistent"},
		{line: "git", code: exitUsage, err: `"git" is no command of raftkv; did you mean get`},
		{line: "node remove", code: exitUsage, err: `"remove" is no command of raftkv node`},
		{line: "get a --timeout 50ms --endpoints 127.0.0.1:1", code: exitUnavailable, err: "is a node running there? Say where one is with --endpoints or RAFTKV_ENDPOINTS"},
		{line: "log dump", code: exitUsage, err: "--data is missing"},
		{line: "log dump --data /nonexistent", code: exitFailed, err: "/nonexistent is not the data directory of a node"},
		{line: "demo --nodes 0", code: exitUsage, err: "--nodes is 0"},
		{line: "demo --base-port 65400", code: exitUsage, err: "leaves no room for the ports of 3 nodes; use one up to 65233"},
		{line: "demo --shards 0", code: exitUsage, err: "--shards is 0"},
		{line: "serve --config /nonexistent", code: exitFailed, err: "read the configuration: open /nonexistent"},
		{line: "serve --port 0", code: exitUsage, err: "--port: server.port: 0 is out of range"},
		{line: "bench --size big", code: exitUsage, err: `--size: "big" is not a size`},
	} {
		s.run(t)
	}
}

// Loading stops when everything fails.
func TestBatchGivesUp(t *testing.T) {
	startCluster(t, 1, 1)
	lines := strings.Repeat("put a "+strings.Repeat("x", 1<<20+1)+"\n", 50)
	got := raft(t, lines, "batch", "--non-atomic")
	if n := strings.Count(got.errOut, "raftkv: line "); got.code != exitFailed || n != failuresMax {
		t.Errorf("exit code %d, %d failures reported: %s", got.code, n, got.errOut)
	}
}

// What scan prints in JSON can be loaded again, whatever bytes there are.
func TestScanRoundTrip(t *testing.T) {
	startCluster(t, 1, 1)
	want := map[string]string{"a": "", "b\n\"{t}": "text", "c": "\xff\x00", "d": "<&>\u2028"}
	for k, v := range want {
		if got := raft(t, v, "put", k, "-"); got.code != 0 {
			t.Fatal(got.errOut)
		}
	}
	dump := raft(t, "", "scan", "-o", "json").out
	for k := range want {
		raft(t, "", "delete", k)
	}
	if got := raft(t, dump, "batch", "--non-atomic"); got.code != 0 {
		t.Fatal(got.errOut)
	}
	for k, v := range want {
		if got := raft(t, "", "get", k); got.out != v {
			t.Errorf("%q: %q, want %q (%s)", k, got.out, v, got.errOut)
		}
	}
}

var (
	digits = regexp.MustCompile(`[0-9]+`)
	blanks = regexp.MustCompile(` +`)
)

// shape is a table without its figures.
func shape(s string) string {
	lines := strings.Split(blanks.ReplaceAllString(digits.ReplaceAllString(s, "#"), " "), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// The commands that show the cluster, and the one that steers it.
func TestShow(t *testing.T) {
	configs := startCluster(t, 3, 1)
	checkAdmin(t, configs[0])
	for _, s := range []struct{ line, want string }{
		{
			"node list",
			"NODE CLIENTS PEERS REACHABLE SHARDS LEADS\n" + strings.Repeat("node# #.#.#.#:# #.#.#.#:# REACHABLE #,# LEADS\n", 3),
		},
		{
			"shard list",
			"SHARD SLOTS LEADER REPLICAS TERM COMMIT APPLIED DURABLE LOG REVISION\n" + strings.Repeat("# # node# node#,node#,node# # # # # #-# #\n", 2),
		},
		{"shard locate {a}b", "HASHED SLOT SHARD LEADER\na # # node#\n"},
		{
			"status",
			"cluster ID\n\nNODE ADDRESS STATE SHARDS LEADS UP LOG DATA VERSION\n" +
				strings.Repeat("node# #.#.#.#:# ready # # #s SIZE SIZE dev\n", 3),
		},
		// Last: for a moment, not every node knows who leads.
		{"shard transfer-leader 1 node2", "node# leads shard # in term #\n"},
	} {
		got := raft(t, "", strings.Fields(s.line)...)
		text := got.out
		for _, cut := range []struct{ pattern, name string }{
			{`(?m)^cluster [0-9a-f]{32}$`, "cluster ID"},
			{`(?m) (yes|no)( +[0-9,]+) +[-0-9,]+$`, " REACHABLE$2 LEADS"}, // two followers may not be connected yet
			{`[0-9.]+ [KM]iB`, "SIZE"},
		} {
			text = regexp.MustCompile(cut.pattern).ReplaceAllString(text, cut.name)
		}
		if d := cmp.Diff(s.want, shape(text)); got.code != 0 || d != "" {
			t.Errorf("%s: exit code %d %s (-want +got):\n%s", s.line, got.code, got.errOut, d)
		}
	}
	for _, line := range []string{"node list", "shard list", "shard locate a", "status", "shard transfer-leader 1 node1", "version"} {
		got := raft(t, "", append(strings.Fields(line), "-o", "json")...)
		for d := json.NewDecoder(strings.NewReader(got.out)); d.More(); {
			var v any
			if err := d.Decode(&v); err != nil {
				t.Fatalf("%s: %v in %s", line, err, got.out)
			}
		}
		if got.code != 0 || !strings.HasSuffix(got.out, "}\n") && !strings.HasSuffix(got.out, "}]\n") {
			t.Errorf("%s in JSON: exit code %d, %s%s", line, got.code, got.out, got.errOut)
		}
	}
}

// checkAdmin asks for what operators and probes ask for.
func checkAdmin(t *testing.T, c *config) {
	t.Helper()
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "raftkv_leader_changes_total"} {
		res, err := httpGet(t, "http://"+hostPort(c.AdminHost, c.MetricsPort)+path)
		if err != nil || !strings.Contains(res, want) {
			t.Errorf("%s: %v %.200s", path, err, res)
		}
	}
}

// A node that is gone is shown, and does not keep the others from being shown.
func TestStatusOfAMissingNode(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 3, shards: 1, basePort: freeBase(t, 3), data: t.TempDir()})
	var nodes []*node
	for _, c := range configs {
		n, err := startNode(c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	t.Cleanup(func() { _ = stopAll(nodes[:2]) })
	if err := waitReady(t.Context(), nodes); err != nil {
		t.Fatal(err)
	}
	if err := nodes[2].stop(); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	got := raft(t, "", "status")
	if got.code != 0 || strings.Count(got.out, "unreachable") != 1 || strings.Count(got.out, "node1 ")+strings.Count(got.out, "node2 ") != 2 {
		t.Errorf("exit code %d\n%s%s", got.code, got.out, got.errOut)
	}
	if !strings.Contains(raft(t, "", "status", "-o", "json").out, `"error":"`) {
		t.Error("no error in JSON")
	}
}

func TestBench(t *testing.T) {
	configs := startCluster(t, 1, 1)
	got := raft(t, "", "bench", "--op", "mixed", "--keys", "10", "--size", "1KiB", "--clients", "4", "--duration", "100ms", "-o", "json")
	var report struct {
		Operations int `json:"operations"`
		ValueBytes int `json:"value_bytes"`
	}
	if err := json.Unmarshal([]byte(got.out), &report); err != nil || got.code != 0 || report.Operations == 0 || report.ValueBytes != 1024 {
		t.Errorf("%v, %+v: exit code %d\n%s%s", err, report, got.code, got.out, got.errOut)
	}
	grpc := fmt.Sprintf("127.0.0.1:%d", configs[0].GRPCPort)
	got = raft(t, "", "bench", "--transport", "grpc", "--endpoints", grpc, "--clients", "2", "--duration", "100ms")
	if got.code != 0 || !strings.Contains(got.out, "2 clients over grpc, closed loop") {
		t.Errorf("exit code %d\n%s%s", got.code, got.out, got.errOut)
	}
}

// A disk or pipe that takes no more output is a failure, not silence.
func TestOutputFails(t *testing.T) {
	code := run(t.Context(), []string{"version"}, strings.NewReader(""), brokenPipe{}, io.Discard)
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// What a write has said is what a later read holds, whoever serves it.
func TestStaleReads(t *testing.T) {
	startCluster(t, 3, 1)
	var last string
	for _, w := range []struct{ line, input, value string }{
		{line: "put a 1", value: "1"},
		{line: "delete a"},
		{line: "batch", input: "put a 2\nput b 2", value: "2"},
		{line: "batch --non-atomic", input: "put a 3\nput a 4", value: "4"},
		{line: "txn", input: "if a exists\nthen put a 5", value: "5"},
		{line: "txn", input: "if a absent\nelse put a 1", value: "1"},
	} {
		got := raft(t, w.input, append(strings.Fields(w.line), "-o", "json")...)
		var answer struct{ Token string }
		if err := json.Unmarshal([]byte(got.out), &answer); err != nil || answer.Token == "" {
			t.Fatalf("%s: no token in %+v: %v", w.line, got, err)
		}
		last = answer.Token
		for range 3 {
			if got := raft(t, "", "get", "a", "--consistency", "stale", "--token", last); got.out != w.value || (got.code == exitNotFound) != (w.value == "") {
				t.Errorf("%s: %+v, want %q", w.line, got, w.value)
			}
		}
	}
	if got := raft(t, "", "scan", "--consistency", "stale", "--max-staleness", "1m", "--token", last, "-o", "json"); got.code != 0 || !strings.Contains(got.out, `"value":"1"`) {
		t.Errorf("%+v", got)
	}
	if got := raft(t, "", "get", "a", "--consistency", "stale", "--token", "x"); got.code != exitUsage || !strings.Contains(got.errOut, "token") {
		t.Errorf("%+v", got)
	}
}
