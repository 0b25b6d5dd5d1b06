package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// TestLines reads ranges as lines, over many pages.
func TestLines(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.PageItems = 3 })
	for i := range 10 {
		f.rest(t, "PUT", fmt.Sprintf("/v1/kv/p/%d", i), []byte{byte(i), '\n', '"'})
	}
	f.rest(t, "PUT", "/v1/kv/q", nil)
	for query, want := range map[string]string{
		"":                                    "p/0 p/1 p/2 p/3 p/4 p/5 p/6 p/7 p/8 p/9 q",
		"?prefix=p/":                          "p/0 p/1 p/2 p/3 p/4 p/5 p/6 p/7 p/8 p/9",
		"?prefix=p/&limit=4&reverse=true":     "p/9 p/8 p/7 p/6",
		"?start=p/8&end=q&consistency=stale":  "p/8 p/9",
		"?range.prefix=p/&page_size=1":        "p/0 p/1 p/2 p/3 p/4 p/5 p/6 p/7 p/8 p/9",
		"?prefix=none":                        "",
		"?prefix=q&keys_only=true&pageSize=2": "q",
	} {
		res, body := f.restResponse(t, "GET", "/v1/kv"+query, nil, "Accept", "application/x-ndjson, application/json;q=0.5")
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != linesType || res.Header.Get("Raftkv-Node") != fakeID || res.Header.Get("Vary") != "Accept" {
			t.Errorf("%q: %d %v", query, res.StatusCode, res.Header)
		}
		var got []string
		for line := range bytes.Lines(body) {
			kv := new(raftkvv1.KeyValue)
			if err := protojson.Unmarshal(line, kv); err != nil {
				t.Fatalf("%q: %v in %q", query, err, line)
			}
			if i := strings.TrimPrefix(kv.GetKey(), "p/"); i != kv.GetKey() && string(kv.GetValue()) != string([]byte{i[0] - '0', '\n', '"'}) {
				t.Errorf("%q: %q is %q", query, kv.GetKey(), kv.GetValue())
			}
			got = append(got, kv.GetKey())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

// TestLinesRefused has errors before the first line: they are answers like any other.
func TestLinesRefused(t *testing.T) {
	f := newFixture(t)
	for query, reason := range map[string]string{
		"?prefix=a&start=b":           "INVALID",
		"?prefix=a&range.prefix=a":    "MALFORMED",
		"?page_token=x":               "MALFORMED",
		"?page_size=20000":            "LIMIT_EXCEEDED",
		"?limit=many":                 "MALFORMED",
		"?consistency=stale&token=no": "INVALID",
	} {
		res, body := f.restResponse(t, "GET", "/v1/kv"+query, nil, "Accept", linesType)
		if res.StatusCode != 400 || !strings.Contains(string(body), `"`+reason+`"`) || res.Header.Get("Content-Type") != jsonType {
			t.Errorf("%q: %d %s", query, res.StatusCode, body)
		}
	}
	if res, body := f.restResponse(t, "GET", "/v1/kv?prefix=a", nil, "Accept", "text/csv"); res.StatusCode != 406 || !strings.Contains(string(body), "NOT_ACCEPTABLE") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if code, body := f.rest(t, "GET", "/v1/status", nil, "Accept", linesType); code != 406 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := f.rest(t, "GET", "/v1/kv/k", nil, "Accept", "image/png"); code != 406 {
		t.Errorf("%d %s", code, body)
	}
}

// TestLinesBreakOff has an error behind the first page: it is the last line, and no client takes the answer for the whole.
func TestLinesBreakOff(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.PageItems = 2 })
	for i := range 5 {
		f.rest(t, "PUT", fmt.Sprintf("/v1/kv/%d", i), nil)
	}
	pages := 0
	f.node.fail = func(*raftnode.Request) error {
		if pages++; pages == 3 {
			return raftnode.ErrReadFailed
		}
		return nil
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", f.url+"/v1/kv", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", linesType)
	res, err := f.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil {
		t.Errorf("the answer looks whole: %s", body)
	}
	lines := bytes.Split(bytes.TrimSpace(body), []byte("\n"))
	var last struct {
		Error *struct{ Details []struct{ Reason string } }
	}
	if len(lines) != 5 || json.Unmarshal(lines[4], &last) != nil || last.Error == nil || last.Error.Details[0].Reason != reasonReadFailed {
		t.Errorf("%d lines: %s", len(lines), body)
	}
}
