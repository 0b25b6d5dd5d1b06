package service

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// rawMethods are what /v1/kv/KEY takes.
const rawMethods = "GET, HEAD, PUT, DELETE"

// writeNames are the query parameters of a write, as the gateway names nested fields.
var writeNames = func() map[string]bool {
	names := make(map[string]bool)
	for name := range fieldNames(new(raftkvv1.RequestId).ProtoReflect().Descriptor()) {
		names["request_id."+name], names["requestId."+name] = true, true
	}
	for name := range fieldNames(new(raftkvv1.Condition).ProtoReflect().Descriptor()) {
		names["condition."+name] = true
	}
	names["prev_kv"], names["prevKv"] = true, true
	names["idempotency_key"], names["idempotencyKey"] = true, true
	return names
}()

// readNames are those of a read.
var readNames = func() map[string]bool {
	names := fieldNames(new(raftkvv1.GetRequest).ProtoReflect().Descriptor())
	delete(names, "key")
	return names
}()

// serveKey serves the raw value of a key. The key is everything behind /v1/kv/, unescaped once: slashes, dots and what was
// escaped are data.
func (h *rest) serveKey(w http.ResponseWriter, r *http.Request, escaped string) {
	conditions, err := readPreconditions(r.Header)
	if err == nil {
		err = conditions.explain(h.tryKey(w, r, escaped, &conditions))
	}
	if err != nil {
		writeError(w, err)
	}
}

func (h *rest) tryKey(w http.ResponseWriter, r *http.Request, escaped string, conditions *preconditions) error {
	key, err := url.PathUnescape(escaped)
	if err != nil {
		return &malformedError{part: "path", problem: err.Error()}
	}
	if r.Header.Get("Content-Range") != "" {
		return &unsupportedError{"Content-Range"} // to ignore it would be to overwrite
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.getKey(w, r, key, conditions)
	case http.MethodPut:
		return h.putKey(w, r, key, conditions)
	case http.MethodDelete:
		return h.deleteKey(w, r, key, conditions)
	default:
		return &methodError{method: r.Method, path: "/v1/kv/KEY", allow: rawMethods}
	}
}

