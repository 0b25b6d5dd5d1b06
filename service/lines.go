package service

import (
	"bytes"
	"fmt"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// listPath is the route of ranges: a page as JSON, or all of it as lines.
const listPath = "/v1/kv"

// linesNames are the query parameters of a range as lines: the fields of a scan, and the short names that a List has for its range.
var linesNames = func() map[string]bool {
	names := fieldNames(new(raftkvv1.ScanRequest).ProtoReflect().Descriptor())
	for short := range linesShortNames {
		names[short] = true
	}
	return names
}()

var linesShortNames = map[string]string{"prefix": "range.prefix", "start": "range.start", "end": "range.end"}

// wantsLines says whether a request is for a range as lines, which is a stream.
func wantsLines(r *http.Request, path string) bool {
	if path != listPath || r.Method != http.MethodGet {
		return false
	}
	form, err := negotiate(r, jsonType, linesType)
	return err == nil && form == linesType
}

// serveLines streams a range as newline-delimited JSON, a key and its value a line. An error before the first page is an answer like any
// other. One after is the last line, and the answer breaks off behind it, so that no client takes what came for the whole.
func (h *rest) serveLines(w http.ResponseWriter, r *http.Request) {
	out := &lineWriter{service: h.kv.Service, writer: w}
	err := func() error {
		req := new(raftkvv1.ScanRequest)
		query, err := longNames(r.URL, linesNames, linesShortNames)
		if err != nil {
			return err
		}
		if err := runtime.PopulateQueryParameters(req, query, utilities.NewDoubleArray(nil)); err != nil {
			return &malformedError{part: "query", problem: err.Error()}
		}
		if _, err := readBody(r, 0); err != nil { // and the request is there
			return err
		}
		return h.kv.Scan(r.Context(), req, out.take)
	}()
	switch {
	case err == nil:
	case !out.begun:
		writeError(w, err)
	default:
		out.fail(failureOf(err))
		panic(http.ErrAbortHandler)
	}
}

// lineWriter writes pages as lines.
type lineWriter struct {
	service *Service
	writer  http.ResponseWriter
	begun   bool
	buffer  bytes.Buffer
}

func (o *lineWriter) take(res *raftkvv1.ScanResponse) error {
	if !o.begun {
		o.begun = true
		header := o.writer.Header()
		setAnswerHeaders(header, res.GetHeader())
		header.Set("Content-Type", linesType)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Add("Vary", "Accept")
		o.writer.WriteHeader(http.StatusOK)
	}
	for _, kv := range res.GetKvs() {
		b, err := restMarshaler.Marshal(kv)
		if err != nil {
			return err
		}
		o.buffer.Write(b)
		o.buffer.WriteByte('\n')
	}
	// Beside the page, which is in the budget already.
	return o.service.sendCounted(uint64(o.buffer.Len()), o.flush)
}

// fail writes why there are no more lines.
func (o *lineWriter) fail(f *failure) {
	o.buffer.Reset()
	if b, err := restMarshaler.Marshal(f.status()); err == nil {
		fmt.Fprintf(&o.buffer, "{\"error\":%s}\n", b)
	}
	_ = o.flush() // a client that has gone needs no answer
}

func (o *lineWriter) flush() error {
	_, err := o.writer.Write(o.buffer.Bytes())
	o.buffer.Reset()
	if err == nil {
		err = http.NewResponseController(o.writer).Flush()
	}
	return untaken(err)
}
