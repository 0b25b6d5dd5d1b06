package service

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	connectcors "connectrpc.com/cors"
)

// cors lets pages of configured origins call the service from a browser.
type cors struct {
	any                       bool
	origins                   []string
	methods, headers, exposed string
}

// corsMaxAge is how long a browser may remember an answer to a preflight, in seconds.
const corsMaxAge = "7200"

// newCORS also returns the guard that refuses writes by pages of other origins, which browsers send without asking. It
// is nil if all origins are allowed, and cors is nil if none is.
func newCORS(origins []string) (*cors, *http.CrossOriginProtection, error) {
	guard := http.NewCrossOriginProtection()
	if len(origins) == 0 {
		return nil, guard, nil
	}
	c := &cors{
		any:     slices.Contains(origins, "*"),
		origins: origins,
		methods: strings.Join(append(connectcors.AllowedMethods(), http.MethodHead, http.MethodPut, http.MethodDelete), ", "),
		headers: strings.Join(append(connectcors.AllowedHeaders(), "Accept", "If-Match", "If-None-Match", "Last-Event-Id", keyHeader, traceHeader, "Tracestate", "Baggage"), ", "),
		exposed: strings.Join(append(connectcors.ExposedHeaders(),
			"Etag", "Retry-After", "Raftkv-Cluster", "Raftkv-Node", "Raftkv-Shard", "Raftkv-Term", "Raftkv-Index", "Raftkv-Revision", "Raftkv-Role",
			"Raftkv-Freshness-Ms", "Raftkv-Token", "Raftkv-Mod-Revision", "Raftkv-Create-Revision", "Raftkv-Version",
			"Raftkv-Ttl-Remaining-Ms", "Raftkv-Lease", replayedHeader, "Server-Timing", "Allow"), ", "),
	}
	if c.any {
		return c, nil, nil
	}
	for _, origin := range origins {
		if err := guard.AddTrustedOrigin(origin); err != nil {
			return nil, nil, fmt.Errorf("origin %q: %w; write it as https://host or https://host:port", origin, err)
		}
	}
	return c, guard, nil
}

// allows says whether an origin is configured.
func (c *cors) allows(origin string) bool {
	return c != nil && (c.any || slices.Contains(c.origins, origin))
}

// serve adds the headers of CORS, and answers preflights itself.
func (c *cors) serve(w http.ResponseWriter, r *http.Request) (answered bool) {
	header := w.Header()
	header.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || !c.allows(origin) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Expose-Headers", c.exposed)
	header.Set("Timing-Allow-Origin", origin) // for what Server-Timing says
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header.Set("Access-Control-Allow-Methods", c.methods)
	header.Set("Access-Control-Allow-Headers", c.headers)
	header.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return true
}

// checkHost refuses pages whose own name resolves to this machine: to the browser they are of the same origin as the server, and
// they may be anybody's. A server on loopback is called by loopback names; a request without Origin is no page's, or one that
// changes nothing.
func checkHost(r *http.Request) error {
	origin := r.Header.Get("Origin")
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if origin == "" || !ok || !local.IP.IsLoopback() || isLoopbackName(r.Host) {
		return nil
	}
	return &originError{origin}
}

// isLoopbackName says whether a Host header names this machine whatever anybody's name server says.
func isLoopbackName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
