package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	protocolGRPC, protocolHTTP = "grpc", "http"

	// traceFlush is how long the last spans of a process may take to leave. A collector that is gone does not keep a node from stopping.
	traceFlush = 2 * time.Second
	// traceComplaints is how often it is said that spans do not arrive, at the most.
	traceComplaints = time.Minute
)

// tracers makes spans and sends them to a collector, in batches and in a goroutine of its own: its queue has a bound (OTEL_BSP_MAX_QUEUE_SIZE, 2,048), beyond which spans
// are dropped, so nothing that makes them ever waits. nil makes none.
type tracers struct{ provider *sdktrace.TracerProvider }

// openTracers returns nil if no collector is named, in the configuration or by the variables of OpenTelemetry. Nothing is connected to before there is something to send.
func openTracers(c *config, log *slog.Logger) (*tracers, error) {
	if c.TraceEndpoint == "" && otlpFromEnv("ENDPOINT") == "" || tracesOff() {
		return nil, nil
	}
	otel.SetErrorHandler(&complaints{log: log})
	exporter, err := newExporter(c.TraceEndpoint, c.TraceProtocol)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "raftkv"), attribute.String("service.version", version), attribute.String("service.instance.id", c.NodeID)),
		resource.WithFromEnv(), // which has the last word
	)
	switch {
	case errors.Is(err, resource.ErrPartialResource):
		// A node starts whatever the environment says of telemetry.
		log.Warn("traces: OTEL_RESOURCE_ATTRIBUTES cannot be read whole; write key=value,key=value", "err", err)
	case err != nil:
		return nil, fmt.Errorf("traces: %w", err)
	}
	queue := countFromEnv("OTEL_BSP_MAX_QUEUE_SIZE", sdktrace.DefaultMaxQueueSize)
	return &tracers{sdktrace.NewTracerProvider(
		// The SDK would take numbers below 1 from the environment, and panic.
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(queue),
			sdktrace.WithMaxExportBatchSize(min(queue, countFromEnv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", sdktrace.DefaultMaxExportBatchSize)))),
		sdktrace.WithResource(about),
		// What is sampled has been decided before (service.Options.TraceRatio); a context that says "no" is obeyed here, too.
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
	)}, nil
}

// tracesOff says that the environment turns traces off, as OpenTelemetry has it.
func tracesOff() bool {
	return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none"
}

// countFromEnv is a number of spans; what is none, or too many to be meant, is the default.
func countFromEnv(name string, otherwise int) int {
	const most = 1 << 20
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n >= 1 && n <= most {
		return n
	}
	return otherwise
}

// otlpFromEnv is the value of a variable of the exporters.
func otlpFromEnv(name string) string {
	if v := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_" + name); v != "" {
		return v
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_" + name)
}

// newExporter takes what is empty from the variables of OpenTelemetry: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _HEADERS, _CERTIFICATE, _TIMEOUT and their like.
func newExporter(endpoint, protocol string) (*otlptrace.Exporter, error) {
	if protocol == "" && strings.HasPrefix(otlpFromEnv("PROTOCOL"), protocolHTTP) {
		protocol = protocolHTTP
	}
	ctx := context.Background() // nothing here waits for a collector
	if protocol == protocolHTTP {
		var options []otlptracehttp.Option
		if endpoint != "" {
			options = append(options, otlptracehttp.WithEndpointURL(tracesURL(endpoint)))
		}
		return otlptracehttp.New(ctx, options...)
	}
	var options []otlptracegrpc.Option
	if endpoint != "" {
		options = append(options, otlptracegrpc.WithEndpointURL(endpoint))
	}
	return otlptracegrpc.New(ctx, options...)
}

// tracesURL adds the path of traces to an address that has none, as OTEL_EXPORTER_OTLP_ENDPOINT means it.
func tracesURL(endpoint string) string {
	u, err := url.Parse(endpoint) // which was checked
	if err != nil || strings.Trim(u.Path, "/") != "" {
		return endpoint
	}
	u.Path = "/v1/traces"
	return u.String()
}

// of is the provider for the packages that make spans; nil, and not a nil pointer, if there is none.
func (t *tracers) of() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// close sends what waits. That it does not arrive is no failure of the node.
func (t *tracers) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceFlush)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// complaints says in the log that spans do not arrive, now and then.
type complaints struct {
	log *slog.Logger
	// mu guards last. It is a leaf.
	mu   sync.Mutex
	last time.Time
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	now := time.Now()
	due := now.Sub(c.last) >= traceComplaints
	if due {
		c.last = now
	}
	c.mu.Unlock()
	if due {
		c.log.Warn("traces do not reach their collector; nothing else is affected", "err", err)
	}
}

// traceEndpoint takes the URL of a collector.
func traceEndpoint(c *config, v string) error {
	c.TraceEndpoint = v
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q is no address of a collector: write http://host:4317, or https:// for TLS", v)
	}
	return nil
}

// traceRatio takes a part of one.
func traceRatio(c *config, v string) error {
	ratio, err := strconv.ParseFloat(v, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return errors.New("must be a number from 0 to 1, as 0.01 for one request in a hundred")
	}
	c.TraceRatio = ratio
	return nil
}

// traceEndpointFlag checks the flag of demo; empty is none.
func traceEndpointFlag(v string) error {
	if v == "" {
		return nil
	}
	return traceEndpoint(defaults(), v)
}
