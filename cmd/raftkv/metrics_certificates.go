package main

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificateNames are the files of an identity as the label shows them.
var certificateNames = map[int]string{0: "node", 2: "authority", 3: "client_authority"}

var certificateNotAfter = prometheus.NewDesc("raftkv_certificate_not_after_timestamp_seconds",
	"When the first certificate in the file ends, in seconds since 1970: of the node, of the authority of the nodes, of that of clients.",
	[]string{"certificate"}, nil)

// certificateCollector shows when the certificates in use end.
type certificateCollector struct{ identity *identity }

// Describe tells what there is.
func (certificateCollector) Describe(out chan<- *prometheus.Desc) { out <- certificateNotAfter }

// Collect reads the files again if they have changed: what a node without new connections shows is not old.
func (c certificateCollector) Collect(out chan<- prometheus.Metric) {
	for file, at := range c.identity.notAfter() {
		out <- prometheus.MustNewConstMetric(certificateNotAfter, prometheus.GaugeValue, float64(at.Unix()), certificateNames[file])
	}
}

// notAfter is when the first certificate of each file ends.
func (t *identity) notAfter() map[int]time.Time {
	t.latest()
	t.mu.Lock()
	defer t.mu.Unlock()
	ends := make(map[int]time.Time)
	for file := range certificateNames {
		if at, ok := firstEnd(t.content[file]); ok {
			ends[file] = at
		}
	}
	return ends
}

// firstEnd is the earliest end of the certificates in PEM form.
func firstEnd(content []byte) (time.Time, bool) {
	var ends []time.Time
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			ends = append(ends, c.NotAfter)
		}
	}
	if len(ends) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(ends, time.Time.Compare), true
}
