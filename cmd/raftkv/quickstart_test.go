package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var goFile = regexp.MustCompile("(?s)\n`(main(?:_test)?\\.go)`[^\n]*:\n\n```go\n(.*?)\n```\n")

// TestProgramOfTheQuickStart makes the module of docs/quickstart.md outside of this one, as a user does, and runs its program, against a cluster, and its test.
func TestProgramOfTheQuickStart(t *testing.T) {
	page, err := os.ReadFile("../../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := goFile.FindAllSubmatch(page, -1)
	if len(files) != 2 {
		t.Fatalf("%d files of the program were found", len(files))
	}
	cluster := startCluster(t, 3, 1)
	for _, f := range files {
		text := string(f[2])
		for i, c := range cluster {
			text = strings.ReplaceAll(text, fmt.Sprintf("127.0.0.1:808%d", i), hostPort("127.0.0.1", c.Port))
		}
		if err := os.WriteFile(filepath.Join(dir, string(f[1])), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Our checksums stand in for `go mod tidy`, which needs the network.
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(want string, command ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), command[0], command[1:]...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%s: %v, without %q:\n%s", strings.Join(command, " "), err, want, out)
		}
	}
	edits := 0
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "go mod init ") || strings.HasPrefix(line, "go mod edit ") {
			edits++
			run("", strings.Fields(strings.ReplaceAll(line, "../raftkv", root))...)
		}
	}
	if edits != 2 {
		t.Fatalf("%d commands make the module", edits)
	}
	run("version 1: hello", "go", "run", ".")
	run("version 2: hello", "go", "run", ".")
	run("ok", "go", "test", "-count=1", ".")
}
