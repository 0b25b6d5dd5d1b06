package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	shellBlock  = regexp.MustCompile("(?ms)^```(?:sh|console)\n(.*?)^```")
	comment     = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	quoted      = regexp.MustCompile(`'[^']*'|"[^"]*"`)
	variable    = regexp.MustCompile(`\$\w+`)
	ourCommand  = regexp.MustCompile(`(?m)(?:^|[;|&]|\$\()[ $]*(?:bin/|go run \./cmd/)?raftkv ([^;|&<>)#\n]+)`)
	makeCommand = regexp.MustCompile(`(?m)^[ $]*make ([a-z-]+)`)
)

// TestPagesNameCommands finds every command of raftkv and every make target that a page tells a user to run: they exist, and take the flags.
func TestPagesNameCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md", "../../sdk/ts/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range shellBlock.FindAllSubmatch(text, -1) {
			shell := comment.ReplaceAllString(strings.ReplaceAll(string(block[1]), "\\\n", " "), "")
			for _, m := range makeCommand.FindAllStringSubmatch(shell, -1) {
				if !bytes.Contains(makefile, []byte("\n"+m[1]+":")) {
					t.Errorf("%s: there is no make %s", page, m[1])
				}
			}
			shell = variable.ReplaceAllString(quoted.ReplaceAllString(shell, "quoted"), "1")
			for _, m := range ourCommand.FindAllStringSubmatch(shell, -1) {
				commands++
				command, arguments, err := newRoot().Find(strings.Fields(m[1]))
				if err == nil {
					err = command.ParseFlags(arguments)
				}
				if err != nil || !command.Runnable() {
					t.Errorf("%s: raftkv %s: %v", page, m[1], err)
				}
			}
		}
	}
	if commands < 30 {
		t.Errorf("only %d commands were found", commands)
	}
}
