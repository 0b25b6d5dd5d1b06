package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// restDriver calls as curl does: raw values where there are, else JSON.
type restDriver struct {
	client *http.Client
	base   string
}

// call sends a request, and returns the answer and its body, or the reason for which it was refused.
func (d *restDriver) call(t *testing.T, method, path string, body []byte, headers ...string) (*http.Response, []byte, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, d.base+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusOK {
		return res, b, ""
	}
	var status struct{ Details []struct{ Reason string } }
	if err := json.Unmarshal(b, &status); err != nil || len(status.Details) == 0 || status.Details[0].Reason == "" {
		t.Fatalf("%s %s: %d without a reason: %s", method, path, res.StatusCode, b)
	}
	return res, b, status.Details[0].Reason
}

func (d *restDriver) do(t *testing.T, operation string, a map[string]any) (map[string]any, uint64, string) {
	return map[string]func(*testing.T, map[string]any) (map[string]any, uint64, string){
		"put": d.put, "get": d.get, "delete": d.delete, "scan": d.scan, "batch": d.batch, "txn": d.txn, "watch": d.watch, "grant": d.grant, "revoke": d.revoke,
	}[operation](t, a)
}

// key is the path of a key.
func (d *restDriver) key(a map[string]any, query url.Values) string {
	return "/v1/kv/" + url.PathEscape(textOf(a, "key")) + "?" + query.Encode()
}

// conditions of a write, as headers.
func (d *restDriver) conditions(a map[string]any) []string {
	switch {
	case a["ifAbsent"] == true:
		return []string{"If-None-Match", "*"}
	case a["ifExists"] == true:
		return []string{"If-Match", "*"}
	case a["ifRevision"] != nil:
		return []string{"If-Match", strconv.Quote(strconv.FormatUint(numberOf(a, "ifRevision"), 10))}
	}
	return nil
}

func (d *restDriver) put(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	query := url.Values{}
	if n := numberOf(a, "ttlMs"); n > 0 {
		query.Set("ttl", fmt.Sprintf("%dms", n))
	}
	if id := numberOf(a, "lease"); id > 0 {
		query.Set("lease", strconv.FormatUint(id, 10))
	}
	res, _, reason := d.call(t, "PUT", d.key(a, query), valueOf(t, a), d.conditions(a)...)
	return map[string]any{"version": header(res, "Raftkv-Version")}, header(res, "Raftkv-Revision"), reason
}

func header(res *http.Response, name string) uint64 {
	n, _ := strconv.ParseUint(res.Header.Get(name), 10, 64)
	return n
}

func (d *restDriver) get(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	query := url.Values{}
	if n := numberOf(a, "revision"); n > 0 {
		query.Set("revision", strconv.FormatUint(n, 10))
	}
	if a["stale"] == true {
		res, _, reason := d.call(t, "GET", d.key(a, nil), nil)
		if reason != "" {
			return nil, 0, reason
		}
		query.Set("consistency", "stale")
		query.Set("token", res.Header.Get("Raftkv-Token"))
	}
	res, value, reason := d.call(t, "GET", d.key(a, query), nil)
	return found(value, header(res, "Raftkv-Version")), header(res, "Raftkv-Mod-Revision"), reason
}

func (d *restDriver) delete(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	res, b, reason := d.call(t, "DELETE", d.key(a, nil), nil, d.conditions(a)...)
	var answer struct{ Deleted bool }
	d.read(t, b, &answer, reason)
	return map[string]any{"deleted": answer.Deleted}, header(res, "Raftkv-Revision"), reason
}

// read takes an answer apart, if there is one.
func (d *restDriver) read(t *testing.T, b []byte, answer any, reason string) {
	t.Helper()
	if reason != "" {
		return
	}
	if err := json.Unmarshal(b, answer); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}

type restItem struct {
	Key   string
	Value []byte
}

