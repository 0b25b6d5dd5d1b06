package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// decoded is the content of an entry.
type decoded struct {
	kind  string         // normal, empty (of a new leader), or a change of the members
	entry *storev1.Entry // of a normal one
	err   error          // if it cannot be decoded
}

func decode(e *raftpb.Entry) (d decoded) {
	switch {
	case e.GetType() != raftpb.EntryNormal:
		d.kind = strings.ToLower(strings.TrimPrefix(e.GetType().String(), "Entry"))
	case len(e.GetData()) == 0:
		d.kind = "empty"
	default:
		d.kind = "normal"
		d.entry, d.err = state.DecodeEntry(e.GetData())
	}
	return d
}

// tableDump prints a table of each shard; an entry has as many lines as commands.
type tableDump struct {
	p *printer
	t *table
}

func newTableDump(p *printer) *tableDump { return &tableDump{p: p} }

func (d *tableDump) shard(id placement.ShardID, s logstore.State) error {
	if d.t != nil {
		if err := d.end(); err != nil {
			return err
		}
		fmt.Fprintln(d.p)
	}
	fmt.Fprintf(d.p, "shard %d: entries %d to %d, cut off at %d (term %d); term %d, vote %d, commit %d\n",
		id, s.TruncatedIndex+1, s.LastIndex, s.TruncatedIndex, s.TruncatedTerm,
		s.HardState.GetTerm(), s.HardState.GetVote(), s.HardState.GetCommit())
	if s.Intent != nil {
		fmt.Fprintf(d.p, "an image at index %d (term %d) was being taken over from %s\n", s.Intent.Index, s.Intent.Term, s.Intent.Dir)
	}
	d.t = newTable(d.p, "SHARD", "INDEX", "TERM", "LENGTH", "TYPE", "COMMAND")
	return nil
}

func (d *tableDump) entry(id placement.ShardID, e *raftpb.Entry, c decoded) error {
	cells := []string{fmt.Sprint(id), fmt.Sprint(e.GetIndex()), fmt.Sprint(e.GetTerm()), fmt.Sprint(len(e.GetData())), c.kind, ""}
	commands := []string{""}
	switch {
	case c.err != nil:
		commands = []string{c.err.Error()}
	case c.entry != nil && len(c.entry.GetCommands()) > 0:
		commands = commands[:0]
		for _, cmd := range c.entry.GetCommands() {
			commands = append(commands, describe(cmd))
		}
	case c.entry == nil && c.kind != "empty":
		commands = []string{hex.EncodeToString(e.GetData())}
	}
	for _, text := range commands {
		cells[5] = text
		d.t.row(cells...)
		cells = []string{"", "", "", "", "", ""}
	}
	return nil
}

func (d *tableDump) end() error {
	if d.t == nil {
		return nil
	}
	return d.t.end()
}

// describe shows a command in one line.
func describe(c *storev1.Command) string {
	var parts []string
	switch body := c.GetBody().(type) {
	case *storev1.Command_Write:
		for _, w := range body.Write.GetCompares() {
			parts = append(parts, describeCompare(w))
		}
		for _, o := range body.Write.GetOperations() {
			parts = append(parts, describeOperation(o))
		}
		for _, o := range body.Write.GetOtherwise() {
			parts = append(parts, "else "+describeOperation(o))
		}
	case *storev1.Command_TrimHistory:
		parts = append(parts, fmt.Sprintf("forget history below revision %d, %d revisions at most",
			body.TrimHistory.GetBelow(), body.TrimHistory.GetMaxRevisions()))
	case *storev1.Command_Bootstrap:
		parts = append(parts, fmt.Sprintf("begin with the slot table of epoch %d", body.Bootstrap.GetSlots().GetEpoch()))
	case *storev1.Command_Expire:
		parts = append(parts, describeExpire(body.Expire))
	case *storev1.Command_Lease:
		parts = append(parts, describeLease(body.Lease))
	case *storev1.Command_Fence:
		parts = append(parts, fmt.Sprintf("fence, unless it is answered, in slot %d", body.Fence.GetSlot()))
	case *storev1.Command_Opaque:
		parts = append(parts, "command of an embedding program: "+cell(body.Opaque))
	default:
		parts = append(parts, "command of a kind that this version does not know")
	}
	if id := c.GetRequestId(); id != nil {
		parts = append(parts, fmt.Sprintf("request %x/%d", id.GetClientId(), id.GetSequence()))
	}
	if k := c.GetIdempotency(); k != nil {
		parts = append(parts, fmt.Sprintf("idempotency key %s for %d ms", cell([]byte(k.GetKey())), k.GetWindowMs()))
	}
	return strings.Join(parts, "; ")
}

