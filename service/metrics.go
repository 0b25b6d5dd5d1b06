package service

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operation names what a client asks for, in metrics and logs. The operations of an Exec stream count one by one.
type operation int

const (
	opGet operation = iota
	opPut
	opDelete
	opBatch
	opTxn
	opList
	opScan
	opStatus
	opListNodes
	opListShards
	opLocateKey
	opGetLimits
	opTransferLeader
	opGrantLease
	opKeepAlive
	opRevokeLease
	opGetLease
	opListLeases
	opWatch
	opGetOutcome
	operationCount
)

var operationNames = [operationCount]string{
	"get", "put", "delete", "batch", "txn", "list", "scan", "status", "list_nodes", "list_shards", "locate_key", "get_limits", "transfer_leader",
	"grant_lease", "keep_alive", "revoke_lease", "get_lease", "list_leases", "watch", "get_outcome",
}

func (o operation) String() string { return operationNames[o] }

// writes says whether the operation may have changed something when it fails.
func (o operation) writes() bool {
	switch o {
	case opPut, opDelete, opBatch, opTxn, opTransferLeader, opGrantLease, opKeepAlive, opRevokeLease, opGetOutcome:
		return true
	default:
		return false
	}
}

// codeCount is how many codes there are, success included.
const codeCount = 17

// metrics count requests. The children of the vectors are kept, because looking one up costs more than counting.
type metrics struct {
	requests *prometheus.CounterVec
	counters [operationCount][codeCount]atomic.Pointer[prometheus.Counter]
	duration [operationCount]prometheus.Observer
	slow     *prometheus.CounterVec
	streams  prometheus.Gauge
	watches  prometheus.Gauge

	open, openLimit *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raftkv_requests_total", Help: "Requests answered, by operation and code (ok or the name of the error's code).",
		}, []string{"operation", "code"}),
		slow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raftkv_slow_requests_total", Help: "Requests that took as long as monitoring.slow_request says, by operation.",
		}, []string{"operation"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "raftkv_exec_streams", Help: "Exec streams that are open.",
		}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "raftkv_watch_streams", Help: "Watches that are open.",
		}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "raftkv_client_connections", Help: "Connections of clients that are open, by port (http or grpc).",
		}, []string{"port"}),
		openLimit: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "raftkv_client_connections_limit", Help: "How many there may be; more wait.",
		}, []string{"port"}),
	}
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "raftkv_request_duration_seconds", Help: "From the decoded request to its answer, by operation.",
		Buckets: prometheus.ExponentialBuckets(100e-6, 2, 17), // 100 µs to 6.6 s
	}, []string{"operation"})
	for op := range operationCount {
		m.duration[op] = duration.WithLabelValues(op.String())
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.requests), r.Register(duration), r.Register(m.slow), r.Register(m.streams), r.Register(m.watches),
		r.Register(m.open), r.Register(m.openLimit))
}

// connections counts those of a port.
func (m *metrics) connections(port string) connectionCount {
	return connectionCount{m.open.WithLabelValues(port), m.openLimit.WithLabelValues(port)}
}

// showBudget shows what the requests and answers of all clients hold.
func (m *metrics) showBudget(r prometheus.Registerer, b *budget) error {
	if r == nil {
		return nil
	}
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "raftkv_client_message_bytes", Help: "Bytes of requests and answers of clients in memory.",
	}, func() float64 { return float64(b.used.Load()) })
	limit := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "raftkv_client_message_limit_bytes", Help: "How many there may be; past it, requests are answered OVERLOADED.",
	}, func() float64 { return float64(b.limit) })
	return errors.Join(r.Register(held), r.Register(limit))
}

func (m *metrics) observe(op operation, c code, took time.Duration) {
	m.counter(op, c).Inc()
	m.duration[op].Observe(took.Seconds())
}

func (m *metrics) counter(op operation, c code) prometheus.Counter {
	name := codeName(c)
	if c >= codeCount {
		return m.requests.WithLabelValues(op.String(), name)
	}
	slot := &m.counters[op][c]
	if known := slot.Load(); known != nil {
		return *known
	}
	counter := m.requests.WithLabelValues(op.String(), name)
	slot.Store(&counter)
	return counter
}

// codeName is how metrics and logs call a code.
func codeName(c code) string {
	if c == codeOK {
		return "ok"
	}
	return c.String()
}
