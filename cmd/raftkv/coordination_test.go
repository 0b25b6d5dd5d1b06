package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// running is a command line that does not end by itself.
type running struct {
	t         *testing.T
	out       *bufio.Reader
	pipe      *io.PipeReader
	errOut    bytes.Buffer // after end only
	interrupt context.CancelFunc
	code      chan int
}

func background(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	r, w := io.Pipe()
	b := &running{t: t, out: bufio.NewReader(r), pipe: r, interrupt: cancel, code: make(chan int, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.code <- run(ctx, args, strings.NewReader(""), w, &b.errOut)
		_ = w.Close()
	}()
	t.Cleanup(func() { cancel(); _ = r.Close(); <-done })
	return b
}

// line waits for the next line.
func (b *running) line() string {
	b.t.Helper()
	line, err := b.out.ReadString('\n')
	if err != nil {
		b.t.Fatalf("no line: %v; exit code %d: %s", err, <-b.code, b.errOut.String())
	}
	return strings.TrimSuffix(line, "\n")
}

func (b *running) want(lines ...string) {
	b.t.Helper()
	for _, want := range lines {
		if got := b.line(); got != want {
			b.t.Fatalf("%q, want %q", got, want)
		}
	}
}

func (b *running) ends(code int) {
	b.t.Helper()
	if got := <-b.code; got != code {
		b.t.Errorf("exit code %d, want %d: %s", got, code, b.errOut.String())
	}
}

func succeed(t *testing.T, args ...string) string {
	t.Helper()
	got := raft(t, "", args...)
	if got.code != 0 {
		t.Fatalf("%q: exit code %d: %s", args, got.code, got.errOut)
	}
	return got.out
}

func TestWatchCommand(t *testing.T) {
	startCluster(t, 3, 1)
	succeed(t, "put", "c/a", "one")
	succeed(t, "put", "c/b", "\xff")
	people := background(t, "watch", "--prefix", "c/", "--initial", "--prev")
	people.want("initial c/a: one, revision 1, version 1", `initial c/b: "\xff", revision 2, version 1`, "initial done")
	programs := background(t, "watch", "c/a", "--from-revision", "1", "--prev", "-o", "json")
	var first struct{ Token string }
	line := programs.line()
	if err := json.Unmarshal([]byte(line), &first); err != nil || first.Token == "" ||
		!strings.HasPrefix(line, `{"type":"put","key":"c/a","value":"one","create_revision":1,"mod_revision":1,"version":1,"shard":1,"token":"`) {
		t.Fatal(line, err)
	}
	succeed(t, "put", "c/a", "two")
	succeed(t, "delete", "c/a")
	people.want("put c/a: two, revision 3, version 2", "  before: one, revision 1, version 1", "delete c/a: revision 4", "  before: two, revision 3, version 2")
	for _, want := range []string{
		`{"type":"put","key":"c/a","value":"two","create_revision":1,"mod_revision":3,"version":2,"previous":{"key":"c/a","value":"one","create_revision":1,"mod_revision":1,"version":1},"shard":1,"token":"`,
		`{"type":"delete","key":"c/a","mod_revision":4,"previous":{"key":"c/a","value":"two","create_revision":1,"mod_revision":3,"version":2},"shard":1,"token":"`,
	} {
		if got := programs.line(); !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s…", got, want)
		}
	}
	people.interrupt()
	people.ends(exitDone)
	_ = programs.pipe.Close() // who reads has gone
	succeed(t, "put", "c/a", "three")
	programs.ends(exitDone)
	// … also one that has nothing to print notices.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	idle := make(chan int, 1)
	go func() {
		idle <- run(t.Context(), []string{"watch", "--prefix", "c/", "--initial"}, strings.NewReader(""), w, io.Discard)
	}()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "initial c/a: three, revision 5, version 1\n" {
		t.Error(line, err)
	}
	_ = r.Close()
	if code := <-idle; code != exitDone {
		t.Errorf("exit code %d", code)
	}
	_ = w.Close()
	for _, s := range []step{
		{line: "watch c/a --token " + first.Token + " --count 2", out: "put c/a: two, revision 3, version 2\ndelete c/a: revision 4\n"},
		{line: "watch --prefix c/ --from-revision 5 --count 1", out: "put c/a: three, revision 5, version 1\n"},
		{line: "watch c/b --token " + first.Token, code: exitUsage, err: "belongs to a watch of other keys"},
		{line: "watch c/a --from-revision 99", code: exitFailed, err: `watch "c/a": revision 99 is not reached, the shard is at 5`},
		{line: "watch c/a --from-revision 1 --no-puts --count 1", out: "delete c/a: revision 4\n"},
		{line: "watch c/a --from-revision 4 --no-deletes --count 1", out: "put c/a: three, revision 5, version 1\n"},
		{line: "watch --start c/b --end c/c --from-revision 1 --count 1", out: "put c/b: \"\\xff\", revision 2, version 1\n"},
		{line: "watch --start c/b --from-revision 1 --count 1", out: "put c/b: \"\\xff\", revision 2, version 1\n"},
		{line: "watch --end c/b --from-revision 2 --no-puts --count 1", out: "delete c/a: revision 4\n"},
		{line: "watch --start c/a --end c/b --initial --count 2", out: "initial c/a: three, revision 5, version 1\ninitial done\n"},
		{line: "watch", code: exitUsage, err: "say what to watch: KEY, --prefix, or --start with --end"},
		{line: "watch a --prefix b", code: exitUsage, err: "say what to watch: KEY, --prefix, or --start with --end"},
		{line: "watch a --end b", code: exitUsage, err: "say what to watch: KEY, --prefix, or --start with --end"},
		{line: "watch --prefix a --start b", code: exitUsage, err: "--prefix does not go with --start or --end"},
		{line: "watch a --no-puts --no-deletes", code: exitUsage, err: "--no-puts and --no-deletes together leave nothing to watch"},
		{line: "watch a --count -1", code: exitUsage, err: "--count must not be negative"},
		{line: "watch a --token x --initial", code: exitUsage, err: "--token does not go with --from-revision or --initial"},
		{line: "watch a --progress 1ms", code: exitUsage, err: "the interval of WithProgress is 1ms"},
	} {
		s.run(t)
	}
	marks := background(t, "watch", "a", "--progress", "1h", "-o", "json")
	if got := marks.line(); !strings.HasPrefix(got, `{"type":"progress","progress":[{"shard":1,"revision":5,"age_ms":`) {
		t.Error(got)
	}
}

