package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// commandDriver calls with command lines.
type commandDriver struct{ endpoints string }

// exitsFor are the exit codes that stand for reasons.
var exitsFor = map[string]int{
	"KEY_NOT_FOUND": exitNotFound, "LEASE_NOT_FOUND": exitNotFound, "PRECONDITION_FAILED": exitCondition, "INVALID": exitUsage,
	"LIMIT_EXCEEDED": exitFailed, "FUTURE_REVISION": exitFailed, "CROSS_SHARD": exitFailed,
}

// wordsFor are what the message says for reasons that share an exit code.
var wordsFor = map[string]string{
	"KEY_NOT_FOUND": "not found", "LEASE_NOT_FOUND": "does not exist or has ended", "LIMIT_EXCEEDED": "the limit is", "FUTURE_REVISION": "is not reached",
	"CROSS_SHARD": "may touch one shard only",
}

// run runs a command line, and returns what it prints as JSON, a value a line, or the reason that its exit code and message stand for.
func (d *commandDriver) run(t *testing.T, input string, arguments ...string) (lines []map[string]any, reason string) {
	t.Helper()
	o := raft(t, input, append(arguments, "--output", "json", "--endpoints", d.endpoints)...)
	// That a compare of a transaction does not hold is an answer, which scripts find in the exit code, too.
	if answered := o.code == exitDone || o.code == exitCondition && arguments[0] == "txn"; !answered {
		for reason, code := range exitsFor {
			if code == o.code && strings.Contains(o.errOut, wordsFor[reason]) {
				return nil, reason
			}
		}
		t.Fatalf("%q ends with %d: %s", arguments, o.code, o.errOut)
	}
	decoder := json.NewDecoder(strings.NewReader(o.out))
	for decoder.More() {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil {
			t.Fatalf("%q prints %q: %v", arguments, o.out, err)
		}
		lines = append(lines, line)
	}
	return lines, ""
}

func (d *commandDriver) do(t *testing.T, operation string, a map[string]any) (map[string]any, uint64, string) {
	return map[string]func(*testing.T, map[string]any) (map[string]any, uint64, string){
		"put": d.put, "get": d.get, "delete": d.delete, "scan": d.scan, "batch": d.batch, "txn": d.txn, "watch": d.watch, "grant": d.grant, "revoke": d.revoke,
	}[operation](t, a)
}

// one is the only line of an answer.
func one(lines []map[string]any) map[string]any {
	if len(lines) == 0 {
		return map[string]any{}
	}
	return lines[0]
}

// printed is a value as command lines print it.
func printed(t *testing.T, line map[string]any) []byte {
	return valueOf(t, map[string]any{"value": line["value"], "value64": line["value_base64"]})
}

// conditions of a write, as flags.
func (d *commandDriver) conditions(a map[string]any) (flags []string) {
	if a["ifAbsent"] == true {
		flags = append(flags, "--if-absent")
	}
	if a["ifExists"] == true {
		flags = append(flags, "--if-exists")
	}
	if n := numberOf(a, "ifRevision"); n > 0 {
		flags = append(flags, "--if-revision", strconv.FormatUint(n, 10))
	}
	return flags
}

func (d *commandDriver) put(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	line := append([]string{"put", textOf(a, "key"), "-"}, d.conditions(a)...)
	if n := numberOf(a, "ttlMs"); n > 0 {
		line = append(line, "--ttl", fmt.Sprintf("%dms", n))
	}
	if id := numberOf(a, "lease"); id > 0 {
		line = append(line, "--lease", strconv.FormatUint(id, 10))
	}
	lines, reason := d.run(t, string(valueOf(t, a)), line...)
	return map[string]any{"version": numberOf(one(lines), "version")}, numberOf(one(lines), "revision"), reason
}

func (d *commandDriver) get(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	line := []string{"get", textOf(a, "key")}
	if n := numberOf(a, "revision"); n > 0 {
		line = append(line, "--revision", strconv.FormatUint(n, 10))
	}
	if a["stale"] == true {
		// The token of a write makes another process see it; this one begins with a write of its own.
		lines, reason := d.run(t, "", "delete", textOf(a, "key")+"/none")
		if reason != "" {
			return nil, 0, reason
		}
		line = append(line, "--consistency", "stale", "--token", textOf(one(lines), "token"))
	}
	lines, reason := d.run(t, "", line...)
	return found(printed(t, one(lines)), numberOf(one(lines), "version")), numberOf(one(lines), "mod_revision"), reason
}