func describeCompare(c *storev1.Compare) string {
	key := cell([]byte(c.GetKey()))
	switch is := c.GetCondition().(type) {
	case *storev1.Compare_Exists:
		if is.Exists {
			return "if " + key + " exists"
		}
		return "if " + key + " does not exist"
	case *storev1.Compare_ModRevision:
		return "if " + key + " is at revision " + strconv.FormatUint(is.ModRevision, 10)
	case *storev1.Compare_Value:
		return "if " + key + " is " + cell(is.Value)
	}
	return "if " + key + " meets a condition that this version does not know"
}

func describeOperation(o *storev1.Operation) string {
	key := cell([]byte(o.GetKey()))
	switch o.GetKind() {
	case storev1.OperationKind_OPERATION_KIND_PUT:
		return "put " + key + " " + cell(o.GetValue()) + describeLife(o)
	case storev1.OperationKind_OPERATION_KIND_DELETE:
		return "delete " + key
	case storev1.OperationKind_OPERATION_KIND_GET:
		return "get " + key
	default:
		return "do to " + key + " what this version does not know"
	}
}

func describeLife(o *storev1.Operation) string {
	switch {
	case o.GetTtlMs() != 0:
		return fmt.Sprintf(" for %d ms", o.GetTtlMs())
	case o.GetLease() != 0:
		return fmt.Sprintf(" on lease %d", o.GetLease())
	}
	return ""
}

func describeExpire(c *storev1.Expire) string {
	text := fmt.Sprintf("remove what has expired, %d keys at most", c.GetMaxKeys())
	if len(c.GetLeases()) > 0 {
		text += fmt.Sprintf(", and the keys of leases %v, which have ended elsewhere", c.GetLeases())
	}
	return text
}

func describeLease(c *storev1.LeaseCommand) string {
	switch a := c.GetAction().(type) {
	case *storev1.LeaseCommand_Grant:
		return fmt.Sprintf("grant lease %d for %d ms", c.GetId(), a.Grant.GetTtlMs())
	case *storev1.LeaseCommand_KeepAlive:
		return fmt.Sprintf("keep lease %d alive", c.GetId())
	case *storev1.LeaseCommand_Revoke:
		return fmt.Sprintf("revoke lease %d, %d keys at most", c.GetId(), a.Revoke.GetMaxKeys())
	}
	return fmt.Sprintf("command of a kind that this version does not know, on lease %d", c.GetId())
}

// jsonDump prints a line for each shard and each entry.
type jsonDump struct{ p *printer }

func (d jsonDump) shard(id placement.ShardID, s logstore.State) error {
	out := map[string]any{
		"shard": id, "first_index": s.TruncatedIndex + 1, "last_index": s.LastIndex,
		"truncated_index": s.TruncatedIndex, "truncated_term": s.TruncatedTerm,
		"term": s.HardState.GetTerm(), "vote": s.HardState.GetVote(), "commit": s.HardState.GetCommit(),
	}
	if s.Intent != nil {
		out["intent"] = map[string]any{"index": s.Intent.Index, "term": s.Intent.Term, "dir": s.Intent.Dir}
	}
	return d.p.object(out)
}

func (d jsonDump) entry(id placement.ShardID, e *raftpb.Entry, c decoded) error {
	out := struct {
		Shard  placement.ShardID `json:"shard"`
		Index  uint64            `json:"index"`
		Term   uint64            `json:"term"`
		Length int               `json:"length"`
		Type   string            `json:"type"`
		Entry  *protoJSON        `json:"entry,omitempty"`
		Data   []byte            `json:"data,omitempty"`
		Error  string            `json:"error,omitempty"`
	}{Shard: id, Index: e.GetIndex(), Term: e.GetTerm(), Length: len(e.GetData()), Type: c.kind}
	switch {
	case c.err != nil:
		out.Error, out.Data = c.err.Error(), e.GetData()
	case c.entry != nil:
		out.Entry = &protoJSON{c.entry}
	default:
		out.Data = e.GetData()
	}
	return d.p.object(out)
}

func (d jsonDump) end() error { return nil }
