package service

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewAdmin returns what the admin listener serves: /metrics, /livez, /readyz (?verbose) and /debug/pprof. It is for
// operators and probes, and must not be reachable by clients.
func NewAdmin(s *Service, g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "raftkv admin\n\n/metrics\n/livez\n/readyz?verbose\n/debug/pprof/\n")
	})
	return mux
}

// NewAdminServer makes the server of the admin listener.
func NewAdminServer(s *Service, g prometheus.Gatherer, o ListenerOptions) *HTTPServer {
	return newHTTPServer(NewAdmin(s, g), o, uncounted(), s.logger)
}

// readyz is 200 iff the node lacks nothing and does not stop; else 503, and says what it lacks.
func (s *Service) readyz(w http.ResponseWriter, r *http.Request) {
	st := s.node.Status()
	lacks := st.NotReady
	if s.stopping() {
		lacks = append(lacks[:len(lacks):len(lacks)], "the node is stopping")
	}
	var b strings.Builder
	for _, what := range lacks {
		fmt.Fprintf(&b, "not ready: %s\n", what)
	}
	if r.URL.Query().Has("verbose") {
		fmt.Fprintf(&b, "node %s, cluster %s, up %s, log %d bytes, state %d bytes, sync_write %t\n",
			st.NodeID, st.ClusterID, st.Uptime, st.LogBytes, st.StateBytes, st.SyncWrite)
		for i := range st.Shards {
			sh := &st.Shards[i]
			fmt.Fprintf(&b, "shard %d: leader %q, term %d, commit %d, applied %d, durable %d, log %d to %d, revision %d\n",
				sh.ID, sh.Leader, sh.Term, sh.Commit, sh.Applied, sh.Durable, sh.FirstLogIndex, sh.LastIndex, sh.Revision)
		}
	}
	if len(lacks) > 0 {
		writeText(w, http.StatusServiceUnavailable, b.String())
		return
	}
	writeText(w, http.StatusOK, b.String()+"ok\n")
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // a prober that has gone needs no answer
}
