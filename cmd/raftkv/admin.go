package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	raftkv "github.com/raftkv/raftkv/sdk/go"
)

func newNodes() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Show the nodes"}
	group(c)
	c.AddCommand(newNodeList())
	return c
}

func newNodeList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the nodes as one of them knows them",
		Args:  arguments(cobra.NoArgs),
	}
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, _ []string) error {
		nodes, err := client.Cluster().Nodes(cmd.Context())
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(messages(nodes)))
		}
		t := newTable(p, "NODE", "CLIENTS", "PEERS", "REACHABLE", "SHARDS", "LEADS")
		for _, n := range nodes {
			reachable := "yes"
			if !n.GetReachable() {
				reachable = "no"
			}
			t.row(n.GetId(), n.GetClientAddress(), n.GetPeerAddress(), reachable, numbers(n.GetShards()), numbers(n.GetLeads()))
		}
		return p.flush(t.end())
	})
	return c
}

func newShards() *cobra.Command {
	c := &cobra.Command{Use: "shard", Short: "Show and steer the shards"}
	group(c)
	c.AddCommand(newShardList(), newShardLocate(), newShardTransferLeader())
	return c
}

func newShardList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the shards as one of the nodes knows them",
		Long: `List the shards as one of the nodes knows them. Shard 0 is the meta shard, which serves no keys. Fields that only a node
with a replica of the shard knows are empty if the asked one has none.`,
		Args: arguments(cobra.NoArgs),
	}
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, _ []string) error {
		shards, err := client.Cluster().Shards(cmd.Context())
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(messages(shards)))
		}
		t := newTable(p, "SHARD", "SLOTS", "LEADER", "REPLICAS", "TERM", "COMMIT", "APPLIED", "DURABLE", "LOG", "REVISION")
		for _, s := range shards {
			t.row(shardRow(s)...)
		}
		return p.flush(t.end())
	})
	return c
}

func shardRow(s *raftkvv1.Shard) []string {
	slots := uint32(0)
	for _, r := range s.GetSlots() {
		slots += r.GetLast() - r.GetFirst() + 1
	}
	var replicas []string
	for _, r := range s.GetReplicas() {
		replicas = append(replicas, r.GetNodeId())
	}
	row := []string{fmt.Sprint(s.GetId()), fmt.Sprint(slots), s.GetLeaderNodeId(), strings.Join(replicas, ",")}
	if s.GetLeaderNodeId() == "" {
		row[2] = "none"
	}
	if s.GetTerm() == 0 {
		return append(row, "", "", "", "", "", "")
	}
	for _, n := range []uint64{s.GetTerm(), s.GetCommitIndex(), s.GetAppliedIndex(), s.GetDurableIndex()} {
		row = append(row, strconv.FormatUint(n, 10))
	}
	return append(row, fmt.Sprintf("%d-%d", s.GetFirstLogIndex(), s.GetLastLogIndex()), strconv.FormatUint(s.GetRevision(), 10))
}

func newShardLocate() *cobra.Command {
	c := &cobra.Command{
		Use:   "locate KEY",
		Short: "Show where a key lives, whether or not it exists",
		Args:  arguments(cobra.ExactArgs(1)),
	}
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		at, err := client.Cluster().Locate(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(protoJSON{at}))
		}
		t := newTable(p, "HASHED", "SLOT", "SHARD", "LEADER")
		t.row(cell([]byte(at.GetRoutingPart())), fmt.Sprint(at.GetSlot()), fmt.Sprint(at.GetShard()), at.GetLeaderNodeId())
		return p.flush(t.end())
	})
	return c
}

func newShardTransferLeader() *cobra.Command {
	c := &cobra.Command{
		Use:   "transfer-leader SHARD NODE",
		Short: "Hand the lead of a shard to another node, and wait until that leads",
		Args:  arguments(cobra.ExactArgs(2)),
	}
	format := newOutput(c)
	transfer := withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		shard, err := parseShard(args[0])
		if err != nil {
			return err
		}
		r, err := client.Cluster().TransferLeader(cmd.Context(), shard, placement.NodeID(args[1]))
		if err != nil {
			return err
		}
		p := newPrinter(cmd)
		if format.value == "json" {
			return p.flush(p.object(protoJSON{r}))
		}
		fmt.Fprintf(p, "%s leads shard %d in term %d\n", r.GetLeaderNodeId(), shard, r.GetTerm())
		return p.flush(nil)
	})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := parseShard(args[0]); err != nil {
			return err // before looking for the cluster
		}
		return transfer(cmd, args)
	}
	return c
}

func parseShard(text string) (placement.ShardID, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, &usageError{errors.New(strconv.Quote(text) + " is not the number of a shard; 'raftkv shard list' shows them")}
	}
	return placement.ShardID(n), nil
}

// numbers shows a list; a dash is an empty one.
func numbers(list []uint32) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(list), "[]"), " ", ",")
}
