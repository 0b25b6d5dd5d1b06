package service

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

// compressBytesMin is the smallest message worth compressing.
const compressBytesMin = 1 << 10

// connectKV speaks Connect, gRPC and gRPC-Web for kv.
type connectKV struct{ kv }

// Scan streams a range.
func (s connectKV) Scan(ctx context.Context, req *raftkvv1.ScanRequest, stream *connect.ServerStream[raftkvv1.ScanResponse]) error {
	return s.kv.Scan(ctx, req, toClient(stream.Send))
}

// Exec serves a stream of operations.
func (s connectKV) Exec(ctx context.Context, stream *connect.BidiStream[raftkvv1.ExecRequest, raftkvv1.ExecResponse]) error {
	return s.exec(ctx, stream)
}

// connectWatch speaks Connect, gRPC and gRPC-Web for watches.
type connectWatch struct{ watches }

// Watch streams changes.
func (s connectWatch) Watch(ctx context.Context, req *raftkvv1.WatchRequest, stream *connect.ServerStream[raftkvv1.WatchResponse]) error {
	return s.watches.Watch(ctx, req, toClient(stream.Send))
}

// serviceNames are the services that health checks and reflection know.
func serviceNames() []string {
	return []string{raftkvv1connect.KvServiceName, raftkvv1connect.ClusterServiceName, raftkvv1connect.LeaseServiceName, raftkvv1connect.WatchServiceName}
}

// connectOptions are the options of every handler.
func (s *Service) connectOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCodec(connectCodec{}),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		connect.WithReadMaxBytes(int(s.limits.RequestBytes)),
		connect.WithCompressMinBytes(compressBytesMin),
	}
}

// connectHandlers are the handlers of all services by the prefix of their paths.
func (s *Service) connectHandlers() map[string]http.Handler {
	options := s.connectOptions()
	handlers := make(map[string]http.Handler)
	mount := func(prefix string, h http.Handler) { handlers[prefix] = h }
	mount(raftkvv1connect.NewKvServiceHandler(connectKV{kv{s}}, options...))
	mount(raftkvv1connect.NewClusterServiceHandler(cluster{s}, options...))
	mount(raftkvv1connect.NewWatchServiceHandler(connectWatch{watches{s}}, options...))
	mount(raftkvv1connect.NewLeaseServiceHandler(leases{s}, options...))
	small := connect.WithHandlerOptions(connect.WithReadMaxBytes(64<<10), connect.WithCompressMinBytes(compressBytesMin))
	mount(grpchealth.NewHandler(health{s}, small))
	reflector := grpcreflect.NewStaticReflector(append(serviceNames(), grpchealth.HealthV1ServiceName)...)
	mount(grpcreflect.NewHandlerV1(reflector, small))
	mount(grpcreflect.NewHandlerV1Alpha(reflector, small))
	return handlers
}
