package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

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

// TestPrefixEnd: a valid key is in [prefix, prefixEnd) iff it begins with prefix, and the end is valid.
func TestPrefixEnd(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune{'a', 'b', 0x7F, 0x80, 0xD7FF, 0xE000, 0xFFFF, 0x10000, utf8.MaxRune}), 0, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		prefix, key := text.Draw(t, "prefix"), text.Draw(t, "key")
		if prefix == "" {
			return
		}
		end := prefixEnd(prefix)
		if !utf8.ValidString(end) {
			t.Fatalf("the end of %q is %q", prefix, end)
		}
		in := key >= prefix && (end == "" || key < end)
		if in != strings.HasPrefix(key, prefix) {
			t.Fatalf("%q, prefix %q, end %q", key, prefix, end)
		}
	})
}
