package main

import (
	"log/slog"
	"testing"
)

// A collector that is not there costs nothing but its spans: writes go on, and the node stops.
func TestTracesWithoutACollector(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 1, shards: 1, basePort: freeBase(t, 1), data: t.TempDir(), traceEndpoint: "http://127.0.0.1:1", traceRatio: 1})
	n, err := startNode(configs[0], slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := waitReady(t.Context(), []*node{n}); err != nil {
		t.Error(err)
	}
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	for range 20 {
		if o := raft(t, "", "put", "k", "v"); o.code != 0 {
			t.Errorf("exit code %d: %s", o.code, o.errOut)
		}
	}
	if err := n.stop(); err != nil {
		t.Error(err)
	}
}

func TestTracesURL(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://127.0.0.1:4318":       "http://127.0.0.1:4318/v1/traces",
		"http://127.0.0.1:4318/":      "http://127.0.0.1:4318/v1/traces",
		"https://collector/otlp/here": "https://collector/otlp/here",
	} {
		if got := tracesURL(endpoint); got != want {
			t.Errorf("%s: %s, want %s", endpoint, got, want)
		}
	}
}
