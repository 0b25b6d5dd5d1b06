package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	monitoringDir = "../../docker/"
	dashboardPath = monitoringDir + "grafana/dashboards/raftkv.json"
)

// dashboard is the part of Grafana's form that we have.
type dashboard struct {
	UID, Title string
	Panels     []struct {
		ID          int
		Type, Title string
		Datasource  struct{ UID string }
		GridPos     struct{ H, W, X, Y int }
		FieldConfig struct{ Defaults struct{ Unit string } }
		Targets     []struct{ RefID, Expr, LegendFormat string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

func readDashboard(t *testing.T) *dashboard {
	t.Helper()
	content, err := os.ReadFile(dashboardPath)
	if err != nil {
		t.Fatal(err)
	}
	d := &dashboard{}
	if err := json.Unmarshal(content, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// rule is a recording or alerting rule.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func readRules(t *testing.T, name string) (rules []rule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	readYAML(t, monitoringDir+"prometheus/"+name, &file)
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

func readYAML(t *testing.T, path string, to any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(content, to)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// The dashboard is one that Grafana takes: panels have a place of their own, queries, units and the data source that the reader chooses.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	taken, ids := make(map[[2]int]string), make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d, %q: the id is taken or there is no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok || at[0] >= 24 {
					t.Fatalf("%q and %q are both at %v", p.Title, other, at)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%q lacks a data source, a unit or a query", p.Title)
		}
		refs := make(map[string]bool)
		for _, q := range p.Targets {
			if refs[q.RefID] || q.LegendFormat == "" {
				t.Errorf("%q: query %s is there twice or has no legend", p.Title, q.RefID)
			}
			refs[q.RefID] = true
		}
	}
	if d.UID != "raftkv" || len(d.Templating.List) != 2 {
		t.Errorf("%s, variables %v", d.UID, d.Templating.List)
	}
}

// Grafana finds its data source and its dashboard where compose.yaml puts them.
func TestGrafanaProvisioning(t *testing.T) {
	var sources struct {
		Datasources []struct{ UID, Type, URL string }
	}
	readYAML(t, monitoringDir+"grafana/provisioning/datasources/prometheus.yaml", &sources)
	if s := sources.Datasources; len(s) != 1 || s[0].Type != "prometheus" || s[0].URL != "http://prometheus:9090" {
		t.Errorf("%+v", s)
	}
	var providers struct {
		Providers []struct {
			Type    string
			Options struct{ Path string }
		}
	}
	readYAML(t, monitoringDir+"grafana/provisioning/dashboards/raftkv.yaml", &providers)
	if p := providers.Providers; len(p) != 1 || p[0].Type != "file" || p[0].Options.Path != "/var/lib/grafana/dashboards" {
		t.Errorf("%+v", p)
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:raftkv|go|process)_[a-z0-9_]+`)
	recordName = regexp.MustCompile(`\b[a-z]+:raftkv_[a-z0-9_]+:[a-z0-9_]+`)
	seriesEnd  = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// Dashboard, rules and their tests ask for metrics and records that there are, and docs/operations.md has a section for every alert.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	known, records := readMetricsPage(t), make(map[string]bool)
	for _, r := range readRules(t, "records.yml") {
		records[r.Record] = true
	}
	check := func(where, expr string) {
		t.Helper()
		for _, name := range recordName.FindAllString(expr, -1) {
			if !records[name] {
				t.Errorf("%s asks for %s, which no rule records", where, name)
			}
		}
		for _, name := range metricName.FindAllString(recordName.ReplaceAllString(expr, ""), -1) {
			base := seriesEnd.ReplaceAllString(name, "")
			if d, ok := known[base]; !(known[name].kind != "" || ok && d.kind == "histogram") {
				t.Errorf("%s asks for %s, which is not in docs/metrics.md", where, name)
			}
		}
	}
	for _, p := range readDashboard(t).Panels {
		for _, q := range p.Targets {
			check(fmt.Sprintf("panel %q", p.Title), q.Expr)
		}
	}
	for _, r := range readRules(t, "records.yml") {
		check(r.Record, r.Expr)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(monitoringDir + "prometheus/rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range readRules(t, "alerts.yml") {
		check(r.Alert, r.Expr)
		if !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say how bad it is, or what it is", r.Alert)
		}
		if !strings.Contains(string(page), "\n### "+r.Alert+"\n") {
			t.Errorf("docs/operations.md has no section %s", r.Alert)
		}
		if !regexp.MustCompile(`alertname: ` + r.Alert + `\b`).Match(tests) {
			t.Errorf("rules_test.yml does not test %s", r.Alert)
		}
	}
}
