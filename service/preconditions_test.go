package service

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/raftkv/raftkv/raftnode"
)

// TestPreconditions is a story of one key, told with the headers of RFC 9110.
func TestPreconditions(t *testing.T) {
	f := newFixture(t)
	for _, step := range []struct {
		method, header, value string
		status                int
		tag                   string
	}{
		// Nothing is there. A read that finds nothing finds nothing whatever its condition.
		{"GET", "If-Match", "*", 404, ""},
		{"GET", "If-None-Match", "*", 404, ""},
		{"PUT", "If-Match", "*", 412, ""},
		{"PUT", "If-Match", `"1"`, 412, ""},
		{"PUT", "If-Match", `"0"`, 412, ""},
		{"DELETE", "If-Match", "*", 412, ""},
		{"DELETE", "If-None-Match", "*", 200, ""},
		{"PUT", "If-None-Match", "*", 200, `"1"`},
		// Revision 1 is there.
		{"PUT", "If-None-Match", "*", 412, `"1"`},
		{"GET", "If-None-Match", "*", 304, `"1"`},
		{"HEAD", "If-None-Match", `"1"`, 304, `"1"`},
		{"GET", "If-None-Match", `W/"1"`, 304, `"1"`},
		{"GET", "If-None-Match", `"x,y" ,, "2",W/"1"`, 304, `"1"`},
		{"GET", "If-None-Match", `"2", "01"`, 200, `"1"`},
		{"GET", "If-None-Match", `""`, 200, `"1"`},
		{"GET", "If-Match", "*", 200, `"1"`},
		{"HEAD", "If-Match", `"1"`, 200, `"1"`},
		{"GET", "If-Match", `"2", "1"`, 200, `"1"`},
		{"GET", "If-Match", `"2"`, 412, `"1"`},
		{"HEAD", "If-Match", `"2"`, 412, `"1"`},
		{"GET", "If-Match", `W/"1"`, 412, `"1"`},
		{"PUT", "If-Match", `W/"1"`, 412, `"1"`},
		{"PUT", "If-Match", `"01"`, 412, `"1"`},
		{"PUT", "If-Match", `"+1"`, 412, `"1"`},
		{"PUT", "If-Match", `"0"`, 412, `"1"`},
		{"PUT", "If-Match", `"1-gzip"`, 412, `"1"`},
		{"PUT", "If-Match", `"99999999999999999999"`, 412, `"1"`},
		{"PUT", "If-Match", `"1"`, 200, `"2"`},
		{"PUT", "If-Match", "*", 200, `"3"`},
		{"PUT", "If-Match", `W/"2", "3", "x", "3"`, 200, `"4"`},
		{"PUT", "", "", 200, `"5"`},
		{"DELETE", "If-Match", `"4"`, 412, `"5"`},
		{"DELETE", "If-None-Match", "*", 412, `"5"`},
		{"DELETE", "If-Match", ` "5" `, 200, ""},
		{"GET", "If-Match", `"5"`, 404, ""},
		{"PUT", "If-Match", `"5"`, 412, ""},
	} {
		what := fmt.Sprintf("%s with %s: %s", step.method, step.header, step.value)
		header := ""
		if step.header != "" {
			header = step.header + ": " + step.value + "\r\n"
		}
		res, b := f.tcp(t, step.method, "/v1/kv/k", header, []byte("v"))
		if res.StatusCode != step.status || res.Header.Get("Etag") != step.tag {
			t.Errorf("%s: %d, tag %s; want %d, %s: %s", what, res.StatusCode, res.Header.Get("Etag"), step.status, step.tag, b)
		}
		switch {
		case step.status == 304:
			if len(b) > 0 || res.Header.Get("Vary") != "Accept" || res.Header.Get("Raftkv-Node") == "" {
				t.Errorf("%s: %q, %v", what, b, res.Header)
			}
		case step.status == 412 && step.method != "HEAD":
			s := new(spb.Status)
			if err := protojson.Unmarshal(b, s); err != nil {
				t.Fatalf("%s: %s: %v", what, b, err)
			}
			current, _ := strconv.ParseUint(strings.Trim(step.tag, `"`), 10, 64)
			f.node.mu.Lock()
			want := failedWith(current, f.node.revision)
			f.node.mu.Unlock()
			checkStatus(t, s, codes.FailedPrecondition, "PRECONDITION_FAILED", want, 0)
			if weak := strings.Contains(step.value, "W/"); weak != strings.Contains(s.GetMessage(), "send the ETag without W/") {
				t.Errorf("%s: %s", what, s.GetMessage())
			}
		}
	}
}

