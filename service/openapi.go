package service

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/raftkv/raftkv/gen/openapi"
)

// Where the description of the REST API is: for programs, and for people.
const (
	openAPIPath = "/openapi.json"
	docsPath    = "/docs"
)

//go:embed openapi.html.tmpl
var docsTemplate string

// renderDocs makes the page of the description. It is HTML without scripts or anything from elsewhere, so a node needs no assets and a
// page no permissions.
func renderDocs() ([]byte, error) {
	var document apiDocument
	if err := json.Unmarshal(openapi.Document, &document); err != nil {
		return nil, fmt.Errorf("read the description of the REST API: %w", err)
	}
	t, err := template.New("docs").Funcs(template.FuncMap{"prose": prose, "name": schemaName}).Parse(docsTemplate)
	if err != nil {
		return nil, fmt.Errorf("read the page of the REST API: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, &document); err != nil {
		return nil, fmt.Errorf("write the page of the REST API: %w", err)
	}
	return b.Bytes(), nil
}

// serveDocument serves a page or document that never changes while the process lives.
func serveDocument(w http.ResponseWriter, r *http.Request, kind string, body []byte) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, &methodError{method: r.Method, path: r.URL.Path, allow: "GET, HEAD"})
		return
	}
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // a client that has gone needs no answer
	}
}

// apiDocument is what the page shows of an OpenAPI 2.0 document.
type apiDocument struct {
	Tags        []struct{ Name, Description string }
	Paths       map[string]map[string]*apiOperation
	Definitions map[string]*apiSchema
}

type apiOperation struct {
	Method, Path string `json:"-"`
	Summary      string
	Tags         []string
	Produces     []string
	Parameters   []struct {
		Name, In, Description, Type, Format string
		Required                            bool
		Schema                              *apiSchema
	}
	Responses map[string]struct {
		Description string
		Schema      *apiSchema
	}
}

type apiSchema struct {
	Ref         string `json:"$ref"`
	Type        string
	Format      string
	Description string
	Enum        []string
	Items       *apiSchema
	Properties  map[string]*apiSchema
}

// Operations are those of a tag, by path.
func (d *apiDocument) Operations(tag string) []*apiOperation {
	var all []*apiOperation
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range []string{"get", "put", "post", "delete"} {
			if o := d.Paths[path][method]; o != nil && slices.Contains(o.Tags, tag) {
				o.Method, o.Path = strings.ToUpper(method), path
				all = append(all, o)
			}
		}
	}
	return all
}

// Kind says what a schema is, for people; Target is the definition that says more, if there is one.
func (s *apiSchema) Kind() string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return schemaName(s.Target())
	case s.Items != nil:
		return s.Items.Kind() + "[]"
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	}
	return s.Type
}

// Target is the definition that a schema, or what it is a list of, refers to.
func (s *apiSchema) Target() string {
	if s == nil {
		return ""
	}
	if s.Ref == "" {
		return s.Items.Target()
	}
	return strings.TrimPrefix(s.Ref, "#/definitions/")
}

// schemaName leaves out how the generator tells packages apart.
func schemaName(definition string) string {
	for _, prefix := range []string{"raftkvV1", "googleRpc", "protobuf", "v1"} {
		if name, ok := strings.CutPrefix(definition, prefix); ok {
			return name
		}
	}
	return definition
}

// prose shows what stands between backticks as code, and empty lines and bullets as the contract has them.
func prose(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(html.EscapeString(strings.TrimSpace(text)), "`") {
		if i%2 == 1 {
			b.WriteString("<code>" + part + "</code>")
			continue
		}
		part = strings.ReplaceAll(part, "\n\n - ", "<br>– ")
		part = strings.ReplaceAll(part, "\n - ", "<br>– ")
		b.WriteString(strings.ReplaceAll(part, "\n\n", "<br><br>"))
	}
	return template.HTML(b.String()) //nolint:gosec // escaped above
}
