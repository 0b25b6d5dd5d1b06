package service

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// list reads one page.
func (s *Service) list(ctx context.Context, req *raftkvv1.ListRequest) (*raftkvv1.ListResponse, error) {
	r := s.rangeRead(req.GetPrefix(), req.GetStart(), req.GetEnd())
	r.Reverse, r.KeysOnly, r.Revision = req.GetReverse(), req.GetKeysOnly(), req.GetRevision()
	r.MaxItems = req.GetLimit()
	if r.MaxItems == 0 {
		r.MaxItems = pageItemsDefault
	}
	r.MaxItems = min(r.MaxItems, uint32(s.limits.PageItems))
	var token pageToken
	if req.GetPageToken() != "" {
		var err error
		if token, err = decodeToken(req.GetPageToken()); err == nil && req.GetRevision() == 0 {
			err = token.check(req, 0)
		}
		if err != nil {
			return nil, err
		}
		advance(r, token.last)
	}
	stale, err := s.staleRead(req.GetConsistency(), req.GetMaxStalenessMs(), req.GetToken())
	if err != nil {
		return nil, err
	}
	page, err := s.node.Page(ctx, r, stale)
	if err != nil {
		return nil, err
	}
	if req.GetPageToken() != "" && req.GetRevision() != 0 {
		if err := token.check(req, page.Shard); err != nil {
			return nil, err
		}
	}
	res := &raftkvv1.ListResponse{Kvs: keyValues(page)}
	res.Header, res.Parts = s.pageHeaders(page)
	if page.More && page.Behind != "" {
		res.NextPageToken = encodeToken(req, page.Shard, page.Behind)
	}
	return res, nil
}

// Scan streams a range page by page. It holds one page at a time, however slowly the client reads.
func (s kv) Scan(ctx context.Context, req *raftkvv1.ScanRequest, send func(*raftkvv1.ScanResponse) error) error {
	start := time.Now()
	span := s.tracing.begin(opScan.String(), s.tracing.traceparentOf(ctx), start)
	var spent stages
	err := s.rules.check(req)
	spent[stageCheck] = time.Since(start)
	if err == nil {
		err = s.tryScan(ctx, req, func(res *raftkvv1.ScanResponse) error {
			defer func(began time.Time) { spent[stageSend] += time.Since(began) }(time.Now())
			return send(res)
		})
	}
	code, took := codeOK, time.Since(start)
	spent[stageNode] = took - spent[stageCheck] - spent[stageSend]
	var f *failure
	if err != nil {
		f = s.fail(ctx, opScan, err, false)
		code, err = f.code, f
	}
	span.end(f)
	s.finished(ctx, opScan, code, took, &spent, req.GetRange().GetPrefix())
	return err
}

// tryScan is scan without its panics.
func (s *Service) tryScan(ctx context.Context, req *raftkvv1.ScanRequest, send func(*raftkvv1.ScanResponse) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(ctx, opScan.String(), p)
		}
	}()
	return s.scan(ctx, req, send)
}

func (s *Service) scan(ctx context.Context, req *raftkvv1.ScanRequest, send func(*raftkvv1.ScanResponse) error) error {
	r := s.rangeRead(req.GetRange().GetPrefix(), req.GetRange().GetStart(), req.GetRange().GetEnd())
	r.Reverse, r.KeysOnly, r.Revision = req.GetReverse(), req.GetKeysOnly(), req.GetRevision()
	stale, err := s.staleRead(req.GetConsistency(), req.GetMaxStalenessMs(), req.GetToken())
	if err != nil {
		return err
	}
	pageItems := s.limits.PageItems
	if n := uint64(req.GetPageSize()); n != 0 {
		pageItems = min(pageItems, n)
	}
	var shard placement.ShardID // of the pages before
	for left := req.GetLimit(); ; {
		r.MaxItems = uint32(pageItems)
		if req.GetLimit() != 0 {
			r.MaxItems = uint32(min(pageItems, left))
		}
		page, err := s.page(ctx, r, stale)
		if err != nil {
			return err
		}
		if req.GetRevision() != 0 && shard != 0 && page.Shard != shard {
			return &raftnode.CrossShardError{Revision: req.GetRevision(), Groups: []raftnode.ShardKeys{{Shard: shard}, {Shard: page.Shard}}}
		}
		shard = page.Shard
		res := &raftkvv1.ScanResponse{Kvs: keyValues(page)}
		res.Header, res.Parts = s.pageHeaders(page)
		if err := s.sendPage(res, send); err != nil {
			return err
		}
		left -= min(left, uint64(len(page.Records)))
		if !page.More || page.Behind == "" || (req.GetLimit() != 0 && left == 0) {
			return nil
		}
		if s.stopping() {
			return raftnode.ErrStopped
		}
		advance(r, page.Behind)
	}
}