// TestPreconditionsAndDates checks that a date is passed over, as RFC 9110 asks, where an entity tag says it better.
func TestPreconditionsAndDates(t *testing.T) {
	f := newFixture(t)
	const date = "Thu, 26 Nov 2026 00:00:00 GMT"
	if code, b := f.rest(t, "PUT", "/v1/kv/k", nil, "If-None-Match", "*"); code != 200 {
		t.Fatalf("%d %s", code, b)
	}
	if code, b := f.rest(t, "GET", "/v1/kv/k", nil, "If-None-Match", `"1"`, "If-Modified-Since", date); code != 304 {
		t.Errorf("%d %s", code, b)
	}
	if code, b := f.rest(t, "PUT", "/v1/kv/k", nil, "If-Match", `"1"`, "If-Unmodified-Since", date); code != 200 {
		t.Errorf("%d %s", code, b)
	}
}

// TestConditionsInJSON has the conditions of the JSON routes, and the query parameters of the raw ones.
func TestConditionsInJSON(t *testing.T) {
	f := newFixture(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		tag                string
	}{
		{"POST", "/v1/kv", `{"key":"k","condition":{"exists":true}}`, 412, ""},
		{"POST", "/v1/kv", `{"key":"k","condition":{"exists":false}}`, 200, ""},
		{"POST", "/v1/kv", `{"key":"k","condition":{"modRevision":"7"}}`, 412, `"1"`},
		{"POST", "/v1/kv", `{"key":"k","condition":{"mod_revision":1}}`, 200, ""},
		{"PUT", "/v1/kv/k?condition.mod_revision=1", "v", 412, `"2"`},
		{"PUT", "/v1/kv/k?condition.modRevision=2", "v", 200, `"3"`},
		{"PUT", "/v1/kv/k?condition.exists=false", "v", 412, `"3"`},
		{"DELETE", "/v1/kv/k?condition.exists=false", "", 412, `"3"`},
		{"DELETE", "/v1/kv/k?condition.modRevision=3", "", 200, ""},
		{"PUT", "/v1/kv/k?condition.modRevision=0", "v", 200, `"5"`},
	} {
		res, b := f.restResponse(t, step.method, step.path, []byte(step.body))
		if res.StatusCode != step.status || res.Header.Get("Etag") != step.tag {
			t.Errorf("%s %s %s: %d, tag %s: %s", step.method, step.path, step.body, res.StatusCode, res.Header.Get("Etag"), b)
		}
	}
}

// realNode is a node that is a cluster of its own.
func realNode(t testing.TB) *raftnode.Node {
	t.Helper()
	n, err := raftnode.Open(raftnode.Options{
		NodeID: "n1", Dir: t.TempDir(), Members: []raftnode.Member{{ID: "n1", PeerAddress: "127.0.0.1:0", ClientAddress: "127.0.0.1:1"}},
		HeartbeatInterval: 20 * time.Millisecond, ElectionTimeout: 200 * time.Millisecond,
		CacheBytes: 8 << 20, MemTableBytes: 4 << 20, SegmentBytes: 4 << 20, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := n.Formed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestConcurrentCompareAndSet counts with many clients by If-Match over a real node: no count is lost, and none is counted twice.
func TestConcurrentCompareAndSet(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Node = realNode(t) })
	const clients, rounds = 8, 20
	var created atomic.Int32
	var counted sync.Map
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			res, b := f.restResponse(t, "PUT", "/v1/kv/counter", []byte("0"), "If-None-Match", "*")
			if res.StatusCode == http.StatusOK {
				created.Add(1)
			} else if res.StatusCode != http.StatusPreconditionFailed || res.Header.Get("Etag") == "" {
				t.Errorf("%d %s", res.StatusCode, b)
			}
			for n := 0; n < rounds; {
				res, b := f.restResponse(t, "GET", "/v1/kv/counter", nil)
				count, err := strconv.Atoi(string(b))
				if err != nil {
					t.Errorf("%d %s", res.StatusCode, b)
					return
				}
				tag := res.Header.Get("Etag")
				res, b = f.restResponse(t, "PUT", "/v1/kv/counter", []byte(strconv.Itoa(count+1)), "If-Match", tag)
				switch res.StatusCode {
				case http.StatusOK:
					n++
					if _, twice := counted.LoadOrStore(count+1, c); twice {
						t.Errorf("%d was counted twice", count+1)
					}
				case http.StatusPreconditionFailed:
					if current := res.Header.Get("Etag"); current == tag {
						t.Errorf("a condition on %s was refused because of it", tag)
					}
				default:
					t.Errorf("%d %s", res.StatusCode, b)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := created.Load(); n != 1 {
		t.Errorf("%d clients created the key", n)
	}
	if _, b := f.rest(t, "GET", "/v1/kv/counter", nil); string(b) != strconv.Itoa(clients*rounds) {
		t.Errorf("the counter is %s", b)
	}
}
