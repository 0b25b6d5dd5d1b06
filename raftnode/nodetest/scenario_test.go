package nodetest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestScenarios runs the files of testdata: one command after another on a simulated cluster, each with what it answers. -rewrite writes the
// answers anew.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			synctest.Test(t, func(t *testing.T) {
				s := &scenario{named: make(map[string]int)}
				defer s.close(t)
				datadriven.RunTest(t, file, s.run)
			})
		})
	}
}

// scenario is a cluster and the nodes that have got names in the file: leader is who leads shard 1, old who led when a command named it last,
// outsider who holds no replica of shard 1.
type scenario struct {
	c     *Cluster
	named map[string]int
}

func (s *scenario) close(t *testing.T) {
	if s.c == nil {
		return
	}
	s.c.Close()
	for _, v := range s.c.Violations() {
		t.Error(v)
	}
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	if d.Cmd != "cluster" && s.c == nil {
		d.Fatalf(t, "the first command must be cluster")
	}
	switch d.Cmd {
	case "cluster":
		return s.cluster(t, d)
	case "put", "delete", "get", "load", "verify":
		return s.request(t, d)
	case "await-leader", "leaders", "applied", "installed", "check":
		return s.look(t, d)
	default:
		return s.fault(t, d)
	}
}

func (s *scenario) cluster(t *testing.T, d *datadriven.TestData) string {
	o := Options{Seed: 1}
	d.MaybeScanArgs(t, "seed", &o.Seed)
	d.MaybeScanArgs(t, "nodes", &o.Nodes)
	d.MaybeScanArgs(t, "shards", &o.Shards)
	d.MaybeScanArgs(t, "replicas", &o.Replicas)
	d.MaybeScanArgs(t, "snapshot-entries", &o.SnapshotEntries)
	d.MaybeScanArgs(t, "max-log-entries", &o.MaxLogEntries)
	if os.Getenv("RAFTKV_TEST_LOG") != "" {
		o.Log = slog.NewTextHandler(os.Stderr, nil)
	}
	s.c = New(o)
	if !s.c.Formed(20*time.Second) || !s.c.RunUntil(10*time.Second, s.settled) {
		return "does not form"
	}
	return "ok"
}

// settled says whether every live node knows one leader of every shard, and it lives.
func (s *scenario) settled() bool {
	for shard := range placement.ShardID(s.c.options.Shards + 1) {
		if s.c.Leader(shard) < 0 {
			return false
		}
	}
	return true
}

// node reads a node: a number from 1, or leader, follower, old.
func (s *scenario) node(t *testing.T, d *datadriven.TestData, name string) int {
	t.Helper()
	leader := s.c.Leader(1)
	switch name {
	case "leader":
		s.named["old"] = leader
		return leader
	case "follower":
		for i := range s.c.processes {
			if i != leader && s.c.Up(i) && i != s.named["old"] {
				return i
			}
		}
		return -1
	case "outsider":
		for _, n := range s.c.processes[0].life.node.Nodes() {
			if !slices.Contains(n.Shards, 1) {
				return s.c.process(n.ID).index
			}
		}
		return -1
	case "old":
		return s.named["old"]
	}
	n, err := strconv.Atoi(name)
	if err != nil || n < 1 || n > len(s.c.processes) {
		d.Fatalf(t, "there is no node %q", name)
	}
	return n - 1
}

// nodes reads the nodes of an argument; others stands for all that were not named before it.
func (s *scenario) nodes(t *testing.T, d *datadriven.TestData, arg datadriven.CmdArg, before map[int]bool) []int {
	t.Helper()
	var out []int
	for _, v := range arg.Vals {
		if v != "others" && v != "all" {
			out = append(out, s.node(t, d, v))
			continue
		}
		for i := range s.c.processes {
			if !before[i] || v == "all" {
				out = append(out, i)
			}
		}
	}
	for _, i := range out {
		before[i] = true
	}
	return out
}

func (s *scenario) fault(t *testing.T, d *datadriven.TestData) string {
	named := make(map[int]bool)
	var groups [][]int
	for _, arg := range d.CmdArgs {
		if arg.Key != "cut" && arg.Key != "d" {
			groups = append(groups, s.nodes(t, d, arg, named))
		}
	}
	span := func(name string, def time.Duration) time.Duration {
		text := def.String()
		d.MaybeScanArgs(t, name, &text)
		v, err := time.ParseDuration(text)
		if err != nil {
			d.Fatalf(t, "%s: %v", name, err)
		}
		return v
	}
	each := func(do func(int)) {
		for _, g := range groups {
			for _, i := range g {
				do(i)
			}
		}
	}
	switch d.Cmd {
	case "wait":
		s.c.Run(span("d", time.Second))
	case "partition":
		s.c.Partition(span("cut", 0), groups...)
	case "mute":
		s.c.Mute(groups[0][0], groups[1], false, span("cut", 0))
	case "heal":
		s.c.Heal()
	case "crash":
		each(func(i int) { s.c.processes[i].crash(simfs.KeepSynced, 0) })
	case "stop":
		each(s.c.Stop)
	case "stall-log":
		each(func(i int) { s.c.stallLog(i, true) })
	case "stall-state":
		each(func(i int) { s.c.stallState(i, true) })
	case "start":
		each(s.c.Start)
	case "pause":
		each(s.c.Pause)
	case "resume":
		each(s.c.Resume)
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	return ""
}

func (s *scenario) look(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "await-leader":
		if !s.c.RunUntil(10*s.c.options.election(), func() bool {
			return s.settled() && (!d.HasArg("new") || s.c.Leader(1) != s.named["old"])
		}) {
			return "none"
		}
		return "ok"
	case "leaders":
		n := 0
		for at := range s.c.wire.leaders {
			if at.shard == 1 {
				n++
			}
		}
		return fmt.Sprintf("%d terms of shard 1 had a leader", n)
	case "installed":
		if n := s.c.processes[s.node(t, d, d.CmdArgs[0].Vals[0])].life.node.Metrics().SnapshotsInstalled; n == 0 {
			return "no snapshot"
		}
		return "a snapshot"
	default:
		return s.check()
	}
}

