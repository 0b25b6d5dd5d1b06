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

// Whatever the environment says of telemetry, a node starts.
func TestTracesOfAStrangeEnvironment(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "team")
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-5")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1")
	traces, err := openTracers(defaults(), slog.New(slog.DiscardHandler))
	if err != nil || traces == nil {
		t.Fatalf("%v, %v", traces, err)
	}
	_, span := traces.of().Tracer("test").Start(t.Context(), "span")
	span.End()
	traces.close()
	for name, value := range map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "none"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if traces, err := openTracers(defaults(), slog.New(slog.DiscardHandler)); err != nil || traces != nil {
				t.Errorf("%v, %v", traces, err)
			}
		})
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
