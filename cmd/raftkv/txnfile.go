package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// txnBytesMax bounds the file of a transaction: the largest of values, every byte of it escaped, and keys.
const txnBytesMax = 4 * lineBytesMax

// readTxn reads a transaction: lines of text, or JSON.
func readTxn(r io.Reader) (*txnScript, error) {
	b, err := io.ReadAll(io.LimitReader(r, txnBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the transaction: %w", err)
	}
	if len(b) > txnBytesMax {
		return nil, &usageError{fmt.Errorf("the transaction is longer than %d bytes", txnBytesMax)}
	}
	var t *txnScript
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		t, err = parseTxnJSON(b)
	} else {
		t, err = parseTxn(b)
	}
	if err == nil && len(t.compares)+len(t.then)+len(t.otherwise) == 0 {
		err = errTxnEmpty
	}
	if err != nil {
		return nil, &usageError{err}
	}
	return t, nil
}

// parseTxn reads lines.
func parseTxn(b []byte) (*txnScript, error) {
	t := &txnScript{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := t.line(line); err != nil {
			return nil, &lineError{n, err}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, &lineError{n + 1, fmt.Errorf("it is longer than %d bytes", lineBytesMax)}
	}
	return t, nil
}

// line adds one line.
func (t *txnScript) line(line string) error {
	words, err := splitWords(line)
	if err != nil {
		return err
	}
	switch words[0] {
	case "if":
		c, err := parseCompare(words[1:])
		t.compares = append(t.compares, txnCompare{"'" + line + "'", c})
		return err
	case "then", "else":
		o, err := parseTxnOperation(words[0], words[1:])
		if words[0] == "then" {
			t.then = append(t.then, o)
		} else {
			t.otherwise = append(t.otherwise, o)
		}
		return err
	}
	return fmt.Errorf("%q begins no line; lines begin with if, then or else", words[0])
}

func parseCompare(words []string) (raftkv.Compare, error) {
	what, argument := "", ""
	if len(words) > 1 {
		what = words[1]
	}
	if len(words) == 3 {
		argument = words[2]
	}
	switch {
	case len(words) == 2 && what == "absent":
		return raftkv.Absent(words[0]), nil
	case len(words) == 2 && what == "exists":
		return raftkv.Exists(words[0]), nil
	case len(words) == 3 && what == "value":
		return raftkv.ValueIs(words[0], []byte(argument)), nil
	case len(words) == 3 && what == "revision":
		n, err := strconv.ParseUint(argument, 10, 64)
		if err != nil {
			return raftkv.Compare{}, fmt.Errorf("%q is no revision, which is a whole number", argument)
		}
		return raftkv.RevisionIs(words[0], n), nil
	}
	return raftkv.Compare{}, errors.New("write if KEY absent, if KEY exists, if KEY revision N or if KEY value VALUE")
}

func parseTxnOperation(branch string, words []string) (txnOperation, error) {
	switch {
	case len(words) == 3 && words[0] == "put":
		return txnOperation{"put", words[1], raftkv.PutOp(words[1], []byte(words[2]))}, nil
	case len(words) == 2 && words[0] == "delete":
		return txnOperation{"delete", words[1], raftkv.DeleteOp(words[1])}, nil
	case len(words) == 2 && words[0] == "get":
		return txnOperation{"get", words[1], raftkv.GetOp(words[1])}, nil
	}
	return txnOperation{}, fmt.Errorf(`write %[1]s put KEY VALUE, %[1]s delete KEY or %[1]s get KEY, with "quotes" around what holds spaces`, branch)
}

// parseTxnJSON reads the body of POST /v1/txn. What would make it safe to send twice is refused, because the client sends it under an id of its own: to
// drop it would be to apply the transaction twice.
func parseTxnJSON(b []byte) (*txnScript, error) {
	m := &raftkvv1.TxnRequest{}
	if err := protojson.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("it begins like JSON and is not a transaction as POST /v1/txn takes it: %w", err)
	}
	switch {
	case m.GetRequestId() != nil:
		return nil, errors.New("requestId is made by this program; leave it out")
	case m.GetIdempotencyKey() != "":
		return nil, errors.New("idempotencyKey has no effect here: this program makes an id of its own for each run; leave it out, or send the body to POST /v1/txn")
	}
	t := &txnScript{}
	for i, c := range m.GetCompare() {
		compare, err := compareOf(c)
		if err != nil {
			return nil, fmt.Errorf("compare[%d]: %w", i, err)
		}
		t.compares = append(t.compares, txnCompare{fmt.Sprintf("compare[%d], of key %s,", i, cell([]byte(c.GetKey()))), compare})
	}
	var err error
	if t.then, err = operationsOf("then", m.GetThen()); err != nil {
		return nil, err
	}
	t.otherwise, err = operationsOf("else", m.GetElse())
	return t, err
}

func compareOf(m *raftkvv1.Compare) (raftkv.Compare, error) {
	switch c := m.GetCondition().(type) {
	case *raftkvv1.Compare_Exists:
		if c.Exists {
			return raftkv.Exists(m.GetKey()), nil
		}
		return raftkv.Absent(m.GetKey()), nil
	case *raftkvv1.Compare_ModRevision:
		return raftkv.RevisionIs(m.GetKey(), c.ModRevision), nil
	case *raftkvv1.Compare_Value:
		return raftkv.ValueIs(m.GetKey(), c.Value), nil
	}
	return raftkv.Compare{}, errors.New("it needs exists, modRevision or value")
}

func operationsOf(field string, ms []*raftkvv1.TxnOperation) ([]txnOperation, error) {
	var out []txnOperation
	for i, m := range ms {
		var o txnOperation
		switch is := m.GetOperation().(type) {
		case *raftkvv1.TxnOperation_Get_:
			o = txnOperation{"get", is.Get.GetKey(), raftkv.GetOp(is.Get.GetKey())}
		case *raftkvv1.TxnOperation_Put_:
			o = txnOperation{"put", is.Put.GetKey(), raftkv.PutOp(is.Put.GetKey(), is.Put.GetValue(), livesOf(is.Put.GetTtlMs(), is.Put.GetLeaseId())...)}
		case *raftkvv1.TxnOperation_Delete_:
			o = txnOperation{"delete", is.Delete.GetKey(), raftkv.DeleteOp(is.Delete.GetKey())}
		default:
			return nil, fmt.Errorf("%s[%d] needs get, put or delete", field, i)
		}
		if m.GetPut().GetPrevKv() || m.GetDelete().GetPrevKv() {
			o.op = o.op.WithPrevious()
		}
		out = append(out, o)
	}
	return out, nil
}
