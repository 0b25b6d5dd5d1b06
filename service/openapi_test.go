package service

import (
	"regexp"
	"strings"
	"testing"

	"github.com/raftkv/raftkv/gen/openapi"
)

// TestDocs holds the page of the REST API to the document: every route and schema is on it, and every link leads somewhere.
func TestDocs(t *testing.T) {
	f := newFixture(t)
	res, body := f.restResponse(t, "GET", docsPath, nil)
	page := string(body)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	for _, r := range restRoutes {
		if !strings.Contains(page, `<span class="path">`+r.path+`</span>`) {
			t.Errorf("%s %s is not on the page", r.method, r.path)
		}
	}
	links := regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(page, -1)
	for _, link := range links {
		if !strings.Contains(page, `id="`+link[1]+`"`) {
			t.Errorf("%s leads nowhere", link[0])
		}
	}
	if len(links) < 50 || strings.Contains(page, "<script") {
		t.Errorf("%d links", len(links))
	}
	for _, path := range []string{docsPath, openAPIPath} {
		if code, _ := f.rest(t, "POST", path, nil); code != 405 {
			t.Errorf("POST %s: %d", path, code)
		}
	}
	if res, _ := f.restResponse(t, "HEAD", openAPIPath, nil); res.ContentLength != int64(len(openapi.Document)) {
		t.Errorf("%d bytes, want %d", res.ContentLength, len(openapi.Document))
	}
}
