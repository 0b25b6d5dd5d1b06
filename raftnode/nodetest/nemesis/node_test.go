package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPanicked(t *testing.T) {
	for said, want := range map[string]string{
		"":                                      "",
		"{\"msg\":\"no panic: all is well\"}\n": "",
		"a\npanic: index out of range\n\ngoroutine 1 [running]:\n":         "panic: index out of range",
		"a\nfatal error: concurrent map writes\n":                          "fatal error: concurrent map writes",
		"{\"msg\":\"http: panic serving 10.77.1.1: x\"}\n":                 "{\"msg\":\"http: panic serving 10.77.1.1: x\"}",
		"WARNING: DATA RACE\nRead at\n":                                    "WARNING: DATA RACE",
		"raftkv: the node has failed: write the log: input/output error\n": "",
	} {
		if got := panicked(said); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
	if got := lastLine("a\nb\n\n"); got != "b" {
		t.Errorf("the last line is %q", got)
	}
}

func TestWriteConfig(t *testing.T) {
	n := &node{number: 1, id: nodeID(1), config: filepath.Join(t.TempDir(), "node.yaml"), disk: &disk{mount: "/mnt/node2"}}
	if err := n.writeConfig(nodes); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(n.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"node_id: node2\n", "host: 10.77.2.2\n", "shards: 4\n", "    - node5:10.77.5.2:7000\n", "data_dir: /mnt/node2/data\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// A node that was asked to stop, and then killed and started again by another fault, has nothing to stop for any more.
func TestStopOfALifeThatHasEnded(t *testing.T) {
	begin := func() *life {
		l := &life{cmd: exec.Command("sleep", "100"), ended: make(chan struct{})}
		if err := l.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = l.cmd.Wait()
			close(l.ended)
		}()
		t.Cleanup(func() {
			_ = l.cmd.Process.Kill()
			<-l.ended
		})
		return l
	}
	n := &node{id: nodeID(1), disk: &disk{}, life: begin()}
	c := newConductor(&cluster{rec: newRecorder()}, 1)
	var heal func() error
	if err := c.stop(n, func(later func() error) { heal = later }); err != nil {
		t.Fatal(err)
	}
	n.life.killed = true
	<-n.life.ended
	n.life = begin()
	if err := heal(); err != nil || n.life.gone() || len(c.rec.violations) > 0 {
		t.Errorf("%v, ended: %t, %v", err, n.life.gone(), c.rec.violations)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-minutes=0.5", "-seed=7"})
	if err != nil || o.seed != 7 || o.length.Seconds() != 30 || !filepath.IsAbs(o.binary) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-minutes=0"}, {"-kills=-1"}, {"more"}, {"-minutes=1e9"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

// Only work directories of dead owners are removed.
func TestSweep(t *testing.T) {
	parent := t.TempDir()
	alive, lock, err := newWork(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dead, other, err := newWork(parent)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	foreign := filepath.Join(parent, workPrefix+"of-somebody-else")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	sweep(parent)
	for dir, want := range map[string]bool{alive: true, dead: false, foreign: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %t", dir, err == nil)
		}
	}
}
