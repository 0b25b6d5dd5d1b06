package service

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// tcp sends a request as it stands and reads the response.
func (f *fixture) tcp(t testing.TB, method, target, headers string, body []byte) (*http.Response, []byte) {
	t.Helper()
	return f.tcpTo(t, "x", method, target, headers, body)
}

// tcpTo is tcp with a Host header.
func (f *fixture) tcpTo(t testing.TB, host, method, target, headers string, body []byte) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n%s", method, target, host, len(body), headers, body)
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

// TestRawKeys checks that paths are keys as they stand, on a socket, because clients and libraries normalise them.
func TestRawKeys(t *testing.T) {
	f := newFixture(t)
	for path, key := range map[string]string{
		"a": "a", "a/b": "a/b", "a//b": "a//b", "/a": "/a", "//": "//", "a/": "a/", ".": ".", "..": "..", "../../etc": "../../etc",
		"u/../w": "u/../w", "./x": "./x", "a%2Fb": "a/b", "a%2fb%2f": "a/b/", "%2e%2e": "..", "a%20b": "a b", "a+b": "a+b",
		"%F0%9F%98%80": "😀", "a%3Fb": "a?b", "a%23b": "a#b", "a%25b": "a%b", "a%252Fb": "a%2Fb", "a;b=c": "a;b=c", "a:b": "a:b",
		"{tag}x": "{tag}x", "a%00b": "a\x00b", "a%0Ab": "a\nb", "v1/kv/x": "v1/kv/x", "raftkv.v1.KvService/Get": "raftkv.v1.KvService/Get",
		"%C3%A9": "é", "é": "é", "a&b=c": "a&b=c", "%5B%5D": "[]", "~a*'()!": "~a*'()!", "a%5Cb": `a\b`,
	} {
		value := []byte("value of " + key)
		res, b := f.tcp(t, "PUT", "/v1/kv/"+path, "", value)
		if res.StatusCode != 200 {
			t.Errorf("PUT %s: %d %s", path, res.StatusCode, b)
			continue
		}
		f.node.mu.Lock()
		stored := string(f.node.records[key].GetValue())
		f.node.mu.Unlock()
		if stored != string(value) {
			t.Errorf("PUT %s did not write %q", path, key)
		}
		if res, b := f.tcp(t, "GET", "/v1/kv/"+path, "", nil); !bytes.Equal(b, value) || res.Header.Get("Etag") == "" {
			t.Errorf("GET %s: %d %s", path, res.StatusCode, b)
		}
		if res, b := f.tcp(t, "HEAD", "/v1/kv/"+path, "", nil); len(b) != 0 || res.ContentLength != int64(len(value)) || res.StatusCode != 200 {
			t.Errorf("HEAD %s: %d, %d bytes", path, res.StatusCode, res.ContentLength)
		}
		if res, b := f.tcp(t, "DELETE", "/v1/kv/"+path, "", nil); res.StatusCode != 200 || !strings.Contains(string(b), `"deleted":true`) {
			t.Errorf("DELETE %s: %d %s", path, res.StatusCode, b)
		}
		if res, _ := f.tcp(t, "GET", "/v1/kv/"+path, "", nil); res.StatusCode != 404 {
			t.Errorf("GET %s after DELETE: %d", path, res.StatusCode)
		}
	}
}

