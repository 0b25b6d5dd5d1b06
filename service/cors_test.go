package service

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	connectcors "connectrpc.com/cors"
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
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Idempotency-Key") {
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

// unexposed are headers of answers that a page can read anyway, and such as are for browsers and what is between.
var unexposed = []string{
	"Cache-Control", "Content-Length", "Content-Type",
	"Connection", "Content-Security-Policy", "Timing-Allow-Origin", "Vary", "X-Accel-Buffering", "X-Content-Type-Options",
}

// TestHeadersAreExposed compares what pages may read with every header that the source of the service sets.
func TestHeadersAreExposed(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Origins = []string{"*"} })
	res, _ := f.restResponse(t, "GET", "/v1/status", nil, "Origin", "https://app.example")
	exposed := strings.Split(res.Header.Get("Access-Control-Expose-Headers"), ", ")
	set := headersSet(t)
	for _, name := range set {
		if !strings.HasPrefix(name, "Access-Control-") && !slices.Contains(unexposed, name) && !slices.Contains(exposed, name) {
			t.Errorf("pages cannot read %s", name)
		}
	}
	for _, name := range exposed {
		if !slices.Contains(set, name) && !slices.Contains(connectcors.ExposedHeaders(), name) {
			t.Errorf("%s is exposed, and nobody sets it", name)
		}
	}
}

// headersSet are the names with which the source of the service calls Set and Add: literals, and constants of the package.
func headersSet(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	constants := make(map[string]string)
	var calls []ast.Expr
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if len(n.Names) == 1 && len(n.Values) == 1 {
					constants[n.Names[0].Name] = literal(n.Values[0])
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && (f.Sel.Name == "Set" || f.Sel.Name == "Add") && len(n.Args) == 2 {
					calls = append(calls, n.Args[0])
				}
			}
			return true
		})
	}
	for _, arg := range calls {
		name := literal(arg)
		if id, ok := arg.(*ast.Ident); ok {
			name = constants[id.Name]
		}
		if name != "" { // else it is no header
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	return names
}

// literal is the value of a string as the source has it; empty if e is none.
func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		if s, err := strconv.Unquote(l.Value); err == nil {
			return s
		}
	}
	return ""
}