func (d *commandDriver) delete(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	lines, reason := d.run(t, "", append([]string{"delete", textOf(a, "key")}, d.conditions(a)...)...)
	return map[string]any{"deleted": one(lines)["deleted"]}, numberOf(one(lines), "revision"), reason
}

func (d *commandDriver) scan(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	line := []string{"scan", "--prefix", textOf(a, "prefix"), "--limit", strconv.FormatUint(numberOf(a, "limit"), 10)}
	if a["reverse"] == true {
		line = append(line, "--reverse")
	}
	lines, reason := d.run(t, "", line...)
	items := [][]string{}
	for _, l := range lines {
		items = append(items, []string{textOf(l, "key"), string(printed(t, l))})
	}
	return map[string]any{"items": items}, 0, reason
}

// word quotes what a file of a batch or transaction has.
func word(s string) string { return strconv.Quote(s) }

// operations are lines, each behind what begins it.
func (d *commandDriver) operations(t *testing.T, file *bytes.Buffer, begin string, list []map[string]any) {
	for _, o := range list {
		for kind, fields := range o {
			a := fields.(map[string]any)
			fmt.Fprintf(file, "%s%s %s", begin, kind, word(textOf(a, "key")))
			if kind == "put" {
				fmt.Fprintf(file, " %s", word(string(valueOf(t, a))))
			}
			file.WriteByte('\n')
		}
	}
}

func (d *commandDriver) batch(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	var file bytes.Buffer
	d.operations(t, &file, "", listOf(a, "operations"))
	lines, reason := d.run(t, file.String(), "batch")
	return map[string]any{"applied": numberOf(one(lines), "operations")}, numberOf(one(lines), "revision"), reason
}

func (d *commandDriver) txn(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	var file bytes.Buffer
	for _, c := range listOf(a, "if") {
		fmt.Fprintf(&file, "if %s ", word(textOf(c, "key")))
		switch {
		case c["exists"] == true:
			file.WriteString("exists\n")
		case c["exists"] == false:
			file.WriteString("absent\n")
		case c["revision"] != nil:
			fmt.Fprintf(&file, "revision %d\n", numberOf(c, "revision"))
		default:
			fmt.Fprintf(&file, "value %s\n", word(string(valueOf(t, c))))
		}
	}
	d.operations(t, &file, "then ", listOf(a, "then"))
	d.operations(t, &file, "else ", listOf(a, "else"))
	lines, reason := d.run(t, file.String(), "txn")
	gets := []any{}
	for _, r := range listOf(one(lines), "results") {
		if r["op"] != "get" {
			continue
		}
		if item, ok := r["item"].(map[string]any); ok {
			gets = append(gets, string(printed(t, item)))
		} else {
			gets = append(gets, nil)
		}
	}
	return map[string]any{"succeeded": one(lines)["succeeded"], "gets": gets}, numberOf(one(lines), "revision"), reason
}

func (d *commandDriver) watch(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	line := []string{"watch", "--prefix", textOf(a, "prefix"), "--count", strconv.FormatUint(numberOf(a, "count"), 10)}
	if n := numberOf(a, "from"); n > 0 {
		line = append(line, "--from-revision", strconv.FormatUint(n, 10))
	}
	if a["initial"] == true {
		line = append(line, "--initial")
	}
	lines, reason := d.run(t, "", line...)
	events := [][]string{}
	for _, l := range lines {
		events = append(events, []string{textOf(l, "type"), textOf(l, "key"), string(printed(t, l))})
	}
	return map[string]any{"events": events}, 0, reason
}

func (d *commandDriver) grant(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	lines, reason := d.run(t, "", "lease", "grant", fmt.Sprintf("%dms", numberOf(a, "ttlMs")))
	id, _ := strconv.ParseUint(textOf(one(lines), "lease"), 10, 64)
	return map[string]any{}, id, reason
}

func (d *commandDriver) revoke(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	_, reason := d.run(t, "", "lease", "revoke", strconv.FormatUint(numberOf(a, "lease"), 10))
	return map[string]any{}, 0, reason
}
