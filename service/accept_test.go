package service

import (
	"errors"
	"net/http"
	"testing"
)

func TestNegotiate(t *testing.T) {
	const none = "none"
	for _, c := range []struct {
		accept []string
		want   string
	}{
		{nil, octetsType},
		{[]string{""}, octetsType},
		{[]string{"*/*"}, octetsType},
		{[]string{"application/*"}, octetsType},
		{[]string{"application/json"}, jsonType},
		{[]string{"Application/JSON; charset=utf-8"}, jsonType},
		{[]string{"application/json, */*"}, jsonType},
		{[]string{"*/*", "application/json"}, jsonType},
		{[]string{"application/json, application/octet-stream"}, octetsType},
		{[]string{"application/json;q=0.5, */*"}, octetsType},
		{[]string{"application/json;q=0.9, application/octet-stream;q=0.8"}, jsonType},
		{[]string{"application/octet-stream;q=0, */*"}, jsonType},
		{[]string{"application/json;q=0, */*;q=0.1"}, octetsType},
		{[]string{"text/html, application/*;q=0.2"}, octetsType},
		{[]string{"text/html,application/xhtml+xml,*/*;q=0.8"}, octetsType},
		{[]string{"text/html"}, none},
		{[]string{"image/*, text/plain"}, none},
		{[]string{"application/json;q=0, application/octet-stream;q=0"}, none},
		{[]string{"nonsense;;="}, octetsType},
		{[]string{"nonsense;;=, application/json"}, jsonType},
		{[]string{"application/json;q=much, application/octet-stream"}, octetsType},
	} {
		got, err := negotiate(&http.Request{Header: http.Header{"Accept": c.accept}}, octetsType, jsonType)
		var refused *notAcceptableError
		if errors.As(err, &refused) {
			got = none
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.accept, got, c.want)
		}
	}
}
