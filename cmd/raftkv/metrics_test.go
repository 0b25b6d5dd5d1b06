package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const metricsPage = "../../docs/metrics.md"

// described is what is said of a metric, by the node or by the page.
type described struct {
	kind   string
	labels []string
}

func (d described) String() string {
	return fmt.Sprintf("%s with labels %q", d.kind, d.labels)
}

// Every metric that a running node shows stands in docs/metrics.md as it is, with a unit and a meaning, and nothing else does.
func TestMetricsAreDocumented(t *testing.T) {
	files, nodes := certified(t)
	configs := demoConfigs(demoFlags{nodes: 3, shards: 1, basePort: freeBase(t, 3), data: t.TempDir()})
	for _, c := range configs {
		c.CertFile, c.KeyFile, c.CAFile, c.ClientCAFile = files.CertFile, files.KeyFile, files.CAFile, files.CAFile
		c.SlowRequest = time.Nanosecond
	}
	startNodes(t, configs)
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	for _, line := range [][]string{{"put", "a", "1"}, {"get", "a"}} {
		if got := raft(t, "", append(line, "--cacert", files.CAFile, "--cert", files.CertFile, "--key", files.KeyFile)...); got.code != 0 {
			t.Fatal(got.errOut)
		}
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	secure := trusting(t, nodes)
	secure.Certificates, secure.NextProtos = []tls.Certificate{pair}, nil
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: secure, DisableKeepAlives: true}, Timeout: 10 * time.Second}

	shown := make(map[string]described)
	for _, c := range configs {
		scrape(t, client, "https://"+hostPort(c.AdminHost, c.MetricsPort)+"/metrics", shown)
	}
	written := readMetricsPage(t)
	for name, d := range shown {
		w, ok := written[name]
		if !ok {
			t.Errorf("%s (%s) is not in docs/metrics.md", name, d)
		} else if w.String() != d.String() {
			t.Errorf("%s is a %s; docs/metrics.md says %s", name, d, w)
		}
	}
	for name := range written {
		if _, ok := shown[name]; !ok {
			t.Errorf("no node shows %s, which is in docs/metrics.md", name)
		}
	}
}

// scrape adds what a node shows.
func scrape(t *testing.T, client *http.Client, url string, shown map[string]described) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s does not say what it is", name)
		}
		d := described{kind: strings.ToLower(f.GetType().String())}
		for _, l := range f.GetMetric()[0].GetLabel() {
			d.labels = append(d.labels, l.GetName())
		}
		slices.Sort(d.labels)
		shown[name] = d
	}
}

var (
	metricsRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\| ([^|]*) \\| ([^|]*) \\| ([^|]+) \\|$")
	labelName  = regexp.MustCompile("`([a-z_]+)`")
)

func readMetricsPage(t *testing.T) map[string]described {
	t.Helper()
	content, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	units := []string{"seconds", "bytes", "1", "count", "entries", "index", "ratio", "percent"}
	written := make(map[string]described)
	for _, row := range metricsRow.FindAllStringSubmatch(string(content), -1) {
		name, unit := row[1], strings.TrimSpace(row[3])
		if _, twice := written[name]; twice {
			t.Errorf("%s is in docs/metrics.md twice", name)
		}
		if !slices.Contains(units, unit) {
			t.Errorf("%s: %q is no unit of docs/metrics.md", name, unit)
		}
		for _, u := range []string{"seconds", "bytes"} {
			if strings.Contains(name, "_"+u) && unit != u {
				t.Errorf("%s is said to be in %s", name, unit)
			}
		}
		d := described{kind: row[2]}
		for _, l := range labelName.FindAllStringSubmatch(row[4], -1) {
			d.labels = append(d.labels, l[1])
		}
		slices.Sort(d.labels)
		written[name] = d
	}
	return written
}

// A node whose disk hangs is scraped all the same: what would wait for the disk is left out, and asked for once.
func TestScrapeOfAHangingNode(t *testing.T) {
	hang, asked := make(chan struct{}), make(chan struct{}, 10)
	c := &standingCollector{ask: func() standing {
		asked <- struct{}{}
		<-hang
		return standing{}
	}}
	for range 3 {
		if _, ok := c.now(time.Millisecond); ok {
			t.Error("there is an answer")
		}
	}
	<-asked
	if n := len(asked); n > 0 {
		t.Errorf("asked %d times more while the first question was under way", n)
	}
	close(hang)
	if _, ok := c.now(time.Minute); !ok {
		t.Error("there is no answer though nothing hangs any more")
	}
}
