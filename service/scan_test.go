package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode"
)

// scanner collects the pages of a Scan.
type scanner func(context.Context, *raftkvv1.ScanRequest) ([]*raftkvv1.ScanResponse, error)

func (f *fixture) scanners(t testing.TB) map[string]scanner {
	conn := f.dial(t)
	over := func(client connect.HTTPClient, options ...connect.ClientOption) scanner {
		return func(ctx context.Context, req *raftkvv1.ScanRequest) (pages []*raftkvv1.ScanResponse, err error) {
			stream, err := raftkvv1connect.NewKvServiceClient(client, f.url, options...).Scan(ctx, req)
			if err != nil {
				return nil, err
			}
			defer stream.Close()
			for stream.Receive() {
				pages = append(pages, stream.Msg())
			}
			return pages, stream.Err()
		}
	}
	return map[string]scanner{
		"connect": over(f.http), "connect json": over(f.http, connect.WithProtoJSON()), "connect h2": over(f.h2c),
		"grpc-web": over(f.http, connect.WithGRPCWeb()), "grpc on http": over(f.h2c, connect.WithGRPC()),
		"grpc": func(ctx context.Context, req *raftkvv1.ScanRequest) (pages []*raftkvv1.ScanResponse, err error) {
			stream, err := raftkvv1.NewKvServiceClient(conn).Scan(ctx, req)
			for err == nil {
				var page *raftkvv1.ScanResponse
				if page, err = stream.Recv(); err == nil {
					pages = append(pages, page)
				}
			}
			if errors.Is(err, io.EOF) {
				return pages, nil
			}
			return pages, err
		},
	}
}

func TestScan(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.PageBytes, o.Limits.PageItems = 1000, 7 })
	var all []string
	for i := range 30 {
		key := fmt.Sprintf("p/%02d", i)
		f.node.records[key] = recordOf(strings.Repeat("v", i*10))
		all = append(all, key)
	}
	f.node.records["q"] = recordOf("other")
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	cases := []struct {
		name string
		req  *raftkvv1.ScanRequest
		want []string
	}{
		{"prefix", &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: "p/"}}, all},
		{"reverse", &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: "p/"}, Reverse: true}, reversed},
		{"limit", &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: "p/"}, Limit: 9}, all[:9]},
		{"limit of a page", &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: "p/"}, Limit: 7}, all[:7]},
		{"bounds", &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Start: "p/03", End: "p/05"}, PageSize: 1}, all[3:5]},
		{"all", &raftkvv1.ScanRequest{KeysOnly: true}, append(slices.Clone(all), "q")},
		{"nothing", &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: "x"}}, nil},
	}
	for name, scan := range f.scanners(t) {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				pages, err := scan(t.Context(), c.req)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, p := range pages {
					if p.GetHeader().GetClusterId() != fakeCluster || len(p.GetKvs()) > 7 {
						t.Errorf("page of %d, header %v", len(p.GetKvs()), p.GetHeader())
					}
					for _, kv := range p.GetKvs() {
						got = append(got, kv.GetKey())
						if c.req.GetKeysOnly() && len(kv.GetValue()) > 0 {
							t.Error("a value came")
						}
					}
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("%v, want %v", got, c.want)
				}
			})
		}
		t.Run(name+"/refused", func(t *testing.T) {
			_, err := scan(t.Context(), &raftkvv1.ScanRequest{PageSize: 10_001})
			checkStatus(t, wireStatus(t, err), codes.InvalidArgument, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "page_size", Limit: 10_000, Actual: 10_001}, 0)
			_, err = scan(t.Context(), &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: "a", End: "b"}})
			checkStatus(t, wireStatus(t, err), codes.InvalidArgument, "INVALID", badRequest("range", "prefix cannot be combined with start or end"), 0)
		})
	}
	f.node.fail = func(*raftnode.Request) error { return &raftnode.NotLeaderError{Shard: 1} }
	for name, scan := range f.scanners(t) {
		t.Run(name+"/failed", func(t *testing.T) {
			_, err := scan(t.Context(), &raftkvv1.ScanRequest{})
			checkStatus(t, wireStatus(t, err), codes.Unavailable, "NOT_LEADER", &raftkvv1.NotLeader{Shard: 1}, 1e8)
		})
	}
}