// sendPage sends a page, which is in the budget until the client has taken it.
func (s *Service) sendPage(res *raftkvv1.ScanResponse, send func(*raftkvv1.ScanResponse) error) error {
	return s.sendCounted(messageBytes(res), func() error { return send(res) })
}

// page reads one page of a stream. The default timeout holds for each page, the client's own for the stream.
func (s *Service) page(ctx context.Context, r *peerv1.RangeRead, stale *peerv1.Stale) (*raftnode.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Timeout)
	defer cancel()
	return s.node.Page(ctx, r, stale)
}

// rangeRead is the read of the first page of a range.
func (s *Service) rangeRead(prefix, start, end string) *peerv1.RangeRead {
	if prefix != "" {
		start, end = prefix, raftnode.PrefixEnd(prefix)
	}
	return &peerv1.RangeRead{Start: start, End: end, MaxBytes: s.limits.PageBytes}
}

// advance makes r begin behind the key last.
func advance(r *peerv1.RangeRead, last string) {
	if r.GetReverse() {
		r.End = last
		return
	}
	r.Start = raftnode.NextKey(last)
}

func keyValues(p *raftnode.Page) []*raftkvv1.KeyValue {
	kvs := make([]*raftkvv1.KeyValue, 0, len(p.Records))
	for _, k := range p.Records {
		r := liveRecord(k)
		if r == nil {
			continue
		}
		kv := new(raftkvv1.KeyValue)
		fillKeyValue(kv, k, r)
		kvs = append(kvs, kv)
	}
	return kvs
}

// A page token is base64url(version, hash of what the pages have in common, last key).
const (
	tokenVersion = 1
	tokenHeader  = 1 + 8
)

type pageToken struct {
	hash uint64
	last string
}

func encodeToken(req *raftkvv1.ListRequest, shard placement.ShardID, last string) string {
	b := append([]byte{tokenVersion}, binary.BigEndian.AppendUint64(nil, tokenHash(req, shard))...)
	return base64.RawURLEncoding.EncodeToString(append(b, last...))
}

func decodeToken(token string) (pageToken, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	switch {
	case err != nil || len(b) <= tokenHeader || !utf8.Valid(b[tokenHeader:]):
		return pageToken{}, badToken("is not a token that this server made")
	case b[0] != tokenVersion:
		return pageToken{}, badToken("is a token of another release; start anew without it")
	}
	return pageToken{hash: binary.BigEndian.Uint64(b[1:]), last: string(b[tokenHeader:])}, nil
}

// check refuses a token of pages that are not those of req. shard is the one that has the keys of a range at a revision.
func (t pageToken) check(req *raftkvv1.ListRequest, shard placement.ShardID) error {
	switch {
	case t.hash == tokenHash(req, shard):
		return nil
	case req.GetRevision() != 0:
		return badToken("belongs to a List with other fields, or the keys have moved to another shard since, which counts its own revisions; " +
			"repeat the fields of the page before, or start anew without it")
	}
	return badToken("belongs to a List with other fields; repeat those of the page before")
}

func badToken(problem string) error {
	return &raftnode.InvalidError{Field: "page_token", Problem: problem}
}

// tokenHash covers what must be the same on every page: of a range at a revision the shard, too, because each counts its own. Without a revision
// it is that of the releases which had none.
func tokenHash(req *raftkvv1.ListRequest, shard placement.ShardID) uint64 {
	common := fmt.Sprintf("%q %q %q %t %t", req.GetPrefix(), req.GetStart(), req.GetEnd(), req.GetReverse(), req.GetKeysOnly())
	if req.GetRevision() != 0 {
		common += fmt.Sprintf(" %d %d", req.GetRevision(), shard)
	}
	return xxhash.Sum64String(common)
}
