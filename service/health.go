package service

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/grpchealth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/raftkv/raftkv/raftnode"
)

// healthInterval is how often a watcher of health looks at the node.
const healthInterval = 500 * time.Millisecond

// health answers grpc.health.v1: the node serves iff its status names nothing that it lacks.
type health struct{ *Service }

// Check answers one check on the server listener.
func (h health) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if err := h.known(req.Service); err != nil {
		return nil, err
	}
	if h.stopping() {
		return nil, failureOf(raftnode.ErrStopped) // ends watches, too
	}
	return &grpchealth.CheckResponse{Status: grpchealth.Status(h.status())}, nil
}

// Watch makes the library check as often as healthInterval says.
func (h health) Watch(ctx context.Context, req *grpchealth.CheckRequest, changed func()) (func(), error) {
	if err := h.known(req.Service); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	h.receivers.Add(1)
	go func() {
		defer h.receivers.Done()
		h.every(ctx, func() bool { changed(); return true })
	}()
	return stop, nil
}

// every calls f now and then until it is false, ctx ends or the service drains; then once more.
func (h health) every(ctx context.Context, f func() bool) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for f() {
		select {
		case <-tick.C:
		case <-h.draining:
			f()
			return
		case <-ctx.Done():
			return
		}
	}
}

func (h health) known(service string) error {
	if service == "" || slices.Contains(serviceNames(), service) {
		return nil
	}
	return failureOf(&unknownServiceError{service})
}

func (h health) status() grpc_health_v1.HealthCheckResponse_ServingStatus {
	if h.stopping() || len(h.node.Status().NotReady) > 0 {
		return grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_SERVING
}

// grpcHealth answers it on the grpc listener.
type grpcHealth struct {
	grpc_health_v1.UnimplementedHealthServer
	health health
}

// Check answers one check.
func (g grpcHealth) Check(_ context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if err := g.health.known(req.GetService()); err != nil {
		return nil, err
	}
	return &grpc_health_v1.HealthCheckResponse{Status: g.health.status()}, nil
}

// List answers for all services.
func (g grpcHealth) List(context.Context, *grpc_health_v1.HealthListRequest) (*grpc_health_v1.HealthListResponse, error) {
	res := &grpc_health_v1.HealthListResponse{Statuses: make(map[string]*grpc_health_v1.HealthCheckResponse)}
	for _, name := range append(serviceNames(), "") {
		res.Statuses[name] = &grpc_health_v1.HealthCheckResponse{Status: g.health.status()}
	}
	return res, nil
}

// Watch sends the status whenever it changes, until the service drains.
func (g grpcHealth) Watch(req *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	if g.health.known(req.GetService()) != nil {
		// The protocol asks for a status here, not for an error.
		if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN}); err != nil {
			return err
		}
		g.health.every(stream.Context(), func() bool { return true })
		return failureOf(raftnode.ErrStopped)
	}
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	var failed error
	g.health.every(stream.Context(), func() bool {
		if now := g.health.status(); now != last {
			last, failed = now, stream.Send(&grpc_health_v1.HealthCheckResponse{Status: now})
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return failureOf(raftnode.ErrStopped)
}