func TestRawValues(t *testing.T) {
	f := newFixture(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, value := range [][]byte{{}, all, []byte(`{"x":1}`), bytes.Repeat(all, 4096)} {
		for _, kind := range []string{"application/json", "application/x-www-form-urlencoded", "text/plain", "image/png; a=b", "application/grpc", "nonsense"} {
			if code, b := f.rest(t, "PUT", "/v1/kv/k", value, "Content-Type", kind); code != 200 {
				t.Fatalf("%s: %d %s", kind, code, b)
			}
			res, b := f.restResponse(t, "GET", "/v1/kv/k", nil)
			if !bytes.Equal(b, value) || res.Header.Get("Content-Type") != "application/octet-stream" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Fatalf("%s: %d bytes became %d, %v", kind, len(value), len(b), res.Header)
			}
		}
	}
	res, b := f.restResponse(t, "GET", "/v1/kv/k", nil, "Accept", "application/json")
	got := new(raftkvv1.GetResponse)
	err := protojson.Unmarshal(b, got)
	kv := got.GetKv()
	if err != nil || got.GetHeader().GetNodeId() != fakeID || kv.GetKey() != "k" || !bytes.Equal(kv.GetValue(), bytes.Repeat(all, 4096)) {
		t.Errorf("%v, %d bytes", err, len(kv.GetValue()))
	}
	for name, want := range map[string]string{
		"Etag": fmt.Sprintf("%q", fmt.Sprint(kv.GetModRevision())), "Raftkv-Node": fakeID, "Raftkv-Cluster": fakeCluster, "Raftkv-Shard": "1",
		"Raftkv-Version": fmt.Sprint(kv.GetVersion()), "Raftkv-Create-Revision": "1", "Raftkv-Revision": fmt.Sprint(kv.GetModRevision()),
		"Raftkv-Index": fmt.Sprint(got.GetHeader().GetRaftIndex()), "Raftkv-Role": "leader", "Raftkv-Freshness-Ms": "0", "Vary": "Accept",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// TestRESTRefusals has requests that must not be half understood.
func TestRESTRefusals(t *testing.T) {
	f := newFixture(t)
	cases := []struct {
		method, path string
		headers      []string
		body         string
		status       int
		reason, say  string
	}{
		{"GET", "/v1/kv/", nil, "", 400, "INVALID", "must not be empty"},
		{"PUT", "/v1/kv/", nil, "x", 400, "INVALID", "must not be empty"},
		{"GET", "/v1/kv/%FF", nil, "", 400, "INVALID", "UTF-8"},
		{"PUT", "/v1/kv/%C0%80", nil, "", 400, "INVALID", "UTF-8"},
		{"GET", "/v1/kv?prefix=%FF", nil, "", 400, "INVALID", "UTF-8"},
		{"PUT", "/v1/kv/k", []string{"If-Match", `"1", "2"`}, "x", 400, "INVALID", "If-Match: a write takes one revision, this names 2"},
		{"PUT", "/v1/kv/k", []string{"If-None-Match", `"1"`}, "x", 400, "INVALID", "If-None-Match: a write takes * only"},
		{"DELETE", "/v1/kv/k", []string{"If-None-Match", `W/"1", "x"`}, "", 400, "INVALID", "If-None-Match: a write takes * only"},
		{"PUT", "/v1/kv/k", []string{"If-None-Match", "*", "If-Match", `"1"`}, "x", 400, "INVALID", "not both"},
		{"PUT", "/v1/kv/k", []string{"If-Match", ""}, "x", 400, "MALFORMED", "If-Match header"},
		{"PUT", "/v1/kv/k", []string{"If-Match", "1"}, "x", 400, "MALFORMED", `in quotes, as in the ETag of an answer: "7"`},
		{"PUT", "/v1/kv/k", []string{"If-Match", `*, "1"`}, "x", 400, "MALFORMED", "If-Match header"},
		{"PUT", "/v1/kv/k", []string{"If-Match", `"1" "2"`}, "x", 400, "MALFORMED", "If-Match header"},
		{"PUT", "/v1/kv/k", []string{"If-Match", `"1`}, "x", 400, "MALFORMED", "If-Match header"},
		{"PUT", "/v1/kv/k", []string{"If-Match", `"1 2"`}, "x", 400, "MALFORMED", "If-Match header"},
		{"PUT", "/v1/kv/k", []string{"If-Match", `w/"1"`}, "x", 400, "MALFORMED", "If-Match header"},
		{"DELETE", "/v1/kv/k", []string{"If-None-Match", ","}, "", 400, "MALFORMED", "If-None-Match header"},
		{"GET", "/v1/kv/k", []string{"If-None-Match", "1"}, "", 400, "MALFORMED", "If-None-Match header"},
		{"GET", "/v1/kv/k", []string{"If-Modified-Since", "Thu, 26 Nov 2026 00:00:00 GMT"}, "", 400, "INVALID", "send If-None-Match with an ETag"},
		{"PUT", "/v1/kv/k", []string{"If-Unmodified-Since", "Thu, 26 Nov 2026 00:00:00 GMT"}, "x", 400, "INVALID", "send If-Match with an ETag"},
		{"PUT", "/v1/kv/k?condition.mod_revision=1", []string{"If-Match", `"1"`}, "x", 400, "INVALID", "by query and by header"},
		{"PUT", "/v1/kv/k?condition.mod_revision=1&condition.exists=true", nil, "x", 400, "MALFORMED", "query"},
		{"PUT", "/v1/kv/k?condition.exists=perhaps", nil, "x", 400, "MALFORMED", "exists"},
		{"DELETE", "/v1/kv/k?condition.value=x", nil, "", 400, "MALFORMED", `no parameter "condition.value"`},
		{"POST", "/v1/kv", []string{"If-Match", `"1"`}, `{"key":"k"}`, 400, "INVALID", "If-Match: is for /v1/kv/KEY"},
		{"POST", "/v1/batch", []string{"If-None-Match", "*"}, `{"operations":[{"delete":{"key":"k"}}]}`, 400, "INVALID", "If-None-Match: is for /v1/kv/KEY"},
		{"POST", "/v1/kv", nil, `{"key":"k","condition":{}}`, 400, "INVALID", "must be exists or mod_revision"},
		{"POST", "/v1/kv", nil, `{"key":"k","condition":{"modRevision":"1","exists":true}}`, 400, "MALFORMED", "request"},
		{"PUT", "/v1/kv/k", []string{"Content-Range", "bytes 1-2/3"}, "x", 501, "NOT_IMPLEMENTED", "Content-Range"},
		{"PUT", "/v1/kv/k", []string{"Content-Encoding", "gzip"}, "x", 415, "UNSUPPORTED_MEDIA_TYPE", "uncompressed"},
		{"PUT", "/v1/kv/k?value=1", nil, "x", 400, "MALFORMED", `no parameter "value"`},
		{"GET", "/v1/kv/k?stale=1", nil, "", 400, "MALFORMED", `no parameter "stale"`},
		{"DELETE", "/v1/kv/k?request_id.sequence=x", nil, "", 400, "MALFORMED", "sequence"},
		{"DELETE", "/v1/kv/k?request_id.sequence=1", nil, "", 400, "INVALID", "client_id"},
		{"POST", "/v1/kv/k", nil, "x", 405, "METHOD_NOT_ALLOWED", "PUT"},
		{"GET", "/v1/kv?prefx=a", nil, "", 400, "MALFORMED", "keysOnly, keys_only"},
		{"GET", "/v1/kv?prefix=a&prefix=b", nil, "", 400, "MALFORMED", "more than once"},
		{"GET", "/v1/kv?limit=many", nil, "", 400, "MALFORMED", "limit"},
		{"GET", "/v1/kv?prefix=%zz", nil, "", 400, "MALFORMED", "query"},
		{"POST", "/v1/kv", nil, `{"key":"a","vaule":"MQ=="}`, 400, "MALFORMED", "vaule"},
		{"POST", "/v1/kv", nil, `{"key":"a"}{"key":"b"}`, 400, "MALFORMED", "request"},
		{"POST", "/v1/kv", nil, `{"key":"a","key":"b"}`, 400, "MALFORMED", "key"},
		{"POST", "/v1/kv", nil, `{"key":"a","value":"not base64!"}`, 400, "MALFORMED", "value"},
		{"POST", "/v1/kv", nil, `nonsense`, 400, "MALFORMED", "request"},
		{"POST", "/v1/kv", nil, ``, 400, "MALFORMED", "cannot read"},
		{"POST", "/v1/kv?key=a", nil, `{"key":"a"}`, 400, "MALFORMED", `no parameter "key"`},
		{"POST", "/v1/kv", []string{"Content-Encoding", "gzip"}, `{"key":"a"}`, 415, "UNSUPPORTED_MEDIA_TYPE", "uncompressed"},
		{"POST", "/v1/shards/many:transferLeader", nil, `{"nodeId":"n1"}`, 400, "MALFORMED", "shard"},
		{"GET", "/v1/kv/k", []string{"Grpc-Timeout", "soon"}, "", 400, "MALFORMED", "Grpc-Timeout"},
		{"GET", "/v1/status", []string{"Connect-Timeout-Ms", "-1"}, "", 400, "MALFORMED", "Connect-Timeout-Ms"},
		{"PATCH", "/v1/kv", nil, "", 405, "METHOD_NOT_ALLOWED", "GET, POST"},
		{"GET", "/v1/", nil, "", 404, "NO_SUCH_ROUTE", "GET / lists"},
		{"GET", "/v2/kv", nil, "", 404, "NO_SUCH_ROUTE", "GET / lists"},
		{"GET", "/v1/../v1/status", nil, "", 404, "NO_SUCH_ROUTE", "/v1/../v1/status"},
		{"GET", "//v1/status", nil, "", 404, "NO_SUCH_ROUTE", "GET / lists"},
		{"POST", "/", nil, "", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"},
	}
	for _, c := range cases {
		var headers strings.Builder
		for i := 0; i < len(c.headers); i += 2 {
			fmt.Fprintf(&headers, "%s: %s\r\n", c.headers[i], c.headers[i+1])
		}
		res, b := f.tcp(t, c.method, c.path, headers.String(), []byte(c.body))
		s := new(spb.Status)
		if err := protojson.Unmarshal(b, s); err != nil {
			t.Errorf("%s %s: %d %q: %v", c.method, c.path, res.StatusCode, b, err)
			continue
		}
		if res.StatusCode != c.status || !strings.Contains(string(b), c.reason) || !strings.Contains(s.GetMessage(), c.say) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, res.StatusCode, b)
		}
		if c.status == 405 && res.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
	}
	if f.node.index != 0 {
		t.Error("the node was asked")
	}
}

func TestIndex(t *testing.T) {
	code, b := newFixture(t).rest(t, "GET", "/", nil)
	for _, want := range []string{"/v1/kv/KEY", "/v1/batch", "/raftkv.v1.KvService/"} {
		if code != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%d %s", code, b)
		}
	}
}

