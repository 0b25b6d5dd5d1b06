package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// process is a node in a process of its own, started by the command line that a user would use.
type process struct {
	id                        string
	port, peer, grpc, metrics int
	cmd                       *exec.Cmd
	log                       *bytes.Buffer
	// env is what its environment has besides that of the test.
	env []string
	// files is how many files it may have open; 0: as many as the test.
	files int
}

// processes is a cluster of them.
type processes struct {
	t      *testing.T
	binary string
	dir    string
	nodes  []*process
	client *http.Client
}

// buildTags are those of the binary.
var buildTags string

var buildBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "raftkv-test")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "raftkv")
	if out, err := exec.Command("go", "build", "-tags", buildTags, "-o", binary, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

// nextPort is where freePort goes on. Other runs of these tests begin elsewhere.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(os.Getpid())) }

// freePort returns a port that nobody listens on, and never the same again. It is none of those that the system gives to
// connections: one of these could come between this and the start of the node.
func freePort(t *testing.T) int {
	t.Helper()
	const first, count = 10_000, 20_000
	for range count {
		port := first + int(nextPort.Add(1)%count)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close() // it was only to be had
			return port
		}
	}
	t.Fatal("there is no free port")
	return 0
}

// startProcesses starts n nodes and waits until every one answers reads.
func startProcesses(t *testing.T, n int) *processes {
	t.Helper()
	return startProcessesIn(t, t.TempDir(), n)
}

// startProcessesIn does that with data directories in a directory.
func startProcessesIn(t *testing.T, dir string, n int) *processes {
	t.Helper()
	c := newProcesses(t, dir, n)
	for _, p := range c.nodes {
		c.start(p)
	}
	for _, p := range c.nodes {
		c.ready(p)
	}
	return c
}

// newProcesses makes n nodes that are not started.
func newProcesses(t *testing.T, dir string, n int) *processes {
	t.Helper()
	binary, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	c := &processes{t: t, binary: binary, dir: dir, client: &http.Client{Timeout: 5 * time.Second}}
	for i := range n {
		c.nodes = append(c.nodes, &process{
			id: fmt.Sprintf("node%d", i+1), port: freePort(t), peer: freePort(t), grpc: freePort(t), metrics: freePort(t),
		})
	}
	t.Cleanup(func() {
		for _, p := range c.nodes {
			c.kill(p)
			if t.Failed() {
				t.Logf("log of %s:\n%s", p.id, p.log)
			}
		}
		c.client.CloseIdleConnections()
	})
	return c
}

func (c *processes) start(p *process) {
	c.t.Helper()
	var peers []string
	for _, o := range c.nodes {
		peers = append(peers, fmt.Sprintf("%s:127.0.0.1:%d:%d", o.id, o.port, o.peer))
	}
	p.log = &bytes.Buffer{}
	p.cmd = exec.Command(c.binary, "serve", "--node-id", p.id, "--data-dir", filepath.Join(c.dir, p.id),
		"--port", fmt.Sprint(p.port), "--peer-port", fmt.Sprint(p.peer), "--grpc-port", fmt.Sprint(p.grpc),
		"--metrics-port", fmt.Sprint(p.metrics), "--peers", strings.Join(peers, ","), "--snapshot-threshold", "200",
		"--max-log-entries", "100", "--election-timeout", "500ms", "--heartbeat-interval", "50ms")
	if p.files > 0 {
		p.cmd = exec.Command("sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, p.files)}, p.cmd.Args...)...)
	}
	p.cmd.Stderr, p.cmd.Stdout = p.log, p.log
	p.cmd.Env = append(os.Environ(), p.env...)
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends a node as kill -9 does.
func (c *processes) kill(p *process) {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill() // It may have ended by itself; Wait tells.
	_ = p.cmd.Wait()
	p.cmd = nil
}

// ready waits until a node answers a linearizable read.
func (c *processes) ready(p *process) {
	c.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		_, err := c.get(p, "ready")
		if err == nil || errors.Is(err, errNotFound) {
			return
		}
		select {
		case <-pause.C:
		case <-deadline.C:
			c.t.Fatalf("%s does not get ready: %v", p.id, err)
		}
	}
}

var errNotFound = errors.New("not found")

func (c *processes) url(p *process, key string) string {
	return fmt.Sprintf("http://127.0.0.1:%d/v1/kv/%s", p.port, key)
}

func (c *processes) get(p *process, key string) (string, error) {
	return c.do(p, http.MethodGet, key, "")
}

func (c *processes) put(p *process, key, value string) error {
	_, err := c.do(p, http.MethodPut, key, value)
	return err
}

// statusError is an answer that is none of 200 and 404.
type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.code, e.body) }

// definite says whether an error means that a write was certainly not applied: the server said so.
func definite(err error) bool {
	var s *statusError
	return errors.As(err, &s) && !strings.Contains(s.body, "OutcomeUnknown")
}

func (c *processes) do(p *process, method, key, body string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.url(p, key), strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", err
	case resp.StatusCode == http.StatusNotFound:
		return "", errNotFound
	case resp.StatusCode != http.StatusOK:
		return "", &statusError{resp.StatusCode, string(got)}
	}
	return string(got), nil
}

// leader returns the node that leads the first data shard, as the nodes say.
func (c *processes) leader() *process {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		for _, p := range c.nodes {
			if p.cmd == nil {
				continue
			}
			resp, err := c.client.Get(fmt.Sprintf("http://127.0.0.1:%d/v1/locate?key=a", p.port))
			if err != nil {
				continue
			}
			var where struct{ LeaderNodeID string }
			err = json.NewDecoder(resp.Body).Decode(&where)
			resp.Body.Close()
			if err != nil {
				continue
			}
			for _, o := range c.nodes {
				if o.cmd != nil && o.id == where.LeaderNodeID {
					return o
				}
			}
		}
	}
	c.t.Fatal("no node leads")
	return nil
}