// TestListPages walks all pages, and checks that a token belongs to its List.
func TestListPages(t *testing.T) {
	f := newFixture(t)
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("%02d", i)
		f.node.records[key] = recordOf("v")
		want = append(want, key)
	}
	for _, reverse := range []bool{false, true} {
		for name, call := range f.protocols(t) {
			t.Run(fmt.Sprint(name, reverse), func(t *testing.T) {
				var got []string
				req := &raftkvv1.ListRequest{Limit: 10, Reverse: reverse}
				for {
					res := new(raftkvv1.ListResponse)
					if failed := call(t, kvPath+"List", req, res); failed != nil {
						t.Fatal(failed)
					}
					for _, kv := range res.GetKvs() {
						got = append(got, kv.GetKey())
					}
					if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
						break
					}
					other := &raftkvv1.ListRequest{Limit: 10, Reverse: !reverse, PageToken: req.GetPageToken()}
					checkStatus(t, call(t, kvPath+"List", other, res), codes.InvalidArgument, "INVALID",
						badRequest("page_token", "belongs to a List with other fields; repeat those of the page before"), 0)
				}
				if reverse {
					slices.Reverse(got)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%v", got)
				}
			})
		}
	}
}

// A range at a revision is what it was, on all pages and on every way in.
func TestScanAtRevision(t *testing.T) {
	f := newFixture(t)
	for i := range 12 {
		f.mustPut(t, fmt.Sprintf("%02d", i), "old")
	}
	for i := range 20 {
		f.mustPut(t, fmt.Sprintf("%02d", i), "new")
	}
	check := func(t *testing.T, got []*raftkvv1.KeyValue, headers ...*raftkvv1.ResponseHeader) {
		t.Helper()
		if len(got) != 12 || got[0].GetKey() != "00" || string(got[11].GetValue()) != "old" || len(headers) < 3 {
			t.Errorf("%d pages: %v", len(headers), got)
		}
		for _, h := range headers {
			if h.GetRevision() != 12 || h.GetShard() != fakeShard {
				t.Errorf("header %v", h)
			}
		}
	}
	for name, call := range f.protocols(t) {
		t.Run("list/"+name, func(t *testing.T) {
			var kvs []*raftkvv1.KeyValue
			var headers []*raftkvv1.ResponseHeader
			req := &raftkvv1.ListRequest{Limit: 5, Revision: 12}
			for more := true; more; more = req.GetPageToken() != "" {
				res := new(raftkvv1.ListResponse)
				if failed := call(t, kvPath+"List", req, res); failed != nil {
					t.Fatal(failed)
				}
				kvs, headers = append(kvs, res.GetKvs()...), append(headers, res.GetHeader())
				if req.PageToken = res.GetNextPageToken(); req.GetPageToken() != "" {
					checkStatus(t, call(t, kvPath+"List", &raftkvv1.ListRequest{Limit: 5, PageToken: req.GetPageToken()}, res), codes.InvalidArgument, "INVALID",
						badRequest("page_token", "belongs to a List with other fields; repeat those of the page before"), 0)
				}
			}
			check(t, kvs, headers...)
			checkStatus(t, call(t, kvPath+"List", &raftkvv1.ListRequest{Revision: 33}, new(raftkvv1.ListResponse)), codes.OutOfRange, "FUTURE_REVISION",
				&raftkvv1.FutureRevision{Revision: 33, Current: 32, Shard: fakeShard}, 0)
		})
	}
	for name, scan := range f.scanners(t) {
		t.Run("scan/"+name, func(t *testing.T) {
			pages, err := scan(t.Context(), &raftkvv1.ScanRequest{PageSize: 5, Revision: 12})
			if err != nil {
				t.Fatal(err)
			}
			var kvs []*raftkvv1.KeyValue
			var headers []*raftkvv1.ResponseHeader
			for _, p := range pages {
				kvs, headers = append(kvs, p.GetKvs()...), append(headers, p.GetHeader())
			}
			check(t, kvs, headers...)
			_, err = scan(t.Context(), &raftkvv1.ScanRequest{Revision: 12, Consistency: raftkvv1.Consistency_CONSISTENCY_STALE})
			checkStatus(t, wireStatus(t, err), codes.InvalidArgument, "INVALID",
				badRequest("request", "revision cannot be combined with consistency STALE: any replica that has the revision shows it without asking others"), 0)
		})
	}
	for target, want := range map[string]int{"/v1/kv?prefix=0&revision=12": 200, "/v1/kv?revision=33": 400, "/v1/kv?revision=12&consistency=stale": 400} {
		res, b := f.tcp(t, http.MethodGet, target, "", nil)
		if res.StatusCode != want || want == 200 && strings.Count(string(b), `"modRevision"`) != 10 {
			t.Errorf("%s: %d %s", target, res.StatusCode, b)
		}
	}
}

