package service

import (
	"net/http"
	"strings"
	"testing"
)

func TestCORS(t *testing.T) {
	const mine, theirs = "https://app.example", "https://evil.example"
	open := newFixture(t, func(o *Options) { o.Origins = []string{mine} })
	preflight := func(f *fixture, origin string) http.Header {
		res, _ := f.restResponse(t, "OPTIONS", "/v1/kv/k", nil, "Origin", origin, "Access-Control-Request-Method", "PUT")
		return res.Header
	}
	if h := preflight(open, mine); h.Get("Access-Control-Allow-Origin") != mine || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "PUT") ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "If-Match, If-None-Match") ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Idempotency-Key") ||
		!strings.Contains(h.Get("Access-Control-Expose-Headers"), "Idempotency-Replayed") {
		t.Error(h)
	}
	if h := preflight(open, theirs); h.Get("Access-Control-Allow-Origin") != "" {
		t.Error(h)
	}
	if h := preflight(newFixture(t), mine); h.Get("Access-Control-Allow-Origin") != "" {
		t.Error("closed by default", h)
	}
	if h := preflight(newFixture(t, func(o *Options) { o.Origins = []string{"*"} }), theirs); h.Get("Access-Control-Allow-Origin") != theirs {
		t.Error(h)
	}
	for origin, want := range map[string]int{mine: 200, theirs: 403} {
		for path, body := range map[string]string{"/v1/kv": `{"key":"k"}`, kvPath + "Put": `{"key":"k"}`} {
			code, b := open.rest(t, "POST", path, []byte(body), "Origin", origin, "Sec-Fetch-Site", "cross-site", "Content-Type", "application/json")
			if code != want {
				t.Errorf("%s %s: %d %s", origin, path, code, b)
			}
		}
	}
	for host, want := range map[string]int{"evil.example:8080": 403, "localhost": 200, "db.localhost:1": 200, "127.0.0.2:8080": 200, "[::1]:8080": 200} {
		headers := "Content-Type: application/json\r\nOrigin: http://" + host + "\r\n"
		if res, b := open.tcpTo(t, host, "POST", "/v1/kv", headers, []byte(`{"key":"k"}`)); res.StatusCode != want {
			t.Errorf("a page of %s: %d %s", host, res.StatusCode, b)
		}
		if res, b := open.tcpTo(t, host, "POST", "/v1/kv", "", []byte(`{"key":"k"}`)); res.StatusCode != 200 {
			t.Errorf("no page, for %s: %d %s", host, res.StatusCode, b)
		}
	}
	if res, _ := open.restResponse(t, "GET", "/v1/kv/k", nil, "Origin", mine); strings.Join(res.Header.Values("Vary"), ", ") != "Origin, Accept" {
		t.Errorf("Vary is %q", res.Header.Values("Vary"))
	}
	if _, err := newHandlerWith(t, "example.org"); err == nil {
		t.Error("an origin without a scheme was taken")
	}
}

func newHandlerWith(t *testing.T, origin string) (http.Handler, error) {
	t.Helper()
	s, err := New(Options{Node: newFakeNode(), Origins: []string{origin}})
	if err != nil {
		t.Fatal(err)
	}
	return s.Handler()
}
