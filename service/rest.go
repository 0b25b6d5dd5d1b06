package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// restRoute is a route of the JSON resources, which the gateway serves.
type restRoute struct {
	method, path, does string
	// query is the message whose fields may be given as query parameters; nil if none may.
	query proto.Message
}

// restRoutes list what the contract's annotations say, for help and for the refusal of unknown query parameters, which
// the gateway would ignore. TestRoutesMatchContract holds the two together. Get and Delete of a key are in raw.go.
var restRoutes = []restRoute{
	{http.MethodGet, listPath, "list keys: ?prefix= or ?start=&end=, limit, reverse, keys_only, page_token, revision; Accept: application/x-ndjson streams all of them", new(raftkvv1.ListRequest)},
	{http.MethodPost, "/v1/kv", `write a key by JSON: {"key":"a","value":"<base64>"}, or if it does not exist: "condition":{"exists":false}, or has not changed: {"modRevision":"7"}`, nil},
	{http.MethodPost, "/v1/batch", `write and delete keys atomically: {"operations":[{"put":{"key":"a","value":"<base64>"}},{"delete":{"key":"b"}}]}`, nil},
	{http.MethodPost, "/v1/txn", `compare keys, then do one thing or another: {"compare":[{"key":"a","modRevision":"7"}],"then":[{"put":{"key":"a","value":"<base64>"}}],"else":[{"get":{"key":"a"}}]}`, nil},
	{http.MethodPost, "/v1/outcome", `say what came of a write whose answer was lost, and keep it so: {"requestId":{"clientId":"<base64>","sequence":"7","seen":"40"},"key":"a"}`, nil},
	{http.MethodGet, "/v1/status", "describe this node", new(raftkvv1.StatusRequest)},
	{http.MethodGet, "/v1/nodes", "list the nodes", new(raftkvv1.ListNodesRequest)},
	{http.MethodGet, "/v1/shards", "list the shards", new(raftkvv1.ListShardsRequest)},
	{http.MethodGet, "/v1/locate", "say where a key lives: ?key=", new(raftkvv1.LocateKeyRequest)},
	{http.MethodGet, "/v1/limits", "show the bounds of requests", new(raftkvv1.GetLimitsRequest)},
	{http.MethodPost, "/v1/shards/{shard}:transferLeader", `hand the lead of a shard over: {"nodeId":"n2"}`, nil},
	{http.MethodPost, "/v1/leases", `grant a lease: {"ttlMs":"30000"}`, nil},
	{http.MethodGet, "/v1/leases", "list the leases: limit, page_token", new(raftkvv1.ListLeasesRequest)},
	{http.MethodGet, "/v1/leases/{id}", "show a lease: keys=true, keys_after", new(raftkvv1.GetLeaseRequest)},
	{http.MethodPost, "/v1/leases/{id}:keepAlive", "let a lease live on", nil},
	{http.MethodDelete, "/v1/leases/{id}", "end a lease, and remove its keys", new(raftkvv1.RevokeRequest)},
}

// rest serves everything under /v1/.
type rest struct {
	kv      kv
	limits  Limits
	gateway *runtime.ServeMux
}

func newREST(s *Service) (*rest, error) {
	h := &rest{kv: kv{s}, limits: s.limits}
	drop := func(string) (string, bool) { return "", false } // no header of a client means anything to the service
	h.gateway = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, restMarshaler),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllCharacters),
		runtime.WithIncomingHeaderMatcher(drop),
		runtime.WithOutgoingHeaderMatcher(drop),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithErrorHandler(gatewayError),
		runtime.WithForwardResponseOption(func(_ context.Context, w http.ResponseWriter, m proto.Message) error {
			if answer, ok := m.(interface {
				GetHeader() *raftkvv1.ResponseHeader
			}); ok {
				setReplayed(w.Header(), answer.GetHeader().GetReplayed())
			}
			return nil
		}),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int) {
			writeError(w, &routeError{r.URL.Path})
		}),
	)
	return h, errors.Join(
		raftkvv1.RegisterKvServiceHandlerServer(context.Background(), h.gateway, grpcKV{kv: kv{s}}),
		raftkvv1.RegisterClusterServiceHandlerServer(context.Background(), h.gateway, grpcCluster{cluster: cluster{s}}),
		raftkvv1.RegisterLeaseServiceHandlerServer(context.Background(), h.gateway, grpcLeases{leases: leases{s}}),
	)
}

