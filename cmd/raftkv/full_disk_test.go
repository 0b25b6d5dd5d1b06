//go:build mount

package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mountSmall gives every node a file system of its own, of 128 MiB. It needs root and loop devices: make test-disk.
func mountSmall(t *testing.T, nodes int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	command := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
		}
	}
	for i := range nodes {
		image, at := filepath.Join(dir, fmt.Sprintf("image%d", i+1)), filepath.Join(dir, fmt.Sprintf("node%d", i+1))
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 128*mebibyte), os.Mkdir(at, 0o700)); err != nil {
			t.Fatal(err)
		}
		command("mkfs.ext4", "-q", "-F", "-m", "0", image)
		command("mount", "-o", "loop", image, at)
		t.Cleanup(func() { command("umount", at) })
	}
	return dir
}

// isFull says whether a write was refused because a disk is nearly full.
func isFull(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusInsufficientStorage && strings.Contains(s.body, "DISK_FULL")
}

// patient repeats a request that a node refuses for a moment: overload, or an election.
func (c *processes) patient(do func() error) error {
	var s *statusError
	for end := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		err := do()
		if !errors.As(err, &s) || s.code != http.StatusTooManyRequests && s.code != http.StatusServiceUnavailable || time.Now().After(end) {
			return err
		}
	}
}

// awaitPut puts until that is taken again.
func (c *processes) awaitPut(p *process) {
	c.t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		err := c.patient(func() error { return c.put(p, "after", "v") })
		if err == nil {
			return
		}
		if !isFull(err) || time.Now().After(end) {
			c.t.Fatalf("puts are not taken again: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// Clients fill the file systems of a cluster: puts are refused before they are full, reads and deletes are not, and when all is deleted puts are taken again.
// Then somebody else fills that of one node to the last byte: the node starts on it all the same, and deletes go on.
func TestFullFileSystem(t *testing.T) {
	c := startProcessesIn(t, mountSmall(t, 3), 3)
	value := make([]byte, 256<<10)
	rand.Read(value)
	keys := 0
	var err error
	for ; keys < 1000 && err == nil; keys++ {
		err = c.patient(func() error {
			return c.put(c.nodes[keys%3], fmt.Sprintf("k%d", keys), string(append(value, fmt.Sprint(keys)...)))
		})
	}
	keys--
	if !isFull(err) {
		t.Fatalf("put %d: %v", keys, err)
	}
	t.Logf("%d values of 256 KiB fill the disks", keys)
	for i := range keys {
		if _, err := c.get(c.nodes[i%3], fmt.Sprintf("k%d", i)); err != nil {
			t.Errorf("get %d: %v", i, err)
		}
	}
	remove := func(p *process, key string) {
		err := c.patient(func() error { _, err := c.do(p, http.MethodDelete, key, ""); return err })
		if err != nil && !errors.Is(err, errNotFound) {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	for i := range keys {
		remove(c.nodes[i%3], fmt.Sprintf("k%d", i))
	}
	c.awaitPut(c.nodes[0])

	full := c.nodes[1]
	others, err := os.Create(filepath.Join(c.dir, full.id, "others"))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := bytes.Repeat([]byte{1}, mebibyte); err == nil; {
		if _, err = others.Write(chunk); err != nil && len(chunk) > 4096 {
			chunk, err = chunk[:len(chunk)/2], nil
		}
	}
	if err := others.Close(); err != nil {
		t.Fatal(err)
	}
	c.kill(full)
	c.start(full)
	c.ready(full)
	if err := c.patient(func() error { return c.put(c.nodes[0], "refused", "v") }); !isFull(err) {
		t.Errorf("a put, with a full disk among the replicas: %v", err)
	}
	for i := range 20 {
		remove(full, fmt.Sprintf("nothing-%d", i))
	}
	remove(full, "after")
	if _, err := c.get(full, "after"); !errors.Is(err, errNotFound) {
		t.Errorf("the key that was deleted: %v", err)
	}
	if err := os.Remove(others.Name()); err != nil {
		t.Fatal(err)
	}
	c.awaitPut(full)
}