// A page that looks at many keys and shows none is not the last.
func TestScanGoesOnBehindAnEmptyPage(t *testing.T) {
	f := newFixture(t)
	f.mustPut(t, "z", "1")
	f.node.empty = "m"
	var pages []*raftkvv1.ScanResponse
	err := (kv{f.service}).Scan(t.Context(), &raftkvv1.ScanRequest{Revision: 1}, func(r *raftkvv1.ScanResponse) error {
		pages = append(pages, r)
		return nil
	})
	if err != nil || len(pages) != 2 || len(pages[0].GetKvs()) != 0 || len(pages[1].GetKvs()) != 1 {
		t.Errorf("%v, %v", pages, err)
	}
	f.node.empty = "m"
	first, err := (kv{f.service}).List(t.Context(), &raftkvv1.ListRequest{Revision: 1})
	if err != nil || len(first.GetKvs()) != 0 || first.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", first, err)
	}
	second, err := (kv{f.service}).List(t.Context(), &raftkvv1.ListRequest{Revision: 1, PageToken: first.GetNextPageToken()})
	if err != nil || len(second.GetKvs()) != 1 || second.GetNextPageToken() != "" {
		t.Errorf("%v, %v", second, err)
	}
}

// The pages of a range at a revision are of one shard: another one that has the keys by now counts its own revisions.
func TestPagesAtARevisionKeepToTheirShard(t *testing.T) {
	f := newFixture(t)
	for _, key := range []string{"a", "b", "c"} {
		f.mustPut(t, key, "1")
	}
	api := kv{f.service}
	for _, revision := range []uint64{0, 3} {
		f.node.moved = 0
		first, err := api.List(t.Context(), &raftkvv1.ListRequest{Revision: revision, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		next := &raftkvv1.ListRequest{Revision: revision, Limit: 1, PageToken: first.GetNextPageToken()}
		if _, err := api.List(t.Context(), next); err != nil {
			t.Error(err)
		}
		f.node.moved = 1
		if _, err := api.List(t.Context(), next); (err == nil) != (revision == 0) || err != nil && !strings.Contains(err.Error(), "page_token") {
			t.Errorf("revision %d: %v", revision, err)
		}
		f.node.moved = 0
		pages := 0
		err = api.Scan(t.Context(), &raftkvv1.ScanRequest{Revision: revision, PageSize: 1}, func(*raftkvv1.ScanResponse) error {
			pages++
			f.node.moved = 1
			return nil
		})
		if revision == 0 && (err != nil || pages != 3) || revision != 0 && (pages != 1 || failureOf(err).reason != "CROSS_SHARD") {
			t.Errorf("revision %d: %d pages, %v", revision, pages, err)
		}
	}
}

// A page of several shards says of each part what it shows.
func TestPartsOfPages(t *testing.T) {
	f := newFixture(t)
	f.mustPut(t, "a", "1")
	api := kv{f.service}
	one, err := api.List(t.Context(), &raftkvv1.ListRequest{})
	if err != nil || one.GetHeader().GetShard() != fakeShard || len(one.GetParts()) != 0 {
		t.Errorf("of one shard: %v, %v", one, err)
	}
	f.node.second = true
	want := []*raftkvv1.ResponseHeader{
		{NodeId: fakeID, Shard: fakeShard, Term: 3, RaftIndex: 1, Revision: 1, Role: raftkvv1.Role_ROLE_LEADER},
		{NodeId: "n2", Shard: fakeShard + 1, Term: 4, RaftIndex: 9, Revision: 77, Role: raftkvv1.Role_ROLE_LEARNER, FreshnessMs: 55},
	}
	check := func(what string, h *raftkvv1.ResponseHeader, parts []*raftkvv1.ResponseHeader) {
		at, err := f.service.position(h.GetToken())
		if err != nil || h.GetShard() != 0 || h.GetFreshnessMs() != 55 || h.GetClusterId() != fakeCluster || len(at) != 2 || at[1].Revision != 77 {
			t.Errorf("%s: header %v, token of %v, %v", what, h, at, err)
		}
		if diff := cmp.Diff(want, parts, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	list, err := api.List(t.Context(), &raftkvv1.ListRequest{Consistency: raftkvv1.Consistency_CONSISTENCY_STALE})
	if err != nil {
		t.Fatal(err)
	}
	check("List", list.GetHeader(), list.GetParts())
	err = api.Scan(t.Context(), &raftkvv1.ScanRequest{}, func(r *raftkvv1.ScanResponse) error {
		check("Scan", r.GetHeader(), r.GetParts())
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
