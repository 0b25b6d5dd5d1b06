package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestCookbook runs the commands of docs/http.md, in order and in one shell, and wants what the page says that they print.
func TestCookbook(t *testing.T) {
	for _, program := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; the page needs it: apt-get install %s", err, program)
		}
	}
	page, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := cookbook(string(page))
	if len(commands) < 50 {
		t.Fatalf("only %d commands were found", len(commands))
	}
	configs := startCluster(t, 3, 1)

	// One shell, so that variables last. What a command prints ends with a line that nothing else prints.
	const end = "-- end of a command --"
	var script bytes.Buffer
	for _, c := range commands {
		fmt.Fprintf(&script, "%s\necho\necho '%s'\n", c.line, end)
	}
	text := script.String()
	for i, c := range configs {
		text = strings.ReplaceAll(text, fmt.Sprintf("localhost:808%d", i), hostPort("127.0.0.1", c.Port))
	}
	shell := exec.CommandContext(t.Context(), "bash", "-u")
	shell.Stdin = strings.NewReader(text)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	printed := strings.Split(string(out), "\n"+end+"\n")
	if len(printed) != len(commands)+1 {
		t.Fatalf("%d commands printed\n%s", len(printed)-1, out)
	}
	for i, c := range commands {
		got := strings.TrimRight(printed[i], "\n")
		if !c.prints(got) {
			t.Errorf("docs/http.md:%d: %s\nprints\n%s\nwant\n%s", c.at, c.line, got, strings.Join(c.want, "\n"))
		}
	}
}

// command is one of a page, with what it prints.
type command struct {
	at   int
	line string
	want []string
}

// prints says whether a command's output is what the page has; … stands for anything.
func (c *command) prints(got string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.Join(c.want, "\n")), "…", ".*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(strings.ReplaceAll(got, "\r", ""))
}

// cookbook finds the commands of the console blocks of a page: lines that begin with $, and what stands below each.
func cookbook(page string) (commands []*command) {
	inside := false
	for i, line := range strings.Split(page, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			commands = append(commands, &command{at: i + 1, line: line[2:]})
		default:
			last := commands[len(commands)-1]
			last.want = append(last.want, line)
		}
	}
	return commands
}
