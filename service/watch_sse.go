package service

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

const (
	// watchPath is the route of watches as server-sent events.
	watchPath = "/v1/watch"
	// keepAlive is how often a comment is sent when there is nothing else: proxies close connections on which nothing comes.
	keepAlive = 15 * time.Second
	// eventRetryMs is when a browser comes again whose stream has ended.
	eventRetryMs = 1000
)

// watchNames are the query parameters of a watch: the fields of its request, and short names of two.
var watchNames = func() map[string]bool {
	names := fieldNames(new(raftkvv1.WatchRequest).ProtoReflect().Descriptor())
	for short := range watchShortNames {
		names[short] = true
	}
	return names
}()

var watchShortNames = map[string]string{"initial": "include_initial", "prev": "prev_kv"}

// serveWatch streams a watch as server-sent events. An error before the first of them is an answer like any other; one after is an event, too.
func (h *rest) serveWatch(w http.ResponseWriter, r *http.Request) {
	s := h.kv.Service
	out := &eventWriter{service: s, writer: w}
	err := s.frameWatch(r.Context(), func() error {
		req, err := readWatch(r)
		if err != nil {
			return err
		}
		if _, err := readBody(r, 0); err != nil { // and the request is there
			return err
		}
		if err := s.rules.check(req); err != nil {
			return err
		}
		return s.follow(r.Context(), req, s.keepAlive, out.take)
	})
	switch {
	case err == nil || r.Context().Err() != nil: // The client has gone.
	case !out.begun:
		writeError(w, err)
	default:
		_ = out.event("error", "", failureOf(err).status()) // a client that has gone needs no answer
		_ = out.flush()
	}
}

// readWatch reads the request of a watch. Who comes again says so by Last-Event-ID, as browsers do.
func readWatch(r *http.Request) (*raftkvv1.WatchRequest, error) {
	if r.Method != http.MethodGet {
		return nil, &methodError{method: r.Method, path: watchPath, allow: http.MethodGet}
	}
	req := new(raftkvv1.WatchRequest)
	values, err := longNames(r.URL, watchNames, watchShortNames)
	if err != nil {
		return nil, err
	}
	if key, named := values["key"]; named && key[0] == "" { // as of a variable that is not set: it would be all keys
		return nil, &malformedError{part: "query", problem: "key is empty; name one, or leave it out to watch all"}
	}
	if err := runtime.PopulateQueryParameters(req, values, utilities.NewDoubleArray(nil)); err != nil {
		return nil, &malformedError{part: "query", problem: err.Error()}
	}
	if token := r.Header.Get("Last-Event-Id"); token != "" {
		req.Token = token
	}
	return req, nil
}

// eventWriter writes server-sent events.
type eventWriter struct {
	service *Service
	writer  http.ResponseWriter
	begun   bool
	buffer  bytes.Buffer
}

// take writes a batch, and then comments as long as nothing comes.
func (o *eventWriter) take(stream watchStream, b *raftnode.WatchBatch) error {
	o.begin()
	if b == nil {
		o.buffer.WriteString(": nothing new\n\n")
		return o.send()
	}
	res := o.service.watchResponse(b)
	if b.Created {
		fmt.Fprintf(&o.buffer, "retry: %d\n", eventRetryMs)
	}
	for i, e := range res.GetEvents() {
		name, id := "put", ""
		if e.GetType() == raftkvv1.EventType_EVENT_TYPE_DELETE {
			name = "delete"
		}
		// Only behind the last event of a revision is where to go on; a browser keeps the id before it until then.
		switch {
		case i+1 == len(res.GetEvents()) && b.InitialDone: // initial_done has it
		case i+1 == len(res.GetEvents()):
			id = stream.Token()
		case !e.GetInitial() && res.GetEvents()[i+1].GetRevision() != e.GetRevision():
			id = stream.TokenBehind(b, i)
		}
		if b.MoreOfRevision && e.GetRevision() == res.GetEvents()[len(res.GetEvents())-1].GetRevision() {
			id = ""
		}
		if err := o.event(name, id, e); err != nil {
			return err
		}
	}
	res.Events, res.Token = nil, stream.Token()
	for _, mark := range []struct {
		name string
		is   bool
	}{{"created", b.Created}, {"progress", len(b.Progress) > 0 && !b.Created}, {"initial_done", b.InitialDone}} {
		if !mark.is {
			continue
		}
		if err := o.event(mark.name, res.GetToken(), res); err != nil {
			return err
		}
	}
	return o.send()
}

// begin writes the head.
func (o *eventWriter) begin() {
	if o.begun {
		return
	}
	o.begun = true
	header := o.writer.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // what proxies that gather answers look at
	header.Set("X-Content-Type-Options", "nosniff")
	o.writer.WriteHeader(http.StatusOK)
}

// event adds an event to the buffer. Its data is one line.
func (o *eventWriter) event(name, id string, data proto.Message) error {
	b, err := restMarshaler.Marshal(data)
	if err != nil {
		return err
	}
	if id != "" {
		fmt.Fprintf(&o.buffer, "id: %s\n", id)
	}
	fmt.Fprintf(&o.buffer, "event: %s\ndata: %s\n\n", name, b)
	return nil
}

// send sends what is in the buffer.
func (o *eventWriter) send() error {
	return o.service.sendCounted(uint64(o.buffer.Len()), func() error { return o.flush() })
}

func (o *eventWriter) flush() error {
	_, err := o.writer.Write(o.buffer.Bytes())
	o.buffer.Reset()
	if o.buffer.Cap() > eventBufferBytes {
		o.buffer = bytes.Buffer{} // An idle watch keeps little.
	}
	if err == nil {
		err = http.NewResponseController(o.writer).Flush()
	}
	return untaken(err)
}

const eventBufferBytes = 16 << 10