func TestLeaseCommands(t *testing.T) {
	startCluster(t, 3, 2)
	id := strings.TrimSpace(succeed(t, "lease", "grant", "1h"))
	succeed(t, "put", "{a}x", "1", "--lease", id)
	succeed(t, "put", "{d}y", "1", "--lease", id)
	for _, s := range []step{
		{line: "lease get " + id + " --keys", out: "LEASE TTL REMAINING\n# #h#m#s #m#s\n{a}x\n{d}y\n"},
		{line: "lease list", out: "LEASE TTL REMAINING\n# #h#m#s #m#s\n"},
		{line: "lease keep-alive --once " + id, out: "lease # lives for another #h#m#s\n"},
	} {
		got := raft(t, "", strings.Fields(s.line)...)
		text := strings.ReplaceAll(shape(got.out), "#h#m#s #h#m#s", "#h#m#s #m#s") // of which not a millisecond has passed
		text = strings.ReplaceAll(text, "#m#.#s", "#m#s")
		if got.code != 0 || text != s.out {
			t.Errorf("%s: %q, want %q (%s)", s.line, text, s.out, got.errOut)
		}
	}
	if got := succeed(t, "get", "{a}x", "-o", "json"); !strings.Contains(got, `"lease":"`+id+`"`) {
		t.Error(got)
	}
	if got := succeed(t, "lease", "get", id, "--keys", "-o", "json"); !strings.HasPrefix(got, `{"lease":"`+id+`","ttl_ms":3600000,"remaining_ms":`) ||
		!strings.HasSuffix(got, `,"keys":["{a}x","{d}y"]}`+"\n") {
		t.Error(got)
	}
	keeper := background(t, "lease", "keep-alive", id)
	keeper.want("lease " + id + " is kept alive, for 1h0m0s at a time, until you press Ctrl-C")
	keeper.interrupt()
	keeper.ends(exitDone)
	for _, s := range []step{
		{line: "lease revoke " + id, out: "revoked: lease " + id + "\n"},
		{line: "lease revoke " + id, code: exitNotFound, err: "lease " + id + " does not exist or has ended"},
		{line: "lease get " + id, code: exitNotFound, err: "does not exist"},
		{line: "lease keep-alive " + id, code: exitNotFound, err: "does not exist"},
		{line: "put a 1 --lease " + id, code: exitNotFound, err: "does not exist"},
		{line: "put a 1 --lease x", code: exitUsage, err: `"x" is not the id of a lease`},
		{line: "put a 1 --lease 0", code: exitUsage, err: `"0" is not the id of a lease`},
		{line: "put a 1 --lease 1 --ttl 1s", code: exitUsage, err: "--ttl does not go with --lease"},
		{line: "put a 1 --ttl -1s", code: exitUsage, err: "ttl must be more than 0, it is -1s"},
		{line: "lease get x", code: exitUsage, err: `"x" is not the id of a lease`},
		{line: "lease grant soon", code: exitUsage, err: `"soon" is not a time, as 30s`},
		{line: "lease grant 0s", code: exitUsage, err: "ttl must be more than 0"},
		{line: "lease find", code: exitUsage, err: `"find" is no command of raftkv lease`},
	} {
		s.run(t)
	}
}