func (h *rest) getKey(w http.ResponseWriter, r *http.Request, key string, conditions *preconditions) error {
	req := &raftkvv1.GetRequest{Key: key}
	if err := populate(r.URL, req, readNames); err != nil {
		return err
	}
	form, err := negotiate(r, octetsType, jsonType)
	if err != nil {
		return err
	}
	res, err := h.kv.Get(r.Context(), req)
	if err != nil {
		return err
	}
	unmodified, err := conditions.unmodified(res)
	if err != nil {
		return err
	}
	header := w.Header()
	setAnswerHeaders(header, res.GetHeader())
	setTag(header, res.GetKv().GetModRevision())
	header.Set("Raftkv-Create-Revision", strconv.FormatUint(res.GetKv().GetCreateRevision(), 10))
	header.Set("Raftkv-Version", strconv.FormatUint(res.GetKv().GetVersion(), 10))
	setLife(header, res.GetKv())
	header.Add("Vary", "Accept")
	if unmodified {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if form == jsonType {
		writeJSON(w, http.StatusOK, res)
		return nil
	}
	value := res.GetKv().GetValue()
	header.Set("Content-Type", octetsType)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(value)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(value) // a client that has gone needs no answer
	return nil
}

func (h *rest) putKey(w http.ResponseWriter, r *http.Request, key string, conditions *preconditions) error {
	req := &raftkvv1.PutRequest{Key: key}
	query, err := takeLife(r.URL, req)
	if err != nil {
		return err
	}
	if err := populateWrite(query, req, &req.Condition, conditions); err != nil {
		return err
	}
	if err := checkKey("key", key); err != nil {
		return err // before the body is read
	}
	if err := checkEncoding(r); err != nil {
		return err
	}
	value, err := readBody(r, h.limits.ValueBytes)
	if err != nil {
		var size *requestSizeError
		if errors.As(err, &size) {
			return &contentSizeError{limit: size.limit, actual: size.actual}
		}
		return err
	}
	req.Value = value
	res, err := h.kv.Put(r.Context(), req)
	if err != nil {
		return err
	}
	header := w.Header()
	setAnswerHeaders(header, res.GetHeader())
	setTag(header, res.GetHeader().GetRevision())
	header.Set("Raftkv-Create-Revision", strconv.FormatUint(res.GetCreateRevision(), 10))
	header.Set("Raftkv-Version", strconv.FormatUint(res.GetVersion(), 10))
	writeJSON(w, http.StatusOK, res)
	return nil
}

func (h *rest) deleteKey(w http.ResponseWriter, r *http.Request, key string, conditions *preconditions) error {
	req := &raftkvv1.DeleteRequest{Key: key}
	if err := populateWrite(r.URL, req, &req.Condition, conditions); err != nil {
		return err
	}
	res, err := h.kv.Delete(r.Context(), req)
	if err != nil {
		return err
	}
	setAnswerHeaders(w.Header(), res.GetHeader())
	writeJSON(w, http.StatusOK, res)
	return nil
}

// populateWrite reads request_id.client_id and its like from the query into a write m, and its condition from there or from the headers.
func populateWrite(u *url.URL, m proto.Message, condition **raftkvv1.Condition, headers *preconditions) error {
	if err := populate(u, m, writeNames); err != nil {
		return err
	}
	byHeader, err := headers.condition()
	switch {
	case err != nil:
		return err
	case byHeader == nil:
		return nil
	case *condition != nil:
		return &raftnode.InvalidError{Field: "condition", Problem: "comes by query and by header; send one of them"}
	}
	*condition = byHeader
	return nil
}

// populate reads the query into m. It refuses names that are not among those.
func populate(u *url.URL, m proto.Message, names map[string]bool) error {
	if u.RawQuery == "" {
		return nil
	}
	if err := checkQuery(u, names); err != nil {
		return err
	}
	u = spellOut(u)
	if err := runtime.PopulateQueryParameters(m, u.Query(), utilities.NewDoubleArray(nil)); err != nil {
		return &malformedError{part: "query", problem: err.Error()}
	}
	return nil
}

// setTag shows the version of a value.
func setTag(header http.Header, modRevision uint64) {
	header.Set("Etag", tagOf(modRevision))
	header.Set("Raftkv-Mod-Revision", strconv.FormatUint(modRevision, 10))
}

// setLife says how long a key lives, if that is not for ever.
func setLife(header http.Header, kv *raftkvv1.KeyValue) {
	if ttl := kv.GetTtlRemainingMs(); ttl != 0 {
		header.Set("Raftkv-Ttl-Remaining-Ms", strconv.FormatUint(ttl, 10))
	}
	if id := kv.GetLeaseId(); id != 0 {
		header.Set("Raftkv-Lease", strconv.FormatUint(id, 10))
	}
}

// setAnswerHeaders says who answered, from which state.
func setAnswerHeaders(header http.Header, h *raftkvv1.ResponseHeader) {
	header.Set("Raftkv-Cluster", h.GetClusterId())
	header.Set("Raftkv-Node", h.GetNodeId())
	header.Set("Raftkv-Shard", strconv.FormatUint(uint64(h.GetShard()), 10))
	header.Set("Raftkv-Term", strconv.FormatUint(h.GetTerm(), 10))
	header.Set("Raftkv-Index", strconv.FormatUint(h.GetRaftIndex(), 10))
	header.Set("Raftkv-Revision", strconv.FormatUint(h.GetRevision(), 10))
	header.Set("Raftkv-Role", strings.ToLower(strings.TrimPrefix(h.GetRole().String(), "ROLE_")))
	if h.GetFreshnessUnknown() {
		header.Set("Raftkv-Freshness-Ms", "unknown")
	} else {
		header.Set("Raftkv-Freshness-Ms", strconv.FormatUint(h.GetFreshnessMs(), 10))
	}
	header.Set("Raftkv-Token", h.GetToken())
	setReplayed(header, h.GetReplayed())
	header.Set("Cache-Control", "no-store") // a cache is not linearizable
}