// serve answers a request whose escaped path begins with /v1/. Everything behind /v1/kv/ is a key, as it stands.
func (h *rest) serve(w http.ResponseWriter, r *http.Request, path string) {
	r, cancel, err := withTimeoutHeader(r)
	if err != nil {
		writeError(w, err)
		return
	}
	defer cancel()
	if key, ok := strings.CutPrefix(path, "/v1/kv/"); ok {
		h.serveKey(w, r, key)
		return
	}
	if path == watchPath {
		h.serveWatch(w, r)
		return
	}
	if wantsLines(r, path) {
		h.serveLines(w, r)
		return
	}
	if err := h.prepare(r, path); err != nil {
		writeError(w, err)
		return
	}
	h.gateway.ServeHTTP(w, r)
}

// prepare refuses what the gateway would misread, and reads the body within its bound.
func (h *rest) prepare(r *http.Request, path string) error {
	route, allowed := findRoute(r.Method, path)
	if route == nil {
		if len(allowed) == 0 {
			return &routeError{path}
		}
		return &methodError{method: r.Method, path: path, allow: strings.Join(allowed, ", ")}
	}
	var names map[string]bool
	if route.query != nil {
		names = fieldNames(route.query.ProtoReflect().Descriptor())
		delete(names, route.variable())
	}
	if err := checkQuery(r.URL, names); err != nil {
		return err
	}
	r.URL = spellOut(r.URL)
	if route.method == http.MethodGet {
		_, err := negotiate(r, route.forms()...)
		return err
	}
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if r.Header.Values(name) != nil { // to ignore it would be to overwrite
			return &raftnode.InvalidError{Field: name, Problem: "is for /v1/kv/KEY; in JSON, a condition is a field"}
		}
	}
	if err := checkEncoding(r); err != nil {
		return err
	}
	body, err := readBody(r, h.limits.RequestBytes)
	if err != nil {
		return err
	}
	if route.bare() && len(body) > 0 {
		return &malformedError{part: "body", problem: route.method + " " + route.path + " takes none"}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// forms are those in which the gateway or serveLines answers a GET.
func (r *restRoute) forms() []string {
	if r.path == listPath {
		return []string{jsonType, linesType}
	}
	return []string{jsonType}
}

// bare says whether a route of a method other than GET takes no body.
func (r *restRoute) bare() bool {
	return r.method == http.MethodDelete || strings.HasSuffix(r.path, ":keepAlive")
}

// variable is the name of the variable in the path of a route; empty if it has none.
func (r *restRoute) variable() string {
	_, name, _ := strings.Cut(r.path, "{")
	name, _, _ = strings.Cut(name, "}")
	return name
}

// findRoute returns the route of a path, or the methods that it would take.
func findRoute(method, path string) (route *restRoute, allowed []string) {
	for i := range restRoutes {
		prefix, suffix, wild := strings.Cut(restRoutes[i].path, "{"+restRoutes[i].variable()+"}")
		match := path == prefix
		if wild {
			match = len(path) > len(prefix)+len(suffix) && strings.HasPrefix(path, prefix) && strings.HasSuffix(path, suffix)
		}
		if !match {
			continue
		}
		if restRoutes[i].method == method {
			return &restRoutes[i], nil
		}
		allowed = append(allowed, restRoutes[i].method)
	}
	return nil, allowed
}

// fieldNames are the names of a message's fields in queries and JSON; those of messages in it are named as the gateway does.
func fieldNames(m protoreflect.MessageDescriptor) map[string]bool {
	names := make(map[string]bool)
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Message() == nil {
			names[string(f.Name())], names[f.JSONName()] = true, true
			continue
		}
		for name := range fieldNames(f.Message()) {
			names[string(f.Name())+"."+name], names[f.JSONName()+"."+name] = true, true
		}
	}
	return names
}

// checkQuery refuses parameters that are not names, and ones that come twice.
func checkQuery(u *url.URL, names map[string]bool) error {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return &malformedError{part: "query", problem: err.Error()}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case !names[name]:
			problem := fmt.Sprintf("there is no parameter %q here", name)
			if len(names) > 0 {
				problem += "; there are " + strings.Join(slices.Sorted(maps.Keys(names)), ", ")
			}
			return &malformedError{part: "query", problem: problem}
		case len(values[name]) > 1:
			return &malformedError{part: "query", problem: fmt.Sprintf("parameter %q comes more than once", name)}
		}
	}
	return nil
}

// spellOut lets a query say consistency=stale for CONSISTENCY_STALE, as the gateway wants it.
func spellOut(u *url.URL) *url.URL {
	const name, prefix = "consistency", "CONSISTENCY_"
	query := u.Query()
	value := strings.ToUpper(query.Get(name))
	if value == "" || strings.HasPrefix(value, prefix) || strings.Trim(value, "0123456789") == "" {
		return u
	}
	query.Set(name, prefix+value)
	spelt := *u
	spelt.RawQuery = query.Encode()
	return &spelt
}

