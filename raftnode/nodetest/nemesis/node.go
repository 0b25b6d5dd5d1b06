package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// The ports of a node, as they follow from the first.
const (
	clientPort = 7000
	peerPort   = 7100
	adminPort  = 7200
	grpcPort   = 7300
)

// electionTimeout is that of the nodes: the default.
const electionTimeout = time.Second

// killPatience is how long a process may take to be gone after SIGKILL: the kernel may have to finish a write.
const killPatience = 20 * time.Second

// stopNodePatience is how long one may take to stop in good order.
const stopNodePatience = 30 * time.Second

// node is a raftkv process with its address and its disk. The conductor alone uses it.
type node struct {
	number  int
	id      placement.NodeID
	disk    *disk
	binary  string
	config  string
	logName string
	life    *life
	paused  bool
	// doomed says why the process may end by itself; empty: it may not.
	doomed string
	// lost: what the disk held is damaged or gone, and nothing is asked of the node, until its replicas are rebuilt. down: it is not started again.
	lost, down bool
}

// life is one process.
type life struct {
	cmd   *exec.Cmd
	since time.Time
	// logAt is where its part of the log begins.
	logAt int64
	// killed: this program has ended it. stopping: it was asked to stop.
	killed, stopping bool
	// ended is closed when the process is gone; code is then its exit code, -1 if a signal ended it.
	ended chan struct{}
	at    time.Time
	code  int
}

// gone says whether the process has ended.
func (l *life) gone() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// wait waits until the process is gone.
func (l *life) wait(within time.Duration) bool {
	p := newPatience(within)
	defer p.end()
	select {
	case <-l.ended:
		return true
	case <-p.over:
		return l.gone()
	}
}

func (n *node) dataDir() string { return filepath.Join(n.disk.mount, "data") }

// running says whether there is a process that can do something.
func (n *node) running() bool {
	return n.life != nil && !n.life.gone() && !n.life.stopping && !n.paused
}

// writeConfig writes the configuration of a node, as a user would.
func (n *node) writeConfig(nodes int) error {
	var peers strings.Builder
	for i := range nodes {
		fmt.Fprintf(&peers, "    - %s:%s:%d\n", nodeID(i), address(i), clientPort)
	}
	return os.WriteFile(n.config, fmt.Appendf(nil, `server:
  node_id: %s
  host: %s
cluster:
  shards: %d
  peers:
%sraft:
  election_timeout: %s
  snapshot_threshold: 2000
  snapshot_interval: 15s
  max_log_entries: 1000
storage:
  data_dir: %s
  cache_size: 16MiB
  history_size: 1MiB
  idempotency_window: %s
monitoring:
  log_format: json
`, n.id, address(n.number), shards, peers.String(), electionTimeout, n.dataDir(), keyWindow), 0o600)
}

func nodeID(number int) placement.NodeID { return placement.NodeID(fmt.Sprintf("node%d", number+1)) }

// start starts the process.
func (n *node) start() (err error) {
	log, err := os.OpenFile(n.logName, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	at, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := exec.Command(n.binary, "serve", "--config", n.config, "--insecure")
	cmd.Stdout, cmd.Stderr = log, log
	if err := in(n.number, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	l := &life{cmd: cmd, since: time.Now(), logAt: at, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // The exit code tells.
		l.code, l.at = cmd.ProcessState.ExitCode(), time.Now()
		close(l.ended)
	}()
	n.life, n.paused = l, false
	return nil
}

// kill ends the process at once.
func (n *node) kill() error {
	if n.life == nil || n.life.gone() {
		return nil
	}
	n.life.killed = true
	if err := n.signal(unix.SIGKILL); err != nil {
		return err
	}
	if !n.life.wait(killPatience) {
		return fmt.Errorf("%s is still there %s after SIGKILL", n.id, killPatience)
	}
	n.paused = false
	return nil
}

func (n *node) signal(s syscall.Signal) error {
	err := n.life.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil // It has just ended by itself.
	}
	return err
}

func (n *node) pause() error {
	if !n.running() {
		return nil
	}
	n.paused = true
	return n.signal(unix.SIGSTOP)
}

func (n *node) resume() error {
	if !n.paused {
		return nil
	}
	n.paused = false
	return n.signal(unix.SIGCONT)
}

// term asks the process to stop in good order.
func (n *node) term() error {
	if n.life == nil || n.life.gone() {
		return nil
	}
	n.life.stopping = true
	return n.signal(unix.SIGTERM)
}

// losePower ends disk and process, as when the machine loses its power, in this order: what is written in between is lost.
func (n *node) losePower() error {
	return errors.Join(n.cutPower(), n.kill())
}

// cutPower is the first half of that. The process may end by itself before it is killed.
func (n *node) cutPower() error {
	if n.life != nil && !n.life.gone() {
		n.life.killed = true
	}
	return n.disk.cutPower()
}

// words are the lines that the process has logged.
func (n *node) words() (string, error) {
	said, err := os.ReadFile(n.logName)
	if err != nil {
		return "", err
	}
	return string(said[min(n.life.logAt, int64(len(said))):]), nil
}

// examine says what is wrong with how a process lived and, if it has, ended.
func (n *node) examine() error {
	if n.life == nil {
		return nil
	}
	said, err := n.words()
	if err != nil {
		return err
	}
	if line := panicked(said); line != "" {
		return fmt.Errorf("%s has crashed: %s", n.id, line)
	}
	if n.life.killed || !n.life.gone() {
		return nil
	}
	switch code := n.life.code; {
	case n.lost && n.life.stopping && code == 0:
		return nil // It was stopped before it had met what has rotted.
	case n.doomed == "" && code != 0:
		return fmt.Errorf("%s has ended by itself with exit code %d: %s", n.id, code, lastLine(said))
	case n.doomed != "" && code != 1:
		return fmt.Errorf("%s has ended with exit code %d after %s, which must be 1: %s", n.id, code, n.doomed, lastLine(said))
	}
	return nil
}

// panicked returns the line of a log that tells of a crash of the program; empty if there is none.
func panicked(said string) string {
	for line := range strings.Lines(said) {
		began := func(mark string) bool { return strings.HasPrefix(line, mark) }
		if slices.ContainsFunc([]string{"panic: ", "fatal error: ", "WARNING: DATA RACE", "SIGSEGV"}, began) || strings.Contains(line, "panic serving") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func lastLine(said string) string {
	said = strings.TrimSpace(said)
	return said[strings.LastIndexByte(said, '\n')+1:]
}