// check waits until all is at rest, closes the nodes and compares what they hold.
func (s *scenario) check() string {
	s.c.Run(5 * s.c.options.election())
	disks := make(map[placement.NodeID]*simfs.FS)
	for i, p := range s.c.processes {
		if !s.c.Up(i) {
			return fmt.Sprintf("node %d is down", i+1)
		}
		s.c.Stop(i)
		disks[p.id] = p.disk
	}
	compared, err := CheckReplicas(disks)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d pairs of replicas are equal", compared)
}

func (s *scenario) request(t *testing.T, d *datadriven.TestData) string {
	via, k, v, within, n := "leader", "", "", "5s", 1
	d.MaybeScanArgs(t, "via", &via)
	d.MaybeScanArgs(t, "k", &k)
	d.MaybeScanArgs(t, "v", &v)
	d.MaybeScanArgs(t, "within", &within)
	d.MaybeScanArgs(t, "n", &n)
	timeout, err := time.ParseDuration(within)
	if err != nil {
		d.Fatalf(t, "within: %v", err)
	}
	stale := staleArg(t, d)
	do := func(key, value string) string {
		i := s.node(t, d, via)
		if i < 0 {
			return "there is no leader"
		}
		r := s.requestOf(d.Cmd, key, value)
		if r.Read != nil {
			r.Read.Stale = stale
		}
		return s.do(i, r, timeout)
	}
	if d.Cmd != "load" && d.Cmd != "verify" {
		return do(k, v)
	}
	for i := range n {
		key, want := fmt.Sprintf("%s%d", k, i), "ok"
		if d.Cmd == "verify" {
			want = fmt.Sprintf("%q", strings.Repeat("v", 100))
		}
		if got := do(key, strings.Repeat("v", 100)); got != want {
			return fmt.Sprintf("key %s: %s", key, got)
		}
	}
	return "ok"
}

// staleArg is how old what is read may be: a duration, or any.
func staleArg(t *testing.T, d *datadriven.TestData) *peerv1.Stale {
	bound := ""
	d.MaybeScanArgs(t, "stale", &bound)
	switch bound {
	case "":
		return nil
	case "any":
		return &peerv1.Stale{}
	}
	most, err := time.ParseDuration(bound)
	if err != nil {
		d.Fatalf(t, "stale: %v", err)
	}
	return &peerv1.Stale{MaxMs: uint64(most.Milliseconds())}
}

func (s *scenario) requestOf(command, key, value string) *raftnode.Request {
	if command == "get" || command == "verify" {
		return &raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{key}}}
	}
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte(value)}
	if command == "delete" {
		op.Kind, op.Value = storev1.OperationKind_OPERATION_KIND_DELETE, nil
	}
	return &raftnode.Request{AutoShard: true, Command: &storev1.Command{
		Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}},
	}}
}

// do gives a node a request and lets time pass until it is answered.
func (s *scenario) do(node int, r *raftnode.Request, within time.Duration) string {
	l := s.c.processes[node].life
	if l == nil || l.node == nil {
		return "down"
	}
	answer := ""
	r.Deadline = l.runtime.Now().Add(within)
	r.Done = func(res raftnode.Result) { answer = answerOf(res) }
	s.c.scheduler.add(0, &event{name: "request", process: l.process, boot: l.number, run: func() { l.node.Submit(r) }})
	if !s.c.RunUntil(within+2*time.Second, func() bool { return answer != "" }) {
		return "no answer"
	}
	return answer
}

func answerOf(res raftnode.Result) string {
	var (
		unknown   *raftnode.UnknownOutcomeError
		notLeader *raftnode.NotLeaderError
		tooStale  *raftnode.TooStaleError
	)
	switch {
	case errors.As(res.Err, &unknown):
		return "outcome unknown"
	case errors.As(res.Err, &notLeader):
		return "not applied: no leader"
	case errors.As(res.Err, &tooStale):
		return fmt.Sprintf("not applied: too stale (age known: %t)", tooStale.Age > 0)
	case errors.Is(res.Err, raftnode.ErrTimeout):
		return "not applied: time ran out"
	case res.Err != nil:
		return "not applied: " + res.Err.Error()
	case res.Write != nil:
		return "ok"
	}
	if r := res.Read.GetRecords()[0].GetRecord(); r != nil {
		return fmt.Sprintf("%q", r.GetValue())
	}
	return "missing"
}