// A time to live is shown, goes with what is dumped and loaded, and ends the key.
func TestTTLCommands(t *testing.T) {
	startCluster(t, 1, 1)
	succeed(t, "put", "long", "1", "--ttl", "1h")
	dump := succeed(t, "scan", "-o", "json")
	if !strings.Contains(dump, `,"ttl_ms":3`) {
		t.Fatal(dump)
	}
	succeed(t, "put", "long", "2")
	if got := succeed(t, "get", "long", "-o", "json"); strings.Contains(got, "ttl_ms") {
		t.Error(got)
	}
	for _, line := range []string{"batch", "batch --non-atomic"} {
		if got := raft(t, dump, strings.Fields(line)...); got.code != 0 {
			t.Error(got.errOut)
		}
		if got := succeed(t, "get", "long", "-o", "json"); !strings.Contains(got, `"value":"1"`) || !strings.Contains(got, `,"ttl_ms":3`) {
			t.Errorf("%s: %s", line, got)
		}
	}
	for _, s := range []step{
		{line: "txn", input: `{"then":[{"put":{"key":"txn","value":"MQ==","ttlMs":"60000"}}]}`, out: "then, at revision 5:\n  put txn: version 1\n"},
		{line: "batch", input: `{"key":"a","value":"1","lease":"77"}`, code: exitNotFound, err: "lease 77 does not exist"},
		{line: "batch", input: `{"key":"a","value":"1","lease":"77","ttl_ms":1}`, code: exitUsage, err: "one of WithTTL and WithLease"},
		{line: "batch", input: `{"key":"a","value":"1","lease":"x"}`, code: exitUsage, err: `"x" is not the id of a lease`},
		{line: "batch", input: `{"key":"a","value":"1","ttl_ms":-1}`, code: exitUsage, err: `"ttl_ms" must be more than 0`},
		{line: "batch", input: `{"op":"delete","key":"a","ttl_ms":1}`, code: exitUsage, err: "a delete takes no ttl_ms"},
	} {
		s.run(t)
	}
	if got := succeed(t, "get", "txn", "-o", "json"); !strings.Contains(got, `"ttl_ms":`) {
		t.Error(got)
	}
	gone := background(t, "watch", "short", "--from-revision", "6")
	succeed(t, "put", "short", "1", "--ttl", "10ms")
	gone.want("put short: 1, revision 6, version 1", "delete short: revision 7, expired")
}

