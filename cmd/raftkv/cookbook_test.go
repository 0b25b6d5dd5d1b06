package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/raftkv/raftkv/gen/openapi"
)

// TestPages runs the commands of pages, those of each in order and in one shell, and wants what the page says that they print.
func TestPages(t *testing.T) {
	for _, program := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; the pages need it: apt-get install %s", err, program)
		}
	}
	binary, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	for page, least := range map[string]int{"docs/http.md": 60, "docs/quickstart.md": 8} {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile("../../" + page)
			if err != nil {
				t.Fatal(err)
			}
			commands := cookbook(string(text))
			if len(commands) < least {
				t.Fatalf("only %d commands were found", len(commands))
			}
			for i, got := range runPage(t, binary, commands) {
				got = strings.TrimRight(got, "\n")
				if c := commands[i]; !c.prints(got) {
					t.Errorf("%s:%d: %s\nprints\n%s\nwant\n%s", page, c.at, c.line, got, strings.Join(c.want, "\n"))
				}
			}
		})
	}
}

// runPage runs commands against a cluster of their own, and returns what each prints.
func runPage(t *testing.T, binary string, commands []*command) []string {
	t.Helper()
	// One shell, so that variables last. What a command prints ends with a line that nothing else prints.
	const end = "-- end of a command --"
	var script bytes.Buffer
	for _, c := range commands {
		fmt.Fprintf(&script, "%s\necho\necho '%s'\n", c.line, end)
	}
	text := strings.ReplaceAll(script.String(), "bin/raftkv ", binary+" ")
	for i, c := range startCluster(t, 3, 1) {
		for _, host := range []string{"localhost", "127.0.0.1"} {
			text = strings.ReplaceAll(text, fmt.Sprintf("%s:808%d", host, i), hostPort("127.0.0.1", c.Port))
		}
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
	return printed[:len(commands)]
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
	return regexp.MustCompile("^" + pattern + "$").MatchString(strings.TrimRight(strings.ReplaceAll(got, "\r", ""), "\n"))
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

// TestCookbookHasEveryRoute holds docs/http.md to the description of the REST API.
func TestCookbookHasEveryRoute(t *testing.T) {
	page, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Paths map[string]any }
	if err := json.Unmarshal(openapi.Document, &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Paths) < 15 {
		t.Fatalf("only %d routes are described", len(document.Paths))
	}
	for path := range document.Paths {
		pattern := regexp.MustCompile(`\\\{[^}]*\\\}`).ReplaceAllString(regexp.QuoteMeta(path), `[^ ']+`)
		if !regexp.MustCompile(`(?m)^\$.*curl.*localhost:808\d` + pattern + `($|['"? ])`).Match(page) {
			t.Errorf("no command for %s", path)
		}
	}
}
