package service

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// grpcKV speaks native gRPC for kv, and the gateway calls it.
type grpcKV struct {
	kv
	raftkvv1.UnsafeKvServiceServer
}

// Scan streams a range.
func (s grpcKV) Scan(req *raftkvv1.ScanRequest, stream grpc.ServerStreamingServer[raftkvv1.ScanResponse]) error {
	return s.kv.Scan(stream.Context(), req, stream.Send)
}

// Exec serves a stream of operations.
func (s grpcKV) Exec(stream grpc.BidiStreamingServer[raftkvv1.ExecRequest, raftkvv1.ExecResponse]) error {
	return s.exec(stream.Context(), grpcExecStream{stream})
}

// grpcExecStream names the methods as Connect does.
type grpcExecStream struct {
	stream grpc.BidiStreamingServer[raftkvv1.ExecRequest, raftkvv1.ExecResponse]
}

func (s grpcExecStream) Receive() (*raftkvv1.ExecRequest, error) { return s.stream.Recv() }

func (s grpcExecStream) Send(m *raftkvv1.ExecResponse) error { return s.stream.Send(m) }

// grpcCluster speaks native gRPC for cluster.
type grpcCluster struct {
	cluster
	raftkvv1.UnsafeClusterServiceServer
}

// registerGRPC registers all services.
func (s *Service) registerGRPC(server *grpc.Server) {
	register := func(desc grpc.ServiceDesc, impl any) {
		desc = withInbound(desc)
		server.RegisterService(&desc, impl)
	}
	register(raftkvv1.KvService_ServiceDesc, grpcKV{kv: kv{s}})
	register(raftkvv1.ClusterService_ServiceDesc, grpcCluster{cluster: cluster{s}})
	grpc_health_v1.RegisterHealthServer(server, grpcHealth{health: health{s}})
	reflection.Register(server) // v1 and v1alpha
}

// withInbound makes the methods of a service answer with the codec's own errors, see inbound.
func withInbound(desc grpc.ServiceDesc) grpc.ServiceDesc {
	desc.Methods = slices.Clone(desc.Methods)
	for i := range desc.Methods {
		handle := desc.Methods[i].Handler
		desc.Methods[i].Handler = func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return handle(srv, ctx, func(m any) error {
				in := inbound{message: m}
				if err := decode(&in); err != nil {
					return err
				}
				if in.err != nil {
					return failureOf(in.err)
				}
				return nil
			}, interceptor)
		}
	}
	desc.Streams = slices.Clone(desc.Streams)
	for i := range desc.Streams {
		handle := desc.Streams[i].Handler
		desc.Streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
			return handle(srv, inboundStream{stream})
		}
	}
	return desc
}

// inboundStream is a stream with the codec's own errors.
type inboundStream struct{ grpc.ServerStream }

// RecvMsg receives a message.
func (s inboundStream) RecvMsg(m any) error {
	in := inbound{message: m}
	if err := s.ServerStream.RecvMsg(&in); err != nil {
		return err
	}
	if in.err != nil {
		return failureOf(in.err)
	}
	return nil
}

// sparingCompression leaves small responses uncompressed. grpc-go would compress every response to a client that
// compressed its request.
func sparingCompression(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	res, err := handle(ctx, req)
	if m, ok := res.(fastMessage); ok && err == nil && m.SizeVT() < compressBytesMin {
		if err := grpc.SetSendCompressor(ctx, encoding.Identity); err != nil {
			return nil, err
		}
	}
	return res, err
}
