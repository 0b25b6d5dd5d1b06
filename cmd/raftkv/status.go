package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// statusTimeout is how long one node may take to describe itself: one that is gone must not hold up the others.
const statusTimeout = 2 * time.Second

// nodeReport is what a node says of itself, or why it says nothing.
type nodeReport struct {
	Address string     `json:"address"`
	Status  *protoJSON `json:"status,omitempty"`
	Error   string     `json:"error,omitempty"`
	// status is what Status prints.
	status *raftkvv1.StatusResponse
}

func newStatus() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show every node of the cluster",
		Long: `Show every node of the cluster as it describes itself. A node that cannot be reached is shown too.

In JSON, each node is a line of its own: its address, and its status or the error of asking for it.`,
		Args: arguments(cobra.NoArgs),
	}
	format := newOutput(c)
	f := addClientFlags(c)
	c.RunE = withClient(f, func(cmd *cobra.Command, client *raftkv.Client, _ []string) error {
		addresses, err := nodeAddresses(cmd.Context(), client, f)
		if err != nil {
			return err
		}
		reports := askAll(cmd.Context(), client, addresses)
		p := newPrinter(cmd)
		if format.value == "json" {
			for _, r := range reports {
				if err := p.object(r); err != nil {
					return err
				}
			}
			return p.flush(nil)
		}
		return p.flush(printStatus(p, reports))
	})
	return c
}

// nodeAddresses are those that the cluster knows; while it forms, it knows none, and those that the user knows.
func nodeAddresses(ctx context.Context, client *raftkv.Client, f *clientFlags) ([]string, error) {
	nodes, err := client.Cluster().Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, n.GetClientAddress())
	}
	if len(addresses) == 0 {
		addresses = f.addresses()
	}
	return addresses, nil
}

func askAll(ctx context.Context, client *raftkv.Client, addresses []string) []nodeReport {
	reports := make([]nodeReport, len(addresses))
	var all sync.WaitGroup
	for i, a := range addresses {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			reports[i] = nodeReport{Address: a}
			s, err := client.Cluster().Status(ctx, a)
			if err != nil {
				reports[i].Error = err.Error()
				return
			}
			reports[i].status, reports[i].Status = s, &protoJSON{s}
		})
	}
	all.Wait()
	return reports
}

func printStatus(p *printer, reports []nodeReport) error {
	if i := slices.IndexFunc(reports, func(r nodeReport) bool { return r.status.GetClusterId() != "" }); i >= 0 {
		fmt.Fprintf(p, "cluster %s\n\n", reports[i].status.GetClusterId())
	}
	t := newTable(p, "NODE", "ADDRESS", "STATE", "SHARDS", "LEADS", "UP", "LOG", "DATA", "VERSION")
	var notes []string
	for _, r := range reports {
		s := r.status
		if s == nil {
			t.row("?", r.Address, "unreachable", "", "", "", "", "", "")
			notes = append(notes, fmt.Sprintf("%s: %s", r.Address, r.Error))
			continue
		}
		state := "ready"
		if !s.GetReady() {
			state = "not ready"
			notes = append(notes, fmt.Sprintf("%s: %s", s.GetNodeId(), strings.Join(s.GetNotReady(), "; ")))
		}
		if !s.GetSyncWrite() {
			state += ", no fsync"
			notes = append(notes, s.GetNodeId()+": runs without fsync; acknowledged writes are lost when its machine fails")
		}
		if s.GetDiskFull() {
			state += ", disk full"
			notes = append(notes, fmt.Sprintf("%s: %s are free on its disk, of which %s are kept for deletes and reads; its shards take no puts until keys are deleted or space is freed",
				s.GetNodeId(), formatSize(int64(s.GetDiskFreeBytes())), formatSize(int64(s.GetDiskReserveBytes())))) //nolint:gosec // no disk is that large
		}
		leads := 0
		for _, shard := range s.GetShards() {
			if shard.GetLeaderNodeId() == s.GetNodeId() {
				leads++
			}
		}
		t.row(s.GetNodeId(), r.Address, state, fmt.Sprint(len(s.GetShards())), fmt.Sprint(leads), up(s.GetUptimeMs()),
			formatSize(int64(s.GetLogBytes())), formatSize(int64(s.GetStateBytes())), s.GetVersion()) //nolint:gosec // no disk is that large
	}
	if err := t.end(); err != nil {
		return err
	}
	for i, n := range notes {
		if i == 0 {
			fmt.Fprintln(p)
		}
		fmt.Fprintln(p, n)
	}
	return nil
}

// up shows an uptime without more digits than anybody needs.
func up(ms uint64) string {
	d := time.Duration(ms) * time.Millisecond //nolint:gosec // no process is that old
	if d < time.Minute {
		return d.Truncate(time.Second).String()
	}
	return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
}
