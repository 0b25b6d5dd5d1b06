package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

const txnHelp = `Compare keys and do one thing or another, atomically and under one revision, as a file or standard input says. The keys must live
on one shard (with one shard they all do; keys with the same {tag} always do). Each list takes 128 lines at most, each branch a key once.

A line is one of
  if KEY absent | if KEY exists | if KEY revision N | if KEY value VALUE
  then put KEY VALUE | then delete KEY | then get KEY
  else put KEY VALUE | else delete KEY | else get KEY
Words are as for 'raftkv batch'. If all that stands behind 'if' holds, what stands behind 'then' is done, else what stands behind 'else'. What begins
with { is JSON instead, as POST /v1/txn takes it: {"compare":[...],"then":[...],"else":[...]},
without requestId and idempotencyKey: each run is a transaction of its own.

If a compare does not hold, the exit code is 6, whether or not there was something else to do.
The transaction is retried until --timeout, and applied once. If its outcome is not known then, the exit code is 4.`

func newTxn() *cobra.Command {
	var previous bool
	c := &cobra.Command{
		Use:     "txn [FILE]",
		Short:   "Compare keys, then do one thing or another",
		Long:    txnHelp,
		Example: "  printf 'if lock absent\\nthen put lock me\\nelse get lock\\n' | raftkv txn",
		Args:    arguments(cobra.MaximumNArgs(1)),
	}
	c.Flags().BoolVar(&previous, "prev", false, "also print what puts and deletes replace")
	format := newOutput(c)
	c.RunE = withClient(addClientFlags(c), func(cmd *cobra.Command, client *raftkv.Client, args []string) error {
		in, err := openInput(cmd, args)
		if err != nil {
			return err
		}
		defer in.Close() // it was only read
		return runTxn(cmd, client, in, previous, format.value == "json")
	})
	return c
}

func runTxn(cmd *cobra.Command, client *raftkv.Client, in io.Reader, previous, asJSON bool) error {
	t, err := readTxn(in)
	if err != nil {
		return err
	}
	if previous {
		t.withPrevious()
	}
	r, err := client.Txn(cmd.Context(), t.client())
	if err != nil {
		return err
	}
	p := newPrinter(cmd)
	if asJSON {
		err = p.object(t.result(&r, client.TokenAt(r.Shard, r.Revision)))
	} else {
		t.print(p, &r)
	}
	if err == nil && !r.Succeeded {
		err = &codedError{exitCondition, fmt.Errorf("%s does not hold, the key is at revision %d", t.compares[r.Failed].text, r.Current)}
	}
	return p.flush(err)
}

// txnScript is a transaction, and how its user wrote it.
type txnScript struct {
	compares        []txnCompare
	then, otherwise []txnOperation
}

type txnCompare struct {
	text    string
	compare raftkv.Compare
}

// txnOperation is one operation; kind is put, delete or get.
type txnOperation struct {
	kind, key string
	op        raftkv.Op
}

func (t *txnScript) client() raftkv.Txn {
	var out raftkv.Txn
	for _, c := range t.compares {
		out.If = append(out.If, c.compare)
	}
	for _, o := range t.then {
		out.Then = append(out.Then, o.op)
	}
	for _, o := range t.otherwise {
		out.Else = append(out.Else, o.op)
	}
	return out
}

func (t *txnScript) withPrevious() {
	for _, ops := range [2][]txnOperation{t.then, t.otherwise} {
		for i := range ops {
			ops[i].op = ops[i].op.WithPrevious()
		}
	}
}

func (t *txnScript) done(r *raftkv.TxnResult) []txnOperation {
	if r.Succeeded {
		return t.then
	}
	return t.otherwise
}

// print shows what was done, an operation a line.
func (t *txnScript) print(p *printer, r *raftkv.TxnResult) {
	if r.Succeeded {
		fmt.Fprintf(p, "then, at revision %d:\n", r.Revision)
	} else {
		fmt.Fprintf(p, "else, at revision %d:\n", r.Revision)
	}
	for i, o := range t.done(r) {
		one := &r.Results[i]
		fmt.Fprintf(p, "  %s %s: %s\n", o.kind, cell([]byte(o.key)), describeResult(o.kind, one))
		if one.Previous != nil {
			fmt.Fprintf(p, "    before: %s\n", describeItem(one.Previous))
		}
	}
	if r.ValuesOmitted {
		fmt.Fprintln(p, "  values beyond 4 MiB were left out")
	}
}

func describeResult(kind string, r *raftkv.Result) string {
	switch {
	case kind == "put":
		return "version " + strconv.FormatUint(r.Version, 10)
	case kind == "get" && r.Item != nil:
		return describeItem(r.Item)
	case kind == "delete" && r.Deleted:
		return "deleted"
	default:
		return "the key does not exist"
	}
}

func describeItem(i *raftkv.Item) string {
	return fmt.Sprintf("%s, revision %d, version %d", cell(i.Value), i.ModRevision, i.Version)
}

// txnDone is a result in JSON.
type txnDone struct {
	Succeeded     bool        `json:"succeeded"`
	Revision      uint64      `json:"revision"`
	Shard         uint32      `json:"shard"`
	Failed        *txnFailed  `json:"failed,omitempty"`
	Results       []txnOneRun `json:"results"`
	ValuesOmitted bool        `json:"values_omitted,omitempty"`
	// Token is for later reads that must not be behind the transaction.
	Token raftkv.Token `json:"token,omitempty"`
}

type txnFailed struct {
	Index   int    `json:"index"`
	Current uint64 `json:"current"`
}

type txnOneRun struct {
	Op       string `json:"op"`
	Key      string `json:"key"`
	Version  uint64 `json:"version,omitempty"`
	Deleted  *bool  `json:"deleted,omitempty"`
	Item     *item  `json:"item,omitempty"`
	Previous *item  `json:"previous,omitempty"`
}

func (t *txnScript) result(r *raftkv.TxnResult, token raftkv.Token) txnDone {
	out := txnDone{
		Succeeded: r.Succeeded, Revision: r.Revision, Shard: uint32(r.Shard), Results: []txnOneRun{}, ValuesOmitted: r.ValuesOmitted, Token: token,
	}
	if !r.Succeeded {
		out.Failed = &txnFailed{Index: r.Failed, Current: r.Current}
	}
	shown := func(i *raftkv.Item) *item {
		if i == nil {
			return nil
		}
		return new(itemOf(*i, false))
	}
	for i, o := range t.done(r) {
		one := r.Results[i]
		run := txnOneRun{Op: o.kind, Key: o.key, Version: one.Version, Item: shown(one.Item), Previous: shown(one.Previous)}
		if o.kind == "delete" {
			run.Deleted = &one.Deleted
		}
		out.Results = append(out.Results, run)
	}
	return out
}

var errTxnEmpty = errors.New("there is nothing to do: write lines that begin with if, then or else, or see 'raftkv txn --help'")
