package service

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/gen/openapi"
)

// handler is the root of the server listener. It is no http.ServeMux, which would clean paths and so change keys.
type handler struct {
	service *Service
	rpc     map[string]http.Handler
	rest    *rest
	docs    []byte // the page of the REST API
	errors  *connect.ErrorWriter
	guard   *http.CrossOriginProtection // nil if every origin may call
	cors    *cors                       // nil if none may
}

// Handler returns everything that the server listener serves: Connect, gRPC, gRPC-Web and REST.
func (s *Service) Handler() (http.Handler, error) {
	rest, err := newREST(s)
	if err != nil {
		return nil, err
	}
	docs, err := renderDocs()
	if err != nil {
		return nil, err
	}
	h := &handler{
		service: s, rpc: s.connectHandlers(), rest: rest, docs: docs,
		errors: connect.NewErrorWriter(s.connectOptions()...),
	}
	if h.cors, h.guard, err = newCORS(s.origins); err != nil {
		return nil, err
	}
	return h, nil
}

// ServeHTTP finds the room of a request by its escaped path.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.cors != nil && h.cors.serve(w, r) {
		return
	}
	path := r.URL.EscapedPath()
	rpc := h.rpc[path[:strings.LastIndexByte(path, '/')+1]]
	if h.guard != nil {
		if err := h.checkOrigin(r); err != nil {
			h.refuse(w, r, rpc != nil, err)
			return
		}
	}
	r = withKeyHeader(r)
	switch {
	case rpc != nil:
		h.serveRPC(w, r, path, rpc)
	case strings.HasPrefix(path, "/v1/"):
		h.serveREST(w, r, path)
	case path == openAPIPath:
		serveDocument(w, r, jsonType, openapi.Document)
	case path == docsPath:
		serveDocument(w, r, htmlType+"; charset=utf-8", h.docs)
	case path == "/":
		serveIndex(w, r, h.service)
	default:
		writeError(w, &routeError{path})
	}
}

// checkOrigin refuses what a page of an origin that is not configured has sent.
func (h *handler) checkOrigin(r *http.Request) error {
	if h.guard.Check(r) != nil {
		return &originError{r.Header.Get("Origin")}
	}
	if h.cors.allows(r.Header.Get("Origin")) {
		return nil
	}
	return checkHost(r)
}

// refuse answers with an error in the protocol of the request.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, rpc bool, err error) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // nobody reads the body
	}
	if !rpc {
		writeError(w, err)
		return
	}
	_ = h.errors.Write(w, r, failureOf(err)) // a client that has gone needs no answer
}

// serveREST passes a request on to the JSON resources and raw values.
func (h *handler) serveREST(w http.ResponseWriter, r *http.Request, path string) {
	stream := path == watchPath || wantsLines(r, path)
	x, r, err := h.service.begin(w, r, stream)
	if err != nil {
		h.refuse(w, r, false, err)
		return
	}
	defer x.finish(r)
	if stream {
		patient := newPatientWriter(w, h.service.transferTimeout)
		defer patient.close()
		w = patient
	}
	h.rest.serve(w, r, path)
	x.drain(r) // a body that was read to its end is no work
}

// serveRPC passes a request on to Connect.
func (h *handler) serveRPC(w http.ResponseWriter, r *http.Request, path string, rpc http.Handler) {
	switch {
	case path == raftkvv1connect.KvServiceExecProcedure:
		body := &meteredBody{ReadCloser: r.Body, budget: &h.service.budget}
		defer body.release()
		r.Body = body
	case strings.HasPrefix(path, "/grpc."): // small messages
	default:
		h.serveCall(w, r, path, rpc)
		return
	}
	patient := newPatientWriter(w, h.service.transferTimeout)
	defer patient.close()
	rpc.ServeHTTP(patient, r)
}

// serveCall serves a request of one message. One that is too long is refused here, because Connect's own refusal carries no
// details and reads it to its end.
func (h *handler) serveCall(w http.ResponseWriter, r *http.Request, path string, rpc http.Handler) {
	stream := path == raftkvv1connect.KvServiceScanProcedure || path == raftkvv1connect.WatchServiceWatchProcedure
	x, r, err := h.service.begin(w, r, stream)
	if err != nil {
		h.refuse(w, r, true, err)
		return
	}
	defer x.finish(r)
	if r.Method == http.MethodPost {
		if err := h.checkLength(r); err != nil {
			h.refuse(w, r, true, err)
			x.drain(r)
			return
		}
	}
	if !stream {
		rpc.ServeHTTP(w, r)
		return
	}
	patient := newPatientWriter(w, h.service.transferTimeout)
	defer patient.close()
	rpc.ServeHTTP(patient, r)
}

// checkLength looks at the length of the only message of a request: in Content-Length, in the prefix of the message, or,
// if the request has neither, by reading it.
func (h *handler) checkLength(r *http.Request) error {
	const prefixBytes = 5 // flags, length
	limit := h.service.limits.RequestBytes
	if n := r.ContentLength; n > 0 && uint64(n) > limit+prefixBytes {
		return &requestSizeError{limit: limit, actual: uint64(n)}
	}
	kind := r.Header.Get("Content-Type")
	if !strings.HasPrefix(kind, "application/grpc") && !strings.HasPrefix(kind, "application/connect+") {
		if r.ContentLength >= 0 {
			return nil
		}
		body, err := readBody(r, limit)
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	prefix := make([]byte, prefixBytes)
	n, err := io.ReadFull(r.Body, prefix)
	if err == nil {
		if n := uint64(binary.BigEndian.Uint32(prefix[1:])); n > limit {
			return &requestSizeError{limit: limit, actual: n}
		}
	}
	r.Body = &prefixedBody{Reader: io.MultiReader(bytes.NewReader(prefix[:n]), r.Body), Closer: r.Body}
	return nil // what is wrong with a shorter one, Connect says
}

// prefixedBody is a body of which something had been read.
type prefixedBody struct {
	io.Reader
	io.Closer
}

// serveIndex says what is here.
func serveIndex(w http.ResponseWriter, r *http.Request, s *Service) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, &methodError{method: r.Method, path: "/", allow: "GET, HEAD"})
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "raftkv %s, node %s\n\nREST\n", s.version, s.node.Status().NodeID)
	line := func(method, path, does string) { fmt.Fprintf(&b, "  %-6s %-34s %s\n", method, path, does) }
	line("GET", "/v1/kv/KEY", "print the value of a key; Accept: application/json shows its revisions, too")
	line("PUT", "/v1/kv/KEY", "write the body as the value of a key; If-None-Match: * if it does not exist, If-Match: ETAG if it has not changed")
	line("DELETE", "/v1/kv/KEY", "remove a key; If-Match: ETAG if it has not changed")
	line("GET", watchPath, "stream changes as server-sent events: ?key=, ?prefix= or ?start=&end=, revision, initial, prev; curl -N")
	for _, route := range restRoutes {
		line(route.method, route.path, route.does)
	}
	line("GET", openAPIPath, "describe all this, for programs; "+docsPath+" is the same for people")
	b.WriteString("\nConnect, gRPC and gRPC-Web\n")
	for _, name := range serviceNames() {
		line("POST", "/"+name+"/METHOD", "")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, b.String()) // a client that has gone needs no answer
}
