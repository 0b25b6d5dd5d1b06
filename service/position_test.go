package service

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// lastStale is what the last read has asked the node for.
func (f *fixture) lastStale() *peerv1.Stale {
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	return f.node.stale
}

func TestTokens(t *testing.T) {
	f := newFixture(t)
	h := f.service.nodeHeader()
	tell(h, placement.ShardRevision{Shard: 1, Revision: 7}, placement.ShardRevision{Shard: 3, Revision: 1 << 60})
	stale, err := f.service.staleRead(raftkvv1.Consistency_CONSISTENCY_STALE, 5, h.GetToken())
	want := &peerv1.Stale{MaxMs: 5, Revisions: map[uint32]uint64{1: 7, 3: 1 << 60}}
	if err != nil || !proto.Equal(stale, want) {
		t.Fatalf("%v, %v", stale, err)
	}
	encode := func(p *raftkvv1.Position) string {
		b, err := p.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for token, problem := range map[string]string{
		"?": "is not a token",
		base64.RawURLEncoding.EncodeToString([]byte("watch this")):          "is not a token",
		encode(&raftkvv1.Position{Version: 1}):                              "is not a token",
		encode(&raftkvv1.Position{Version: 2, ClusterId: make([]byte, 16)}): "another release",
		encode(&raftkvv1.Position{Version: 1, ClusterId: make([]byte, 16)}): "is of cluster 00000000000000000000000000000000",
		encode(&raftkvv1.Position{Version: 1, ClusterId: []byte(fakeID)}):   "is not a token",
		h.GetToken() + "=": "is not a token",
	} {
		_, err := f.service.staleRead(raftkvv1.Consistency_CONSISTENCY_STALE, 0, token)
		var invalid *raftnode.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "token" || !strings.Contains(invalid.Problem, problem) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

// The token of a write is what a later read must show, on every way in.
func TestStaleReadsOverREST(t *testing.T) {
	f := newFixture(t)
	res, _ := f.tcp(t, http.MethodPut, "/v1/kv/a", "", []byte("1"))
	token := res.Header.Get("Raftkv-Token")
	if token == "" {
		t.Fatal("a write gives no token")
	}
	for _, c := range []struct {
		target string
		status int
		want   *peerv1.Stale
	}{
		{"/v1/kv/a", 200, nil},
		{"/v1/kv/a?consistency=linearizable", 200, nil},
		{"/v1/kv/a?consistency=stale", 200, &peerv1.Stale{}},
		{"/v1/kv/a?consistency=CONSISTENCY_STALE&max_staleness_ms=250", 200, &peerv1.Stale{MaxMs: 250}},
		{"/v1/kv/a?consistency=2&maxStalenessMs=250&token=" + token, 200, &peerv1.Stale{MaxMs: 250, Revisions: map[uint32]uint64{fakeShard: 1}}},
		{"/v1/kv?consistency=stale&token=" + token, 200, &peerv1.Stale{Revisions: map[uint32]uint64{fakeShard: 1}}},
		{"/v1/kv?consistency=Stale", 200, &peerv1.Stale{}},
		{"/v1/kv/a?consistency=new", 400, nil},
		{"/v1/kv/a?consistency=7", 400, nil},
		{"/v1/kv/a?max_staleness_ms=1", 400, nil},
		{"/v1/kv?token=" + token, 400, nil},
		{"/v1/kv/a?consistency=stale&max_staleness_ms=86400001", 400, nil},
		{"/v1/kv/a?consistency=stale&revision=1", 400, nil},
		{"/v1/kv/a?consistency=stale&token=x", 400, nil},
	} {
		res, b := f.tcp(t, http.MethodGet, c.target, "", nil)
		if res.StatusCode != c.status {
			t.Errorf("%s: %d %s", c.target, res.StatusCode, b)
			continue
		}
		if got := f.lastStale(); c.status == 200 && !proto.Equal(got, c.want) {
			t.Errorf("%s asks the node for %v", c.target, got)
		}
		if c.status == 200 && strings.Contains(c.target, "/a") && res.Header.Get("Raftkv-Token") != token {
			t.Errorf("%s: token %q", c.target, res.Header.Get("Raftkv-Token"))
		}
	}
}

func TestStaleReads(t *testing.T) {
	f := newFixture(t)
	api := kv{f.service}
	put, err := api.Put(t.Context(), &raftkvv1.PutRequest{Key: "a", Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	token := put.GetHeader().GetToken()
	want := &peerv1.Stale{MaxMs: 9, Revisions: map[uint32]uint64{fakeShard: 1}}
	const stale = raftkvv1.Consistency_CONSISTENCY_STALE
	if _, err := api.Get(t.Context(), &raftkvv1.GetRequest{Key: "a", Consistency: stale, MaxStalenessMs: 9, Token: token}); err != nil || !proto.Equal(f.lastStale(), want) {
		t.Errorf("Get: %v, %v", f.lastStale(), err)
	}
	list, err := api.List(t.Context(), &raftkvv1.ListRequest{Consistency: stale, MaxStalenessMs: 9, Token: token})
	if err != nil || !proto.Equal(f.lastStale(), want) {
		t.Fatalf("List: %v, %v", f.lastStale(), err)
	}
	if at, err := f.service.position(list.GetHeader().GetToken()); err != nil || len(at) != 1 || at[0].Revision != 1 {
		t.Errorf("the token of a list is of %v, %v", at, err)
	}
	txn, err := api.Txn(t.Context(), &raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{{Operation: &raftkvv1.TxnOperation_Get_{Get: &raftkvv1.TxnOperation_Get{Key: "a"}}}}})
	if err != nil || txn.GetHeader().GetToken() == "" {
		t.Errorf("Txn: %v, %v", txn, err)
	}
	batch, err := api.Batch(t.Context(), &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{{Operation: &raftkvv1.BatchOperation_Delete_{Delete: &raftkvv1.BatchOperation_Delete{Key: "a"}}}}})
	if err != nil || batch.GetHeader().GetToken() == "" {
		t.Errorf("Batch: %v, %v", batch, err)
	}
}
