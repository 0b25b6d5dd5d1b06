package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/state"
)

// stoppedNode returns the data directory of a node that has stopped after some writes.
func stoppedNode(t *testing.T) string {
	t.Helper()
	configs := demoConfigs(demoFlags{nodes: 1, shards: 1, basePort: freeBase(t, 1), data: t.TempDir()})
	n, err := startNode(configs[0], slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := waitReady(t.Context(), []*node{n}); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))
	for _, args := range [][]string{{"put", "a", "text"}, {"put", "b", "\x01\x02"}, {"delete", "a"}} {
		if got := raft(t, "", args...); got.code != 0 {
			t.Fatal(got.errOut)
		}
	}
	if got := raft(t, "put c 1\nput d 2", "batch"); got.code != 0 {
		t.Fatal(got.errOut)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	return configs[0].DataDir
}

// files returns the names and contents below a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		out[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The log of a stopped node can be read as often as one likes, and stays as it is.
func TestLogDump(t *testing.T) {
	dir := stoppedNode(t)
	before := files(t, dir)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	got := raft(t, "", "log", "dump", "--data", dir, "--shard", "1")
	text := regexp.MustCompile(`request [0-9a-f]{32}/`).ReplaceAllString(got.out, "request ID/")
	want := `shard 1: entries 3 to 7, cut off at 2 (term 1); term 2, vote 1, commit 7
SHARD  INDEX  TERM  LENGTH  TYPE    COMMAND
1      3      2     0       empty   
1      4      2     LEN     normal  put a text; request ID/1
1      5      2     LEN     normal  put b "\x01\x02"; request ID/1
1      6      2     LEN     normal  delete a; request ID/1
1      7      2     LEN     normal  put c 1; put d 2; request ID/1
`
	text = regexp.MustCompile(`(?m)^(1 +[4-7] +2 +)[0-9]{2} `).ReplaceAllString(text, "${1}LEN")
	if d := cmp.Diff(want, text); got.code != 0 || d != "" {
		t.Errorf("exit code %d %s (-want +got):\n%s", got.code, got.errOut, d)
	}

	got = raft(t, "", "log", "dump", "--data", dir, "--from", "5", "--to", "6", "-o", "json")
	type line struct {
		Shard, Index, Term, Length int
		Type                       string
		Entry                      *struct{ Commands []json.RawMessage }
	}
	var entries []line
	for d := json.NewDecoder(strings.NewReader(got.out)); d.More(); {
		var l line
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		if l.Index > 0 {
			entries = append(entries, l)
		}
	}
	if len(entries) != 2 || entries[0].Index != 5 || entries[1].Type != "normal" || entries[1].Length == 0 || len(entries[0].Entry.Commands) != 1 {
		t.Errorf("in JSON: %+v\n%s%s", entries, got.out, got.errOut)
	}

	if got := raft(t, "", "log", "dump", "--data", dir, "--shard", "7"); got.code != exitFailed || !strings.Contains(got.errOut, "there is no shard 7 here; there are 0 1") {
		t.Errorf("%+v", got)
	}
	if got := raft(t, "", "log", "dump", "--data", dir, "--from", "7", "--to", "6"); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Errorf("reading has changed the data directory:\n%s", d)
	}
	if names, err := os.ReadDir(temp); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// Damage is told, not passed over.
