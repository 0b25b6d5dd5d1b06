package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func httpGet(t *testing.T, url string) (string, error) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// watched is a buffer that says when a text has been written to it.
type watched struct {
	mu   sync.Mutex
	b    bytes.Buffer
	want string
	seen chan struct{}
}

func watch(want string) *watched { return &watched{want: want, seen: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.want != "" && strings.Contains(w.b.String(), w.want) {
		w.want = ""
		close(w.seen)
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// wait waits for the text.
func (w *watched) wait(t *testing.T) {
	t.Helper()
	select {
	case <-w.seen:
	case <-time.After(time.Minute):
		t.Fatalf("%q was not printed: %s", w.want, w)
	}
}

// The sample shows every key, loads as it is and with every example made real, and starts a node.
func TestSampleConfiguration(t *testing.T) {
	content, err := os.ReadFile("raftkv.sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	uncommented := regexp.MustCompile(`(?m)^  # ((  - )?[a-z0-9_]+:)`).ReplaceAllString(string(content), "  $1")
	for i := range settings {
		s := &settings[i]
		if !regexp.MustCompile(`(?m)^  ` + s.name + `:`).MatchString(uncommented) {
			t.Errorf("%s is not in the sample", s.key())
		}
	}
	plain, _, err := loadText(t, string(content), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := loadText(t, uncommented, nil, []string{"--host", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Peers) != 3 || all.Replicas != 3 || all.DiskReserve != 1<<30 || all.HistorySize != 64<<20 || all.MaxConnections != connectionsDefault || all.CertFile == "" || all.ClientCAFile == "" ||
		all.TraceEndpoint == "" || all.TraceProtocol != protocolGRPC {
		t.Errorf("the examples are not what they say: %+v", all)
	}
	// What is called a default is one.
	all.Peers, all.Replicas, all.Host, all.AdminHost = plain.Peers, plain.Replicas, plain.Host, plain.AdminHost
	all.DiskReserve, all.HistorySize, all.MaxConnections = plain.DiskReserve, plain.HistorySize, plain.MaxConnections
	all.TraceEndpoint, all.TraceProtocol = plain.TraceEndpoint, plain.TraceProtocol // empty is that of the environment, else gRPC
	all.CertFile, all.KeyFile, all.CAFile, all.ClientCAFile, all.Origins = "", "", "", "", nil
	if got, want := fmt.Sprintf("%+v", all), fmt.Sprintf("%+v", plain); got != want {
		t.Errorf("defaults of the sample:\n%s\nwant\n%s", got, want)
	}

	base := freeBase(t, 1)
	path := filepath.Join(t.TempDir(), "raftkv.yaml")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := watch("msg=serving")
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"serve", "--config", path, "--port", fmt.Sprint(base), "--data-dir", t.TempDir()}, nil, io.Discard, log)
	}()
	log.wait(t)
	if got := raft(t, "", "put", "a", "1", "--endpoints", hostPort("127.0.0.1", base)); got.code != 0 {
		t.Error(got.errOut)
	}
	cancel()
	if code := <-done; code != exitDone {
		t.Errorf("exit code %d: %s", code, log)
	}
	if !strings.Contains(log.String(), "msg=stopped") {
		t.Errorf("it did not stop in order: %s", log)
	}
}

// demo says where the cluster is, serves, and leaves nothing behind.
func TestDemo(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	base := freeBase(t, 3)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, errOut := watch("Ctrl-C stops."), watch("")
	done := make(chan int)
	go func() { done <- run(ctx, []string{"demo", "--base-port", fmt.Sprint(base)}, nil, out, errOut) }()
	out.wait(t)
	for _, want := range []string{
		fmt.Sprintf("node3  127.0.0.1:%d  127.0.0.1:%d  127.0.0.1:%d  127.0.0.1:%d", base+2, base+302, base+102, base+202),
		fmt.Sprintf("raftkv put greeting hello --endpoints 127.0.0.1:%d\n", base),
		fmt.Sprintf("curl http://127.0.0.1:%d/v1/kv/greeting\n", base),
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	endpoint := hostPort("127.0.0.1", base+1)
	if got := raft(t, "", "put", "greeting", "hello", "--endpoints", endpoint); got.code != 0 {
		t.Error(got.errOut)
	}
	if got, err := httpGet(t, "http://"+hostPort("127.0.0.1", base)+"/v1/kv/greeting"); err != nil || got != "hello" {
		t.Errorf("over HTTP: %q, %v", got, err)
	}
	cancel()
	if code := <-done; code != exitDone {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if names, err := os.ReadDir(temp); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// Clients that stay connected do not hold up a node that stops: their streams end, and none is cut off.
func TestStopWithClients(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 1, shards: 1, basePort: freeBase(t, 1), data: t.TempDir()})
	log := watch("")
	n, err := startNode(configs[0], slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceValue(n.stop)
	t.Cleanup(func() { _ = stop() })
	client := openClient(t, configs)
	if _, err := client.Put(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "cut off") {
		t.Error(log)
	}
}

// With --data, the next demo finds what the last one wrote.
func TestDemoKeepsData(t *testing.T) {
	base, data := freeBase(t, 3), t.TempDir()
	endpoint := hostPort("127.0.0.1", base)
	once := func(args ...string) outcome {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out, errOut := watch("Ctrl-C stops."), watch("")
		done := make(chan int)
		go func() {
			done <- run(ctx, []string{"demo", "--base-port", fmt.Sprint(base), "--data", data, "--shards", "2"}, nil, out, errOut)
		}()
		out.wait(t)
		got := raft(t, "", append(args, "--endpoints", endpoint)...)
		cancel()
		if code := <-done; code != exitDone {
			t.Errorf("exit code %d: %s", code, errOut)
		}
		return got
	}
	if got := once("put", "a", "kept"); got.code != 0 {
		t.Fatal(got.errOut)
	}
	if got := once("get", "a"); got.out != "kept" {
		t.Errorf("%+v", got)
	}
}

// A port that is taken is named, with its key, and nothing is left open or touched.
func TestPortTaken(t *testing.T) {
	base, dir := freeBase(t, 1), filepath.Join(t.TempDir(), "data")
	l, err := net.Listen("tcp", hostPort("127.0.0.1", base+grpcPortOffset))
	if err != nil {
		t.Fatal(err)
	}
	got := raft(t, "", "serve", "--port", fmt.Sprint(base), "--data-dir", dir)
	want := fmt.Sprintf("raftkv: grpc_port: 127.0.0.1:%d is taken by another program; stop that one or set another grpc_port\n", base+grpcPortOffset)
	if got.code != exitFailed || got.errOut != want {
		t.Errorf("%+v, want %s", got, want)
	}
	l.Close()
	if !free(base, 1) {
		t.Error("ports were left open")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the data directory was made")
	}
}

func TestDataDirInUse(t *testing.T) {
	configs := startCluster(t, 1, 1)
	got := raft(t, "", "serve", "--port", fmt.Sprint(freeBase(t, 1)), "--data-dir", configs[0].DataDir)
	if got.code != exitFailed || !strings.Contains(got.errOut, "in use by another process") {
		t.Errorf("%+v", got)
	}
	got = raft(t, "", "log", "dump", "--data", configs[0].DataDir)
	if got.code != exitFailed || !strings.Contains(got.errOut, "in use by another process") {
		t.Errorf("%+v", got)
	}
}

// A node that cannot go on ends its process with a failure: here, its peer was told to form another cluster.
func TestTerminalFailure(t *testing.T) {
	base := freeBase(t, 2)
	peers := fmt.Sprintf("n1:127.0.0.1:%d,n2:127.0.0.1:%d", base, base+1)
	codes := make(chan int, 2)
	logs := []*watched{watch(""), watch("")}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, shards := range []string{"1", "2"} {
		dir := t.TempDir()
		go func() {
			codes <- run(ctx, []string{
				"serve", "--node-id", fmt.Sprintf("n%d", i+1), "--peers", peers, "--shards", shards, "--data-dir", dir,
			}, nil, io.Discard, logs[i])
		}()
	}
	// The first to see it fails; the other may see it too, or lose its peer before.
	select {
	case code := <-codes:
		if code != exitFailed {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(time.Minute):
		t.Fatal("no node has ended")
	}
	cancel()
	<-codes
	if text := logs[0].String() + logs[1].String(); !strings.Contains(text, "raftkv: the node has failed: node n") || !strings.Contains(text, "make 'peers', 'shards' and 'replicas' the same on all") {
		t.Error(text)
	}
}

// Metrics and probes can have a port each, and both may bind to another address than clients.
func TestSeparateAdminPorts(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 1, shards: 1, basePort: freeBase(t, 2), data: t.TempDir()})
	configs[0].HealthCheckPort++
	startNodes(t, configs)
	checkAdmin(t, configs[0])
	if got, err := httpGet(t, "http://"+hostPort("127.0.0.1", configs[0].HealthCheckPort)+"/readyz"); err != nil || got != "ok\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// The largest value that can be configured goes through.
func TestLargestValue(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 3, shards: 1, basePort: freeBase(t, 3), data: t.TempDir()})
	for _, c := range configs {
		c.MaxValueSize = valueSizeMax
	}
	startNodes(t, configs)
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[1].Port))
	value := strings.Repeat("0123456789abcdef", valueSizeMax/16)
	// The race detector makes of each copy of the value a second.
	if got := patient(t, value, "put", "big", "-", "--timeout", "5m"); got.code != 0 {
		t.Fatal(got.errOut)
	}
	if got := patient(t, "", "get", "big", "--timeout", "5m"); got.out != value {
		t.Errorf("%d bytes came back: %s", len(got.out), got.errOut)
	}
	if got := raft(t, value+"x", "put", "big", "-"); got.code != exitFailed || !strings.Contains(got.errOut, "the limit is 8388608") {
		t.Errorf("one more byte: %d %s", got.code, got.errOut)
	}
}