// zeros is an endless body that counts what was taken of it.
type zeros struct {
	left  int64
	taken atomic.Int64
}

func (z *zeros) Read(b []byte) (int, error) {
	if z.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), z.left)
	clear(b[:n])
	z.left -= n
	z.taken.Add(n)
	return int(n), nil
}

// TestHugeBodies sends 1 GiB to every kind of route, with and without a length. It is refused, and not held in memory.
func TestHugeBodies(t *testing.T) {
	f := newFixture(t)
	const huge = 1 << 30
	for _, target := range []struct{ method, path, kind string }{
		{"PUT", "/v1/kv/k", ""},
		{"POST", "/v1/kv", "application/json"},
		{"POST", "/v1/batch", "application/json"},
		{"POST", kvPath + "Put", "application/proto"},
		{"POST", kvPath + "Put", "application/json"},
		{"POST", kvPath + "Put", "application/grpc-web+proto"},
		{"POST", kvPath + "Put", "application/grpc"},
		{"POST", kvPath + "Scan", "application/connect+proto"},
	} {
		for _, length := range []int64{huge, -1} {
			for name, client := range map[string]*http.Client{"http1": f.http, "h2c": f.h2c} {
				if target.kind == "application/grpc" && name == "http1" {
					continue
				}
				t.Run(fmt.Sprintf("%s %s %s %d %s", target.method, target.path, target.kind, length, name), func(t *testing.T) {
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					body := &zeros{left: huge}
					var r io.Reader = body
					if strings.Contains(target.kind, "grpc") || strings.Contains(target.kind, "connect+") {
						r = io.MultiReader(bytes.NewReader([]byte{0, 0x3f, 0xff, 0xff, 0xfb}), body)
						body.left -= 5 // the message says how long it is
					}
					req, err := http.NewRequestWithContext(t.Context(), target.method, f.url+target.path, io.NopCloser(r))
					if err != nil {
						t.Fatal(err)
					}
					req.ContentLength = length
					if target.kind != "" {
						req.Header.Set("Content-Type", target.kind)
					}
					res, err := client.Do(req)
					if err != nil {
						if name == "http1" && (strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "broken pipe")) {
							return // the answer was lost behind what the client still sent
						}
						t.Fatal(err)
					}
					defer res.Body.Close()
					b, _ := io.ReadAll(res.Body)
					all := fmt.Sprint(res.StatusCode, res.Header, res.Trailer, string(b))
					if !strings.Contains(all, "413") && !strings.Contains(all, "resource_exhausted") && !strings.Contains(all, "Grpc-Status:[8]") &&
						!strings.Contains(strings.ToLower(all), "grpc-status: 8") {
						t.Errorf("%s", all)
					}
					if taken := body.taken.Load(); taken > 64<<20 {
						t.Errorf("%d bytes were taken", taken)
					}
					runtime.ReadMemStats(&after)
					if grown := after.TotalAlloc - before.TotalAlloc; grown > 96<<20 {
						t.Errorf("%d MiB were allocated", grown>>20)
					}
				})
			}
		}
	}
	if _, ok := f.node.records["k"]; ok {
		t.Error("something was written")
	}
}