func TestLockCommand(t *testing.T) {
	startCluster(t, 3, 1)
	for _, s := range []step{
		{line: "lock job -- sh -c echo~$RAFTKV_LOCK_KEY:$RAFTKV_LOCK_TOKEN", out: "job:1\n"},
		{line: "lock job -- sh -c echo~$RAFTKV_LOCK_TOKEN;exit~9", code: 9, out: "3\n"},
		{line: "lock job -- cat", input: "in", out: "in"},
		{line: "lock job -- sh -c kill~-9~$$", code: 128 + 9},
		{line: "lock job -- /nonexistent", code: exitNotStarted, err: "run the command: fork/exec /nonexistent: no such file"},
		{line: "get job", code: exitNotFound, err: "not found"},
		{line: "lock job", code: exitUsage, err: "say which lock and what to run"},
		{line: "lock job true", code: exitUsage, err: "say which lock and what to run"},
		{line: "lock -- job true", code: exitUsage, err: "say which lock and what to run"},
		{line: "lock job --wait -1s -- true", code: exitUsage, err: "--wait must not be negative"},
		{line: "lock job --ttl 0s -- true", code: exitUsage, err: "ttl must be more than 0"},
	} {
		s.run(t)
	}

	holder := background(t, "lock", "job", "--", "sh", "-c", "echo $RAFTKV_LOCK_TOKEN; exec sleep 60")
	token := holder.line()
	for _, s := range []step{
		{line: "lock job --wait 0s -- echo never", code: exitCondition, err: `lock "job" is held by somebody else, with token ` + token},
		{line: "lock job --wait 10ms -- echo never", code: exitCondition, err: ", process " + fmt.Sprint(os.Getpid())},
	} {
		s.run(t)
	}
	waiter := background(t, "lock", "job", "--", "sh", "-c", "echo mine; exec sleep 60")
	holder.interrupt()
	holder.ends(128 + 15)
	waiter.want("mine")
	succeed(t, "delete", "job")
	waiter.ends(exitLost)
	if !strings.Contains(waiter.errOut.String(), `lock "job" with token`) || !strings.Contains(waiter.errOut.String(), "is lost: its key was removed or overwritten") {
		t.Error(waiter.errOut.String())
	}
}

