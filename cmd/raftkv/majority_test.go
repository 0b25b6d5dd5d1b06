package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Without a majority a write is not proposed. The client learns that nothing was applied, why, and what to do.
func TestLostMajority(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 3, shards: 1, basePort: freeBase(t, 3), data: t.TempDir()})
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
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	if got := raft(t, "", "put", "k", "before"); got.code != 0 {
		t.Fatal(got)
	}
	gone := nodes[1:]
	nodes = nodes[:1]
	if err := stopAll(gone); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); hasLeader(nodes[0]); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the node leads without a majority")
		}
	}
	for _, line := range [][]string{{"put", "k", "after", "--timeout", "2s"}, {"batch", "--timeout", "2s"}} {
		got := patient(t, "put k after\n", line...)
		if got.code != exitUnavailable {
			t.Errorf("%s: exit code %d: %s", line[0], got.code, got.errOut)
		}
		for _, want := range []string{"Shard 1 has no leader", "a majority of its nodes", "Nothing was applied", "raftkv status"} {
			if !strings.Contains(got.errOut, want) {
				t.Errorf("%s: %q lacks %q", line[0], got.errOut, want)
			}
		}
	}
	// The process is all right, so nothing may restart it; but clients had better go elsewhere.
	admin := "http://" + hostPort(configs[0].AdminHost, configs[0].MetricsPort)
	if got, err := httpGet(t, admin+"/livez"); err != nil || got != "ok\n" {
		t.Errorf("/livez: %q, %v", got, err)
	}
	if got, err := httpGet(t, admin+"/readyz?verbose"); err != nil || !strings.Contains(got, "not ready: shard 1 has no leader") || !strings.Contains(got, "shard 1: leader \"\"") {
		t.Errorf("/readyz?verbose: %q, %v", got, err)
	}
	if got, err := httpGet(t, admin+"/metrics"); err != nil || !strings.Contains(got, "raftkv_shard_has_leader{shard=\"1\"} 0") || !strings.Contains(got, "raftkv_ready 0") {
		t.Errorf("/metrics: %v", err)
	}
	status := patient(t, "", "status", "--timeout", "5s")
	if n := strings.Count(status.out, "connection refused"); n > 2 {
		t.Errorf("the same is said %d times of two nodes:\n%s", n, status.out)
	}
}

func hasLeader(n *node) bool {
	for _, s := range n.raft.Status().Shards {
		if s.Leader != "" {
			return true
		}
	}
	return false
}

// patient is raft without a deadline of its own, so that --timeout counts.
func patient(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(input), &out, &errOut)
	return outcome{code, out.String(), errOut.String()}
}