// TestTooLargeIsTyped checks that a request a little over the limit names limit and size on every unary protocol.
func TestTooLargeIsTyped(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.RequestBytes, o.Limits.ValueBytes = 64<<10, 32<<10 })
	req := &raftkvv1.PutRequest{Key: "k", Value: bytes.Repeat([]byte{1}, 64<<10)}
	for name, call := range f.protocols(t) {
		t.Run(name, func(t *testing.T) {
			got := call(t, kvPath+"Put", req, new(raftkvv1.PutResponse))
			if codes.Code(got.GetCode()) != codes.ResourceExhausted || !strings.Contains(protojson.Format(got), "REQUEST_TOO_LARGE") {
				t.Errorf("%v", got)
			}
		})
	}
	res, b := f.restResponse(t, "PUT", "/v1/kv/k", bytes.Repeat([]byte{1}, 32<<10+1))
	if res.StatusCode != 413 || !strings.Contains(string(b), `"limit":"32768"`) || !strings.Contains(string(b), `"actual":"32769"`) {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	if code, b := f.rest(t, "PUT", "/v1/kv/k", bytes.Repeat([]byte{1}, 32<<10)); code != 200 {
		t.Errorf("%d %s", code, b)
	}
}

// TestAbortedUpload checks that a body that breaks off is not written.
func TestAbortedUpload(t *testing.T) {
	f := newFixture(t)
	for _, head := range []string{"Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
		c, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\n%s", head)
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	if f.node.index != 0 {
		t.Error("half a value was written")
	}
}

// FuzzREST throws paths, queries and bodies at the root handler. Nothing may panic, every answer but a raw value is JSON or
// text, and a key that a PUT accepts is the unescaped path.
func FuzzREST(f *testing.F) {
	for _, seed := range [][4]string{
		{"PUT", "/v1/kv/a%2Fb", "", "value"},
		{"GET", "/v1/kv//../x", "", ""},
		{"GET", "/v1/kv", "prefix=a&limit=3", ""},
		{"POST", "/v1/kv", "", `{"key":"a","value":"MQ=="}`},
		{"POST", "/v1/batch", "", `{"operations":[{"delete":{"key":"x"}}]}`},
		{"DELETE", "/v1/kv/k", "request_id.client_id=MDEyMzQ1Njc4OWFiY2RlZg==&request_id.sequence=1", ""},
		{"POST", "/v1/shards/1:transferLeader", "", `{"nodeId":"n2"}`},
		{"GET", "/v1/locate", "key=%F0%9F%98%80", ""},
		{"POST", "/raftkv.v1.KvService/Put", "", `{"key":"a"}`},
		{"GET", "/v1/kv", "page_token=AQ", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	fix := newFixture(f)
	h, err := fix.service.Handler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, rawQuery, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") || method == "" || strings.Contains(path, "?") {
			return
		}
		u.RawQuery = rawQuery
		r := &http.Request{
			Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: -1, Host: "x", RequestURI: path,
		}
		w := newRecorder()
		h.ServeHTTP(w, r.WithContext(t.Context()))
		key, raw := strings.CutPrefix(u.EscapedPath(), "/v1/kv/")
		if raw && method == "PUT" && w.code == 200 {
			key, err := url.PathUnescape(key)
			fix.node.mu.Lock()
			stored, ok := fix.node.records[key]
			fix.node.mu.Unlock()
			if err != nil || !ok || string(stored.GetValue()) != body {
				t.Fatalf("PUT %q did not write %q", path, key)
			}
		}
		if w.header.Get("Content-Type") == "application/json" && method != "HEAD" && !validJSON(w.body.Bytes()) {
			t.Fatalf("%s %s?%s: %d %q", method, path, rawQuery, w.code, w.body.Bytes())
		}
	})
}

// recorder is a ResponseWriter.
type recorder struct {
	code   int
	header http.Header
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{code: 200, header: http.Header{}} }

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
