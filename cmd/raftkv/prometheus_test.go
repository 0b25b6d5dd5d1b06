//go:build prometheus

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scraper is a real Prometheus that scrapes a cluster.
type scraper struct {
	t   *testing.T
	url string
}

// startPrometheus starts one with the rules of docker/prometheus, which scrapes nodes every second.
func startPrometheus(t *testing.T, configs []*config) *scraper {
	t.Helper()
	rules, err := filepath.Abs(monitoringDir + "prometheus")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, c := range configs {
		targets = append(targets, fmt.Sprintf("%q", hostPort(c.AdminHost, c.MetricsPort)))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	content := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%[1]s/records.yml, %[1]s/alerts.yml]
scrape_configs:
  - job_name: raftkv
    scheme: https
    tls_config: {ca_file: %[2]s}
    static_configs: [{targets: [%[3]s]}]
`, rules, configs[0].CAFile, strings.Join(targets, ", "))
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	address := hostPort("127.0.0.1", freePort(t))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Prometheus: %v; install it: apt-get install --no-install-recommends prometheus", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("Prometheus says:\n%s", text)
		}
		_ = log.Close() // it was read
	})
	return &scraper{t: t, url: "http://" + address}
}

// get asks the API; ok is false if it does not answer (yet).
func (p *scraper) get(path string, data any) bool {
	p.t.Helper()
	res, err := http.Get(p.url + path)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return false // it starts
	}
	if answer.Status != "success" {
		p.t.Fatalf("%s: %s", path, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		p.t.Fatal(err)
	}
	return true
}

// series is how many series an expression gives now.
func (p *scraper) series(expr string) int {
	p.t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	p.get("/api/v1/query?query="+url.QueryEscape(expr), &data)
	return len(data.Result)
}

// expression is a query of the dashboard with its variables filled in: all nodes, over a window.
func expression(expr, window string) string {
	return strings.NewReplacer("$instance", ".*", "$__rate_interval", window).Replace(expr)
}

// Every query of the dashboard has data for a cluster that works, every rule can be evaluated, and none fires but that of certificates that end within the day.
func TestPrometheus(t *testing.T) {
	files, _ := certified(t)
	configs := demoConfigs(demoFlags{nodes: 3, shards: 2, basePort: freeBase(t, 3), data: t.TempDir()})
	for _, c := range configs {
		c.CertFile, c.KeyFile, c.CAFile = files.CertFile, files.KeyFile, files.CAFile
	}
	startNodes(t, configs)
	p := startPrometheus(t, configs)
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	load := func() {
		if got := raft(t, "", "bench", "--op", "mixed", "--clients", "4", "--duration", "500ms", "--cacert", files.CAFile); got.code != 0 {
			t.Fatal(got.errOut)
		}
	}

	missing := make(map[string]string)
	for _, panel := range readDashboard(t).Panels {
		for _, q := range panel.Targets {
			missing[panel.Title+", query "+q.RefID] = expression(q.Expr, "10s")
		}
	}
	queries := len(missing)
	for end := time.Now().Add(2 * time.Minute); len(missing) > 0; {
		if time.Now().After(end) {
			t.Fatalf("of %d queries of the dashboard, these have no data: %q", queries, missing)
		}
		load() // which takes half a second
		for name, expr := range missing {
			if p.series(expr) > 0 {
				delete(missing, name)
			}
		}
	}
	if n := p.series(`raftkv_shard_has_leader == 1`); n != 9 { // the meta shard and two, on three nodes
		t.Errorf("%d replicas know a leader, want 9", n)
	}

	var data struct {
		Groups []struct {
			Rules []struct{ Name, Type, Health, LastError, State string }
		}
	}
	if !p.get("/api/v1/rules", &data) {
		t.Fatal("the rules cannot be read")
	}
	rules := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			rules++
			if r.Health != "ok" {
				t.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
			if expected := r.Name == "RaftkvCertificateEnds" || r.Name == "RaftkvHighCPU" || r.Name == "RaftkvDiskFilling"; r.State == "firing" && !expected {
				t.Errorf("%s fires", r.Name) // the certificates of the test are short, and its machine may be busy or full
			}
		}
	}
	if want := len(readRules(t, "records.yml")) + len(readRules(t, "alerts.yml")); rules != want {
		t.Errorf("%d rules are loaded, want %d", rules, want)
	}
	if n := p.series(`ALERTS{alertname="RaftkvCertificateEnds",alertstate="firing",certificate="node"}`); n != 3 {
		t.Errorf("%d alerts of certificates that end within the day, want 3", n)
	}
	t.Logf("%d queries of the dashboard have data, %d rules are evaluated", queries, rules)
}
