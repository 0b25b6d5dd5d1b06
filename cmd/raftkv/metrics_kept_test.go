package main

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftkv/raftkv/raftnode"
)

// Every count of a shard is shown once, under its shard.
func TestKeptCollector(t *testing.T) {
	r := prometheus.NewRegistry()
	if err := r.Register(keptCollector{func() []raftnode.ShardMetrics {
		return []raftnode.ShardMetrics{{ID: 0}, {ID: 3, ExpiredKeys: 1, LeasedKeys: 2, Leases: 3, KeyedResults: 4, KeyedBytes: 5}}
	}}); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			shown[f.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"raftkv_shard_expired_keys_total 0": 0, "raftkv_shard_leased_keys 0": 0, "raftkv_shard_leases 0": 0,
		"raftkv_shard_keyed_results 0": 0, "raftkv_shard_keyed_results_bytes 0": 0,
		"raftkv_shard_expired_keys_total 3": 1, "raftkv_shard_leased_keys 3": 2, "raftkv_shard_leases 3": 3,
		"raftkv_shard_keyed_results 3": 4, "raftkv_shard_keyed_results_bytes 3": 5,
	}
	if !maps.Equal(shown, want) {
		t.Errorf("%v, want %v", shown, want)
	}
}
