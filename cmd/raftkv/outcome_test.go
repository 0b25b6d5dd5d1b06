package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// sendTo makes a REST request of a node. The header of it may be empty.
func sendTo(t *testing.T, c *config, method, path, key, body string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+hostPort("127.0.0.1", c.Port)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// A write under an idempotency key is done once, through whatever node it comes again.
func TestIdempotencyKeyThroughEveryNode(t *testing.T) {
	configs := startCluster(t, 3, 2)
	revisions := make(map[string]bool)
	for round := range 2 {
		for i, c := range configs {
			res, body := sendTo(t, c, "PUT", "/v1/kv/stock?prev_kv=true", "order-1", "99")
			if res.StatusCode != 200 {
				t.Fatalf("%d: %s", res.StatusCode, body)
			}
			revisions[res.Header.Get("Raftkv-Revision")+"/"+res.Header.Get("Raftkv-Version")] = true
			if want := round+i > 0; (res.Header.Get("Idempotency-Replayed") == "true") != want {
				t.Errorf("round %d, node %d: replayed is not %t: %s", round, i, want, body)
			}
		}
	}
	if len(revisions) != 1 {
		t.Errorf("several answers: %v", revisions)
	}
	if res, body := sendTo(t, configs[1], "PUT", "/v1/kv/stock", "order-1", "98"); res.StatusCode != 422 || !strings.Contains(body, "IDEMPOTENCY_KEY_REUSED") {
		t.Errorf("another write: %d %s", res.StatusCode, body)
	}
	if res, body := sendTo(t, configs[2], "DELETE", "/v1/kv/stock?condition.exists=false", "order-2", ""); res.StatusCode != 412 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if res, body := sendTo(t, configs[0], "DELETE", "/v1/kv/stock?condition.exists=false", "order-2", ""); res.StatusCode != 412 || res.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// What came of a write is the same wherever it is asked, and a write that is said not to be applied is refused everywhere.
func TestGetOutcomeThroughEveryNode(t *testing.T) {
	configs := startCluster(t, 3, 2)
	const id = `{"clientId":"MDEyMzQ1Njc4OWFiY2RlZg==","sequence":"%d"}`
	ask := func(c *config, sequence int) (outcome, revision string) {
		t.Helper()
		res, body := sendTo(t, c, "POST", "/v1/outcome", "", fmt.Sprintf(`{"requestId":`+id+`,"key":"k"}`, sequence))
		var answer struct{ Outcome, Revision string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || res.StatusCode != 200 {
			t.Fatalf("%d %s: %v", res.StatusCode, body, err)
		}
		return answer.Outcome, answer.Revision
	}
	put := func(c *config, sequence int) (*http.Response, string) {
		t.Helper()
		return sendTo(t, c, "POST", "/v1/kv", "", fmt.Sprintf(`{"key":"k","value":"MQ==","requestId":`+id+`}`, sequence))
	}
	res, body := put(configs[0], 1)
	if res.StatusCode != 200 {
		t.Fatal(body)
	}
	for _, c := range configs {
		if outcome, revision := ask(c, 1); outcome != "OUTCOME_APPLIED" || !strings.Contains(body, `"revision":"`+revision+`"`) {
			t.Errorf("%s at %s of %s", outcome, revision, body)
		}
		if outcome, _ := ask(c, 2); outcome != "OUTCOME_NOT_APPLIED" {
			t.Error(outcome)
		}
		if res, body := put(c, 2); res.StatusCode != 409 || !strings.Contains(body, "REQUEST_FENCED") {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
}