func TestLogDumpOfDamage(t *testing.T) {
	dir := stoppedNode(t)
	segments, err := filepath.Glob(filepath.Join(dir, "log", "*.log"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	content, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(content), "text")
	if at < 0 {
		t.Fatal("the value is not in the log")
	}
	content[at] ^= 1
	if err := os.WriteFile(segments[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	got := raft(t, "", "log", "dump", "--data", dir)
	if !strings.Contains(got.errOut, "damaged") {
		t.Errorf("exit code %d\n%s%s", got.code, got.out, got.errOut)
	}
}

func TestDescribe(t *testing.T) {
	put := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "k", Value: []byte("v")}
	write := func(compares ...*storev1.Compare) *storev1.Command {
		return &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Compares: compares, Operations: []*storev1.Operation{put}}}}
	}
	for want, c := range map[string]*storev1.Command{
		"put k v":                                              write(),
		"if a exists; put k v":                                 write(&storev1.Compare{Key: "a", Condition: &storev1.Compare_Exists{Exists: true}}),
		"if a does not exist; put k v":                         write(&storev1.Compare{Key: "a", Condition: &storev1.Compare_Exists{}}),
		"if a is at revision 7; put k v":                       write(&storev1.Compare{Key: "a", Condition: &storev1.Compare_ModRevision{ModRevision: 7}}),
		`if a is "x y "; put k v`:                              write(&storev1.Compare{Key: "a", Condition: &storev1.Compare_Value{Value: []byte("x y ")}}),
		"forget history below revision 9, 3 revisions at most": {Body: &storev1.Command_TrimHistory{TrimHistory: &storev1.TrimHistory{Below: 9, MaxRevisions: 3}}},
		"begin with the slot table of epoch 1":                 {Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: &storev1.SlotTable{Epoch: 1}}}},
		"remove what has expired, 5 keys at most":              {Body: &storev1.Command_Expire{Expire: &storev1.Expire{MaxKeys: 5}}},
		"remove what has expired, 5 keys at most, and the keys of leases [7 8], which have ended elsewhere": {
			Body: &storev1.Command_Expire{Expire: &storev1.Expire{MaxKeys: 5, Leases: []uint64{7, 8}}},
		},
		"grant lease 7 for 9 ms": {Body: &storev1.Command_Lease{Lease: &storev1.LeaseCommand{
			Id: 7, Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: 9}},
		}}},
		"fence, unless it is answered, in slot 9; request 6161/3": {
			RequestId: &storev1.RequestId{ClientId: []byte("aa"), Sequence: 3}, Body: &storev1.Command_Fence{Fence: &storev1.Fence{Slot: 9}},
		},
		"delete k; idempotency key order-1 for 5 ms": {
			Idempotency: &storev1.Idempotency{Key: "order-1", WindowMs: 5}, Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{
				{Kind: storev1.OperationKind_OPERATION_KIND_DELETE, Key: "k"},
			}}},
		},
		"keep lease 7 alive": {Body: &storev1.Command_Lease{Lease: &storev1.LeaseCommand{Id: 7, Action: &storev1.LeaseCommand_KeepAlive{}}}},
		"revoke lease 7, 9 keys at most": {Body: &storev1.Command_Lease{Lease: &storev1.LeaseCommand{
			Id: 7, Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: 9}},
		}}},
		"put k v for 9 ms": {Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{
			{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "k", Value: []byte("v"), TtlMs: 9},
		}}}},
		"put k v on lease 7": {Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{
			{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "k", Value: []byte("v"), Lease: 7},
		}}}},
		"command of an embedding program: x":                {Body: &storev1.Command_Opaque{Opaque: []byte("x")}},
		"command of a kind that this version does not know": {},
	} {
		if got := describe(c); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	normal, err := state.EncodeEntry(&storev1.Entry{ClockMs: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		kind  raftpb.EntryType
		data  []byte
		want  string
		fails bool
	}{
		{raftpb.EntryNormal, nil, "empty", false},
		{raftpb.EntryNormal, normal, "normal", false},
		{raftpb.EntryNormal, []byte{99}, "normal", true},
		{raftpb.EntryConfChangeV2, []byte{1}, "confchangev2", false},
	} {
		d := decode(&raftpb.Entry{Type: test.kind.Enum(), Data: test.data})
		if d.kind != test.want || (d.err != nil) != test.fails {
			t.Errorf("%v %v: %+v", test.kind, test.data, d)
		}
	}
}

func TestCell(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", `""`},
		{"text", "text"},
		{" text", `" text"`},
		{"a\tb", `"a\tb"`},
		{`"`, `"\""`},
		{"日本", "日本"},
		{strings.Repeat("x", 64), strings.Repeat("x", 64)},
		{strings.Repeat("x", 65), strings.Repeat("x", 64) + "… (65 bytes)"},
		{strings.Repeat("日", 30), strings.Repeat("日", 21) + "… (90 bytes)"},
		{strings.Repeat("\x00", 3), `"\x00\x00\x00"`},
		{strings.Repeat("\xff", 30), `"` + strings.Repeat(`\xff`, 24) + `"… (30 bytes)`},
		{strings.Repeat("x\n", 40), `"` + strings.Repeat(`x\n`, 12) + `"… (80 bytes)`},
	} {
		if got := cell([]byte(test.in)); got != test.want {
			t.Errorf("%q: got %s, want %s", test.in, got, test.want)
		}
	}
}
