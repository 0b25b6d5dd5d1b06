package service

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// A request that takes long is logged with its key and where its time went, on every protocol; one that does not is not.
func TestSlowRequests(t *testing.T) {
	var log bytes.Buffer
	f := newFixture(t, func(o *Options) {
		o.Logger, o.SlowRequest = slog.New(slog.NewJSONHandler(&log, nil)), time.Nanosecond
	})
	f.rest(t, "GET", "/v1/kv/none", nil)
	f.execCaller(t)(t, "", &raftkvv1.GetRequest{Key: "k"}, nil)
	f.service.Drain()
	for i, want := range []string{`"key":"none"`, `"key":"k"`} {
		line, _, _ := strings.Cut(log.String(), "\n")
		log.Next(len(line) + 1)
		var got struct {
			Msg, Operation, Code string
			Took                 int64
			Stages               map[string]int64
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Msg != "slow request" || got.Operation != "get" || got.Code != "not_found" {
			t.Fatalf("line %d: %v: %s", i, err, line)
		}
		if got.Took <= 0 || got.Stages["node"] <= 0 || got.Stages["node"] > got.Took || !strings.Contains(line, want) {
			t.Errorf("line %d: %s", i, line)
		}
	}
}

// Few lines are written however many requests are slow, and the next one says how many were left out.
func TestSlowLogIsBounded(t *testing.T) {
	var log bytes.Buffer
	l := newSlowLog(time.Second, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	if l.is(time.Second-1) || !l.is(time.Second) || newSlowLog(0, nil).is(time.Hour) {
		t.Error("the wrong requests are slow")
	}
	tell := func() {
		l.tell(t.Context(), opPut, codeOK, 2*time.Second, &stages{stageNode: time.Second}, strings.Repeat("k", 1000))
	}
	for range slowLinesMax + 5 {
		tell()
	}
	if got := strings.Count(log.String(), "slow request"); got != slowLinesMax || strings.Contains(log.String(), "omitted") {
		t.Errorf("%d lines:\n%s", got, &log)
	}
	log.Reset()
	now = now.Add(slowLinesPeriod)
	tell()
	want := "operation=put code=ok took=2s stages.node=1s key=" + strings.Repeat("k", slowSubjectBytes) + " omitted=5\n"
	if !strings.HasSuffix(log.String(), want) {
		t.Errorf("got %s, want %s", &log, want)
	}
}
