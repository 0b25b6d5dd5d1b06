package service

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

func TestRawValuesThatExpire(t *testing.T) {
	f := newFixture(t)
	f.node.leases[7] = 1000
	for _, c := range []struct {
		query string
		code  int
		says  string
	}{
		{"?ttl=30s", 200, ""},
		{"?ttl=1h30m", 200, ""},
		{"?lease=7", 200, ""},
		{"?ttl=30s&condition.exists=true", 200, ""},
		{"", 200, ""},
		{"?ttl=30", 400, "ttl"},
		{"?ttl=0s", 400, "at least 1ms"},
		{"?ttl=-1s", 400, "at least 1ms"},
		{"?ttl=1500us", 400, "whole milliseconds"},
		{"?ttl=100000h", 400, "ttl_ms is 360000000000, the limit is 315360000000"},
		{"?ttl=1s&ttl=1s", 400, "more than once"},
		{"?ttl=1s&lease=7", 400, "cannot be combined"},
		{"?lease=0", 400, "lease"},
		{"?lease=x", 400, "lease"},
		{"?lease=8", 404, "LEASE_NOT_FOUND"},
		{"?ttl_ms=5", 400, "ttl_ms"},
	} {
		code, b := f.rest(t, http.MethodPut, "/v1/kv/k"+c.query, []byte("v"))
		if code != c.code || !strings.Contains(string(b), c.says) {
			t.Errorf("PUT %s: %d %s", c.query, code, b)
		}
	}
	headers := func(query, name, want string) {
		t.Helper()
		f.rest(t, http.MethodPut, "/v1/kv/k"+query, []byte("v"))
		if res, _ := f.restResponse(t, http.MethodGet, "/v1/kv/k", nil); res.Header.Get(name) != want {
			t.Errorf("PUT %s: %s is %q, want %q", query, name, res.Header.Get(name), want)
		}
	}
	headers("?ttl=30s", "Raftkv-Ttl-Remaining-Ms", "30000")
	headers("?lease=7", "Raftkv-Lease", "7")
	headers("?lease=7", "Raftkv-Ttl-Remaining-Ms", "")
	headers("", "Raftkv-Lease", "")
}

func TestLeasesByREST(t *testing.T) {
	f := newFixture(t)
	get := func(method, path, body string, into proto.Message) {
		t.Helper()
		code, b := f.rest(t, method, path, []byte(body))
		if code != 200 {
			t.Fatalf("%s %s: %d %s", method, path, code, b)
		}
		if err := protojson.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	var granted raftkvv1.GrantResponse
	get("POST", "/v1/leases", `{"ttlMs":"3000"}`, &granted)
	id := granted.GetLease().GetId()
	if id == 0 || id > leaseIDMax || granted.GetLease().GetTtlMs() != 3000 {
		t.Fatalf("granted %v", &granted)
	}
	path := fmt.Sprintf("/v1/leases/%d", id)
	get("POST", path+":keepAlive", "", new(raftkvv1.KeepAliveResponse))
	f.rest(t, "PUT", fmt.Sprintf("/v1/kv/k?lease=%d", id), []byte("v"))
	var shown raftkvv1.GetLeaseResponse
	get("GET", path+"?keys=true", "", &shown)
	if len(shown.GetKeys()) != 1 || shown.GetLease().GetRemainingMs() != 3000 {
		t.Errorf("shown %v", &shown)
	}
	for range 4 {
		get("POST", "/v1/leases", `{"ttlMs":"3000"}`, new(raftkvv1.GrantResponse))
	}
	seen, token := 0, ""
	for {
		var page raftkvv1.ListLeasesResponse
		get("GET", "/v1/leases?limit=2&page_token="+token, "", &page)
		seen += len(page.GetLeases())
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if seen != 5 {
		t.Errorf("%d leases listed", seen)
	}
	get("DELETE", path, "", new(raftkvv1.RevokeResponse))
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
	}{
		{"DELETE", path, "", 404, "LEASE_NOT_FOUND"},
		{"GET", path, "", 404, "LEASE_NOT_FOUND"},
		{"POST", path + ":keepAlive", "", 404, "LEASE_NOT_FOUND"},
		{"POST", path + ":keepAlive", "{}", 400, "takes none"},
		{"DELETE", path, "{}", 400, "takes none"},
		{"GET", path + "?id=5", "", 400, `no parameter`},
		{"GET", "/v1/leases/x", "", 400, ""},
		{"GET", "/v1/leases/0", "", 400, "id"},
		{"GET", "/v1/leases?page_token=zz", "", 400, "page_token"},
		{"POST", "/v1/leases", "{}", 400, "ttl_ms"},
		{"POST", "/v1/leases", `{"ttlMs":"315360000001"}`, 400, "the limit is 315360000000"},
		{"PUT", path, "", 405, ""},
		{"GET", "/v1/leases/1/2", "", 404, ""},
	} {
		if code, b := f.rest(t, c.method, c.path, []byte(c.body)); code != c.code || !strings.Contains(string(b), c.says) {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, b)
		}
	}
}

func TestLeaseBounds(t *testing.T) {
	f := newFixture(t)
	for name, call := range f.protocols(t) {
		got := call(t, leasePath+"Grant", &raftkvv1.GrantRequest{}, new(raftkvv1.GrantResponse))
		if got == nil || codes.Code(got.GetCode()) != codes.InvalidArgument {
			t.Errorf("%s: a lease that lives for nothing: %v", name, got)
		}
		got = call(t, leasePath+"KeepAlive", &raftkvv1.KeepAliveRequest{Id: leaseIDMax + 1}, new(raftkvv1.KeepAliveResponse))
		checkStatus(t, got, codes.InvalidArgument, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "id", Limit: leaseIDMax, Actual: leaseIDMax + 1}, 0)
		got = call(t, leasePath+"KeepAlive", &raftkvv1.KeepAliveRequest{Id: 5}, new(raftkvv1.KeepAliveResponse))
		checkStatus(t, got, codes.FailedPrecondition, "LEASE_NOT_FOUND", &raftkvv1.LeaseNotFound{LeaseId: 5}, 0)
	}
}

// Attempts of one request ask for one lease; requests without an id for another each.
func TestLeaseIDs(t *testing.T) {
	if a, b := leaseID(requestID(1)), leaseID(requestID(1)); a != b || a == 0 || a > leaseIDMax {
		t.Errorf("attempts of one request: %d, %d", a, b)
	}
	if a, b := leaseID(requestID(1)), leaseID(requestID(2)); a == b {
		t.Errorf("two requests: %d", a)
	}
	if a, b := leaseID(nil), leaseID(nil); a == b || a == 0 || a > leaseIDMax {
		t.Errorf("requests without an id: %d, %d", a, b)
	}
}