// longNames reads the query of a route whose parameters have the names, some of which are short for others.
func longNames(u *url.URL, names map[string]bool, short map[string]string) (url.Values, error) {
	if err := checkQuery(u, names); err != nil {
		return nil, err
	}
	query := spellOut(u).Query()
	for name, long := range short {
		value, ok := query[name]
		if !ok {
			continue
		}
		if query.Has(long) {
			return nil, &malformedError{part: "query", problem: fmt.Sprintf("%q and %q are the same; send one of them", name, long)}
		}
		query[long] = value
		delete(query, name)
	}
	return query, nil
}

func checkEncoding(r *http.Request) error {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &mediaTypeError{header: "Content-Encoding", got: e, want: "the body uncompressed"}
	}
	return nil
}

// bodyBytesFirst is the memory that a body gets before any of it has come.
const bodyBytesFirst = 64 << 10

// readBody reads a body of at most limit bytes, and no more than that into memory. What is announced and does not come takes none.
func readBody(r *http.Request, limit uint64) ([]byte, error) {
	if n := r.ContentLength; n > 0 && uint64(n) > limit {
		return nil, &requestSizeError{limit: limit, actual: uint64(n)}
	}
	var b bytes.Buffer
	if n := r.ContentLength; n > 0 {
		b.Grow(int(min(n, bodyBytesFirst)) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(r.Body, int64(limit)+1))
	var refused *failure
	if errors.As(err, &refused) {
		return nil, refused
	}
	if err != nil {
		return nil, &malformedError{part: "body", problem: err.Error()}
	}
	if uint64(n) > limit {
		return nil, &requestSizeError{limit: limit, actual: uint64(n)}
	}
	return b.Bytes(), nil
}

// withTimeoutHeader applies Connect-Timeout-Ms or Grpc-Timeout. The default timeout comes later and bounds both.
func withTimeoutHeader(r *http.Request) (*http.Request, context.CancelFunc, error) {
	name, text, unit := "Connect-Timeout-Ms", r.Header.Get("Connect-Timeout-Ms"), time.Millisecond
	if text == "" {
		if name, text = "Grpc-Timeout", r.Header.Get("Grpc-Timeout"); text == "" {
			return r, func() {}, nil
		}
		units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}
		unit, text = units[text[len(text)-1]], text[:len(text)-1]
		r.Header.Del("Grpc-Timeout") // the gateway need not look again
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || unit == 0 {
		return nil, nil, &malformedError{part: name + " header", problem: "it is a number of milliseconds, or for Grpc-Timeout a number and H, M, S, m, u or n"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(min(n, uint64(24*time.Hour/unit)))*unit)
	return r.WithContext(ctx), cancel, nil
}

// restMarshaler writes every field, so that a reader sees what there is, and refuses unknown ones.
var restMarshaler = &strictJSON{runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true}}}

// strictJSON decodes a body as one JSON value. The gateway's decoder would stop behind the first and ignore the rest.
type strictJSON struct{ runtime.JSONPb }

// NewDecoder decodes one message.
func (m *strictJSON) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		b, err := io.ReadAll(r) // bounded by prepare
		if err != nil {
			return err
		}
		message, ok := v.(proto.Message)
		if !ok {
			return m.Unmarshal(b, v)
		}
		return protojson.Unmarshal(b, message)
	})
}

// gatewayError answers with an error that the gateway met: a *failure, or a status of its own about the request's form.
func gatewayError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	var f *failure
	if !errors.As(err, &f) {
		err = &malformedError{part: "request", problem: status.Convert(err).Message()}
	}
	writeError(w, err)
}

// writeError answers in the shape of the gateway: {"code":…,"message":…,"details":[…]}.
func writeError(w http.ResponseWriter, err error) {
	f := failureOf(err)
	header := w.Header()
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int((f.retryAfter+time.Second-1)/time.Second)))
	}
	var method *methodError
	if errors.As(err, &method) {
		header.Set("Allow", method.allow)
	}
	setReplayed(header, f.replayed)
	if d, ok := f.detail.(*raftkvv1.PreconditionFailed); ok && d.GetCurrent() > 0 {
		setTag(header, d.GetCurrent())
	}
	writeJSON(w, f.http, f.status())
}

func writeJSON(w http.ResponseWriter, code int, m proto.Message) {
	b, err := restMarshaler.Marshal(m)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"code":13,"message":"the answer cannot be written as JSON","details":[]}`)
	}
	header := w.Header()
	header.Set("Content-Type", jsonType)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(code)
	_, _ = w.Write(b) // a client that has gone needs no answer
}
