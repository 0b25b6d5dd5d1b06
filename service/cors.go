package service

import (
	"fmt"
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
		headers: strings.Join(append(connectcors.AllowedHeaders(), "Accept"), ", "),
		exposed: strings.Join(append(connectcors.ExposedHeaders(),
			"Etag", "Retry-After", "Raftkv-Cluster", "Raftkv-Node", "Raftkv-Shard", "Raftkv-Term", "Raftkv-Revision",
			"Raftkv-Mod-Revision", "Raftkv-Create-Revision", "Raftkv-Version"), ", "),
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

// serve adds the headers of CORS, and answers preflights itself.
func (c *cors) serve(w http.ResponseWriter, r *http.Request) (answered bool) {
	header := w.Header()
	header.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" || (!c.any && !slices.Contains(c.origins, origin)) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Expose-Headers", c.exposed)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header.Set("Access-Control-Allow-Methods", c.methods)
	header.Set("Access-Control-Allow-Headers", c.headers)
	header.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return true
}
