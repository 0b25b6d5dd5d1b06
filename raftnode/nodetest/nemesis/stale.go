package main

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// bounds are those of stale reads: less than anything takes, about a round of ReadIndex, and more than an election.
var bounds = []time.Duration{time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, time.Second, 5 * time.Second}

// token is one that an answer has given, and the revision of a shard that it stands for.
type token struct {
	text     string
	revision uint64
}

// drawStale makes some reads stale ones: within a bound, with what an earlier answer has shown, or both; seldom with neither. A transaction is none.
func drawStale(r *rand.Rand, op *nodetest.Operation, ask *call, seen token) {
	if ask.txn != nil || r.IntN(10) >= 3 {
		return
	}
	read := &nodetest.StaleRead{}
	if r.IntN(10) < 7 {
		read.Bound = bounds[r.IntN(len(bounds))]
	}
	if r.IntN(2) == 0 && seen.text != "" {
		read.Revision = seen.revision
	}
	allow(op, ask, read, seen.text)
}

// allow lets a read be a stale one.
func allow(op *nodetest.Operation, ask *call, read *nodetest.StaleRead, text string) {
	op.Stale = read
	if read.Revision == 0 {
		text = ""
	}
	const stale = raftkvv1.Consistency_CONSISTENCY_STALE
	most := uint64(read.Bound.Milliseconds()) //nolint:gosec // not negative
	switch {
	case ask.get != nil:
		ask.get.Consistency, ask.get.MaxStalenessMs, ask.get.Token = stale, most, text
	case ask.list != nil:
		ask.list.Consistency, ask.list.MaxStalenessMs, ask.list.Token = stale, most, text
	case ask.scan != nil:
		ask.scan.Consistency, ask.scan.MaxStalenessMs, ask.scan.Token = stale, most, text
	}
}

// aged is an answer, or the error that a key is missing.
type aged interface {
	GetFreshnessMs() uint64
	GetFreshnessUnknown() bool
}

// takeAge takes over how old an answer says that its state may be.
func takeAge(op *nodetest.Operation, a aged) error {
	if op.Stale == nil {
		if a.GetFreshnessMs() != 0 || a.GetFreshnessUnknown() {
			return fmt.Errorf("%w: an answer that must be the newest says that it is %d ms old (unknown: %t)", errShape, a.GetFreshnessMs(), a.GetFreshnessUnknown())
		}
		return nil
	}
	op.Stale.Age, op.Stale.AgeUnknown = time.Duration(a.GetFreshnessMs())*time.Millisecond, a.GetFreshnessUnknown() //nolint:gosec // some minutes
	return nil
}

// header is that of an answer; nil of none.
func (r *result) header() *raftkvv1.ResponseHeader {
	switch {
	case r == nil:
		return nil
	case r.get != nil:
		return r.get.GetHeader()
	case r.put != nil:
		return r.put.GetHeader()
	case r.delete != nil:
		return r.delete.GetHeader()
	case r.batch != nil:
		return r.batch.GetHeader()
	case r.txn != nil:
		return r.txn.GetHeader()
	case r.list != nil:
		return r.list.GetHeader()
	default:
		return r.page
	}
}

// revisionIn is the revision of a shard that a token stands for, 0 if it says nothing of the shard. Clients need not know; who judges does.
func revisionIn(text string, shard placement.ShardID) (uint64, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return 0, fmt.Errorf("token %q: %w", text, err)
	}
	p := &raftkvv1.Position{}
	if err := proto.Unmarshal(b, p); err != nil {
		return 0, fmt.Errorf("token %q: %w", text, err)
	}
	for _, at := range p.GetShards() {
		if at.GetShard() == uint32(shard) {
			return at.GetRevision(), nil
		}
	}
	return 0, nil
}

// tokenOf is the token of an answer, which must stand for what its header says. Results of Exec have none.
func tokenOf(op *nodetest.Operation, h *raftkvv1.ResponseHeader) (token, error) {
	if h.GetToken() == "" {
		return token{}, nil
	}
	revision, err := revisionIn(h.GetToken(), op.Shard)
	if err == nil && h.GetShard() != 0 && revision != h.GetRevision() {
		err = fmt.Errorf("%w: the token of revision %d of shard %d stands for revision %d", errShape, h.GetRevision(), op.Shard, revision)
	}
	return token{h.GetToken(), revision}, err
}