// scan reads lines, so that every limit is one of the whole.
func (d *restDriver) scan(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	query := url.Values{"prefix": {textOf(a, "prefix")}, "page_size": {"2"}}
	if n := numberOf(a, "limit"); n > 0 {
		query.Set("limit", strconv.FormatUint(n, 10))
	}
	if a["reverse"] == true {
		query.Set("reverse", "true")
	}
	_, b, reason := d.call(t, "GET", "/v1/kv?"+query.Encode(), nil, "Accept", "application/x-ndjson")
	items := [][]string{}
	for line := range bytes.Lines(b) {
		var item restItem
		d.read(t, line, &item, reason)
		items = append(items, []string{item.Key, string(item.Value)})
	}
	return map[string]any{"items": items}, 0, reason
}

// body is what JSON has for arguments: the same, with values in base64 and other names.
func (d *restDriver) body(t *testing.T, v any) any {
	switch v := v.(type) {
	case map[string]any:
		body := make(map[string]any)
		for name, field := range v {
			switch name {
			case "value", "value64":
				body["value"] = base64.StdEncoding.EncodeToString(valueOf(t, v))
			case "if":
				body["compare"] = d.body(t, field)
			case "revision":
				body["modRevision"] = strconv.FormatUint(numberOf(v, name), 10)
			default:
				body[name] = d.body(t, field)
			}
		}
		return body
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = d.body(t, v[i])
		}
		return list
	}
	return v
}

func (d *restDriver) post(t *testing.T, path string, a map[string]any, answer any) string {
	b, err := json.Marshal(d.body(t, a))
	if err != nil {
		t.Fatal(err)
	}
	_, b, reason := d.call(t, "POST", path, b)
	d.read(t, b, answer, reason)
	return reason
}

func (d *restDriver) batch(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	var answer struct{ Results []any }
	reason := d.post(t, "/v1/batch", a, &answer)
	return map[string]any{"applied": len(answer.Results)}, 0, reason
}

func (d *restDriver) txn(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	var answer struct {
		Succeeded bool
		Results   []struct {
			Get *struct{ Kv *restItem }
		}
	}
	reason := d.post(t, "/v1/txn", a, &answer)
	gets := []any{}
	for _, r := range answer.Results {
		switch {
		case r.Get == nil:
		case r.Get.Kv == nil:
			gets = append(gets, nil)
		default:
			gets = append(gets, string(r.Get.Kv.Value))
		}
	}
	return map[string]any{"succeeded": answer.Succeeded, "gets": gets}, 0, reason
}

// watch reads server-sent events.
func (d *restDriver) watch(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	query := url.Values{"prefix": {textOf(a, "prefix")}}
	if n := numberOf(a, "from"); n > 0 {
		query.Set("revision", strconv.FormatUint(n, 10))
	}
	if a["initial"] == true {
		query.Set("initial", "true")
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", d.base+"/v1/watch?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		_, _, reason := d.call(t, "GET", "/v1/watch?"+query.Encode(), nil)
		return nil, 0, reason
	}
	events := [][]string{}
	kind, lines := "", bufio.NewScanner(res.Body)
	for len(events) < int(numberOf(a, "count")) && lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			kind = name
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || kind != "put" && kind != "delete" {
			continue
		}
		var event struct {
			Kv      restItem
			Initial bool
		}
		d.read(t, []byte(data), &event, "")
		if event.Initial {
			kind = "initial"
		}
		events = append(events, []string{kind, event.Kv.Key, string(event.Kv.Value)})
	}
	return map[string]any{"events": events}, 0, ""
}

func (d *restDriver) grant(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	var answer struct {
		Lease struct {
			ID uint64 `json:"id,string"`
		}
	}
	reason := d.post(t, "/v1/leases", map[string]any{"ttlMs": strconv.FormatUint(numberOf(a, "ttlMs"), 10)}, &answer)
	return map[string]any{}, answer.Lease.ID, reason
}

func (d *restDriver) revoke(t *testing.T, a map[string]any) (map[string]any, uint64, string) {
	_, _, reason := d.call(t, "DELETE", fmt.Sprintf("/v1/leases/%d", numberOf(a, "lease")), nil)
	return map[string]any{}, 0, reason
}
