package service

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// The token of a watch of another cluster is refused on every protocol, though the watch is of the same keys: a place in that history is none in this one.
func TestWatchTokenOfAnotherCluster(t *testing.T) {
	theirs, ours := newNodeFixture(t), newNodeFixture(t)
	created, err := theirs.watchClients(t)["grpc"](t.Context(), &raftkvv1.WatchRequest{Prefix: "a"})()
	if err != nil || created.GetToken() == "" {
		t.Fatal(created, err)
	}
	token := created.GetToken()
	refused := badRequest("token", "is of cluster "+theirs.service.identity().cluster+", this is "+ours.service.identity().cluster+"; begin anew without it")
	check := func(t *testing.T, got *spb.Status) {
		t.Helper()
		checkStatus(t, got, codes.InvalidArgument, "INVALID", refused, 0)
	}
	for name, open := range ours.watchClients(t) {
		t.Run(name, func(t *testing.T) {
			res, err := open(t.Context(), &raftkvv1.WatchRequest{Prefix: "a", Token: token})()
			if err == nil {
				t.Fatalf("%v", res)
			}
			check(t, wireStatus(t, err))
		})
	}
	for name, c := range map[string]struct {
		query   string
		headers []string
	}{
		"sse, last event id": {"?prefix=a", []string{"Last-Event-ID", token}},
		"sse, token":         {"?prefix=a&token=" + token, nil},
	} {
		t.Run(name, func(t *testing.T) {
			res, _ := ours.watchSSE(t, c.query, c.headers...)
			if res.StatusCode != http.StatusBadRequest {
				t.Fatal(res.Status)
			}
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := new(spb.Status)
			if err := protojson.Unmarshal(b, got); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			check(t, got)
		})
	}
	// Where it comes from, it is taken.
	if res, err := theirs.watchClients(t)["grpc"](t.Context(), &raftkvv1.WatchRequest{Prefix: "a", Token: token})(); err != nil || !res.GetCreated() {
		t.Error(res, err)
	}
}

// A key of a query that is empty, as of a variable that is not set, is not taken for all keys.
func TestWatchOfAnEmptyKey(t *testing.T) {
	f := newNodeFixture(t)
	res, _ := f.watchSSE(t, "?key=")
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), "key is empty; name one, or leave it out to watch all") {
		t.Errorf("%s %s, %v", res.Status, b, err)
	}
}

// A node that has as many watches as it may says so before the first batch, and when to come again, on every protocol.
func TestTooManyWatchesOnEveryProtocol(t *testing.T) {
	f := newFixture(t)
	full := &raftnode.OverloadedError{Field: "watches", Limit: 5, Actual: 5, RetryAfter: time.Second}
	f.service.watch = func(context.Context, raftnode.WatchRequest) (watchStream, error) { return nil, full }
	want := &raftkvv1.LimitExceeded{Field: "watches", Limit: 5, Actual: 5}
	for name, open := range f.watchClients(t) {
		t.Run(name, func(t *testing.T) {
			_, err := open(t.Context(), &raftkvv1.WatchRequest{})()
			checkStatus(t, wireStatus(t, err), codes.ResourceExhausted, "OVERLOADED", want, time.Second)
		})
	}
	res, b := f.restResponse(t, http.MethodGet, watchPath, nil)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s, retry after %q", res.StatusCode, b, res.Header.Get("Retry-After"))
	}
	got := new(spb.Status)
	if err := protojson.Unmarshal(b, got); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	checkStatus(t, got, codes.ResourceExhausted, "OVERLOADED", want, time.Second)
}