// A watch through real nodes that are killed and started again, while leads change, tells every change once and in order.
func TestWatchSurvivesKills(t *testing.T) {
	c := startProcesses(t, 3)
	var endpoints []string
	for _, p := range c.nodes {
		endpoints = append(endpoints, hostPort("127.0.0.1", p.port))
	}
	client, err := raftkv.Open(t.Context(), endpoints, raftkv.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const writes = 400
	written := make(chan error, 1)
	go func() {
		for i := range writes {
			if _, err := client.Batch(t.Context(), raftkv.PutOp("{w}/a", fmt.Append(nil, i)), raftkv.PutOp("{w}/b", fmt.Append(nil, i))); err != nil {
				written <- fmt.Errorf("write %d: %w", i, err)
				return
			}
		}
		written <- nil
	}()
	seen := 0
	for event, err := range client.Watch(t.Context(), raftkv.Prefix("{w}/"), raftkv.FromRevision(1)) {
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("{w}/%c=%d", 'a'+seen%2, seen/2)
		if got := event.Item.Key + "=" + string(event.Item.Value); got != want {
			t.Fatalf("event %d is %s, want %s", seen, got, want)
		}
		seen++
		if seen == 2*writes {
			break
		}
		if seen%(2*writes/6) == 0 {
			p := c.nodes[seen/(2*writes/6)%3]
			c.kill(p)
			c.start(p)
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

// The example of the README for locks works as a script.
func TestLockSerialisesScripts(t *testing.T) {
	startCluster(t, 1, 1)
	file := filepath.Join(t.TempDir(), "counter")
	if err := os.WriteFile(file, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all []*running
	for range 6 {
		all = append(all, background(t, "lock", "counter", "--", "sh", "-c", `n=$(cat "$0"); sleep 0.02; echo $((n+1)) > "$0"`, file))
	}
	for _, b := range all {
		b.ends(exitDone)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "6\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// By its own clock, the holder of a lease knows that it cannot count on it before anybody sees a key of it go.
func TestHolderKnowsFirst(t *testing.T) {
	configs := startCluster(t, 3, 2)
	client := openClient(t, configs)
	leases := make(map[string]*raftkv.Lease)
	for i := range 20 {
		l, err := client.Grant(t.Context(), time.Duration(100+20*i)*time.Millisecond, raftkv.WithoutKeepAlive())
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("{%d}key", i)
		if _, err := client.Put(t.Context(), key, nil, raftkv.WithLease(l.ID())); err == nil { // it may have ended already
			leases[key] = l
		}
	}
	if len(leases) < 10 {
		t.Fatalf("only %d leases", len(leases))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	there := make(map[string]bool)
	for event, err := range client.Watch(ctx, raftkv.Range{}, raftkv.IncludeInitial()) {
		if err != nil {
			t.Fatal(err)
		}
		switch event.Type {
		case raftkv.EventPut:
			there[event.Item.Key] = true
		case raftkv.EventDelete:
			if leases[event.Item.Key].Err() == nil {
				t.Errorf("%s is gone, and its holder does not know", event.Item.Key)
			}
			delete(there, event.Item.Key)
		}
		if event.Type != raftkv.EventPut && len(there) == 0 {
			break
		}
	}
}

// A lock is held on while the leader is killed and another is elected, and what is written under it is written.
func TestLockOutlivesTheLeader(t *testing.T) {
	c := startProcesses(t, 3)
	var endpoints []string
	for _, p := range c.nodes {
		endpoints = append(endpoints, hostPort("127.0.0.1", p.port))
	}
	client, err := raftkv.Open(t.Context(), endpoints, raftkv.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = recipes.WithLock(t.Context(), client, "{l}ock", func(ctx context.Context, l *recipes.Lock) error {
		for i := range 3 {
			leader := c.leader()
			c.kill(leader)
			if _, err := l.Write(ctx, raftkv.PutOp("{l}data", fmt.Append(nil, i))); err != nil {
				return err
			}
			if _, err := recipes.TryAcquire(ctx, client, l.Key()); !errors.Is(err, recipes.ErrHeld) {
				return fmt.Errorf("taken twice: %w", err)
			}
			c.start(leader)
			c.ready(leader)
		}
		return ctx.Err()
	}, recipes.WithTTL(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if item, err := client.Get(t.Context(), "{l}data"); err != nil || string(item.Value) != "2" {
		t.Error(item, err)
	}
	if _, err := client.Get(t.Context(), "{l}ock"); !errors.Is(err, raftkv.ErrNotFound) {
		t.Error(err)
	}
}

// In a cluster with more nodes than replicas, where no node has all shards, a watch is of all keys nevertheless.
func TestWatchWhereNoNodeHasAllShards(t *testing.T) {
	configs := demoConfigs(demoFlags{nodes: 3, shards: 6, basePort: freeBase(t, 3), data: t.TempDir()})
	for _, c := range configs {
		c.Replicas = 1
	}
	startNodes(t, configs)
	client := openClient(t, configs)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const keys = 50
	write := func(value string) {
		for i := range keys {
			if _, err := client.Put(ctx, fmt.Sprintf("key-%d", i), []byte(value)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("old")
	seen, token := make(map[string]string), ""
	for _, resumed := range []bool{false, true} {
		options := []raftkv.WatchOption{raftkv.IncludeInitial()}
		if resumed {
			options = []raftkv.WatchOption{raftkv.FromToken(token)}
		}
		events := 0
		for event, err := range client.Watch(ctx, raftkv.Prefix("key-"), options...) {
			if err != nil {
				t.Fatal(err)
			}
			if event.Type == raftkv.EventInitialDone {
				if events != keys {
					t.Errorf("%d keys at the start", events)
				}
				write("new")
				continue
			}
			seen[event.Item.Key] = string(event.Item.Value)
			token = event.Token()
			// The first watch is left in the middle of the changes, the second goes on from there.
			if events++; events == keys+keys/2 || resumed && events == keys-keys/2 {
				break
			}
		}
	}
	if !strings.Contains(token, ",") {
		t.Errorf("token %s is not of a watch of each shard: did a node have them all?", token)
	}
	for i := range keys {
		if key := fmt.Sprintf("key-%d", i); seen[key] != "new" {
			t.Errorf("%s is %q", key, seen[key])
		}
	}
}
