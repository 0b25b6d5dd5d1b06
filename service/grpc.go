package service

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/tap"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// grpcKV speaks native gRPC for kv, and the gateway calls it.
type grpcKV struct {
	kv
	raftkvv1.UnsafeKvServiceServer
}

// Scan streams a range.
func (s grpcKV) Scan(req *raftkvv1.ScanRequest, stream grpc.ServerStreamingServer[raftkvv1.ScanResponse]) error {
	return s.kv.Scan(stream.Context(), req, toClient(stream.Send))
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

// grpcWatch speaks native gRPC for watches.
type grpcWatch struct {
	watches
	raftkvv1.UnsafeWatchServiceServer
}

// Watch streams changes.
func (s grpcWatch) Watch(req *raftkvv1.WatchRequest, stream grpc.ServerStreamingServer[raftkvv1.WatchResponse]) error {
	return s.watches.Watch(stream.Context(), req, toClient(stream.Send))
}

// grpcLeases speaks native gRPC for leases.
type grpcLeases struct {
	leases
	raftkvv1.UnsafeLeaseServiceServer
}

// registerGRPC registers all services.
func (s *Service) registerGRPC(server *grpc.Server) {
	register := func(desc grpc.ServiceDesc, impl any) {
		desc = s.withFrame(desc)
		server.RegisterService(&desc, impl)
	}
	register(raftkvv1.KvService_ServiceDesc, grpcKV{kv: kv{s}})
	register(raftkvv1.ClusterService_ServiceDesc, grpcCluster{cluster: cluster{s}})
	register(raftkvv1.WatchService_ServiceDesc, grpcWatch{watches: watches{s}})
	register(raftkvv1.LeaseService_ServiceDesc, grpcLeases{leases: leases{s}})
	grpc_health_v1.RegisterHealthServer(server, grpcHealth{health: health{s}})
	reflection.Register(server) // v1 and v1alpha
}

// withFrame puts a frame around the methods of a service: the codec's own errors (see inbound), the budget, no compression. All become
// streams, so that the frame is still there when an answer has been handed over.
func (s *Service) withFrame(desc grpc.ServiceDesc) grpc.ServiceDesc {
	all := make([]grpc.StreamDesc, 0, len(desc.Methods)+len(desc.Streams))
	for _, m := range desc.Methods {
		all = append(all, grpc.StreamDesc{StreamName: m.MethodName, Handler: s.framed(m.Handler)})
	}
	for _, m := range desc.Streams {
		handle := m.Handler
		m.Handler = func(srv any, stream grpc.ServerStream) error {
			if err := sendPlain(stream.Context()); err != nil {
				return err
			}
			return handle(srv, newFramedStream(stream, newAnswerPool(stream.Context())))
		}
		all = append(all, m)
	}
	desc.Methods, desc.Streams = nil, all
	return desc
}

// framed puts a frame around one method.
func (s *Service) framed(handle grpc.MethodHandler) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		pool := newAnswerPool(stream.Context())
		defer pool.release()
		res, err := s.handleUnary(srv, stream, pool, handle)
		if err != nil {
			return err
		}
		if err := sendPlain(stream.Context()); err != nil {
			return err
		}
		return newFramedStream(stream, pool).SendMsg(res)
	}
}

// sendPlain has answers sent as they are. grpc-go would compress every answer to a client that has compressed its request, however small, and into buffers of its
// own: what waits for the client would be in no account and no budget.
func sendPlain(ctx context.Context) error { return grpc.SetSendCompressor(ctx, encoding.Identity) }

// handleUnary makes the answer. The decoded request is in the budget here, the answer by its answerPool.
func (s *Service) handleUnary(srv any, stream grpc.ServerStream, pool *answerPool, handle grpc.MethodHandler) (any, error) {
	ctx, held := context.WithValue(stream.Context(), holderKey{}, pool), uint64(exchangeBytes)
	if err := s.budget.take(held); err != nil {
		return nil, failureOf(err)
	}
	defer func() { s.budget.give(held) }()
	return handle(srv, ctx, func(m any) error {
		in := inbound{message: m}
		if err := stream.RecvMsg(&in); err != nil {
			return slowRequest(ctx, err)
		}
		if in.err == nil && in.size > exchangeBytes {
			if in.err = s.budget.take(in.size); in.err == nil {
				held += in.size
			}
		}
		if in.err != nil {
			return failureOf(in.err)
		}
		return nil
	}, nil)
}

// slowRequest is the error of a message that could not be received. What ends the wait is the time that boundReceive has set, or the
// client's own.
func slowRequest(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return failureOf(errSlowRequest)
	}
	return err
}

// boundReceive bounds the time of calls outside streams, so that one whose message never comes does not stay. The time for work
// is bounded by invoke.
func (s *Service) boundReceive(ctx context.Context, info *tap.Info) (context.Context, error) {
	if streams[info.FullMethodName] || strings.HasPrefix(info.FullMethodName, "/grpc.") {
		return ctx, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.transferTimeout+s.limits.Timeout)
	_ = cancel // the stream cancels the context that this one derives from
	return ctx, nil
}

// streams are the methods whose requests or answers are streams.
var streams = func() map[string]bool {
	names := make(map[string]bool)
	for _, desc := range []grpc.ServiceDesc{raftkvv1.KvService_ServiceDesc, raftkvv1.ClusterService_ServiceDesc, raftkvv1.WatchService_ServiceDesc} {
		for i := range desc.Streams {
			names["/"+desc.ServiceName+"/"+desc.Streams[i].StreamName] = true
		}
	}
	return names
}()

// framedStream is a stream with the codec's own errors, and with the budget.
type framedStream struct {
	grpc.ServerStream
	out outbound // one message is sent at a time
}

func newFramedStream(stream grpc.ServerStream, pool *answerPool) *framedStream {
	return &framedStream{stream, outbound{pool: pool}}
}

// RecvMsg receives a message.
func (s *framedStream) RecvMsg(m any) error {
	in := inbound{message: m}
	if err := s.ServerStream.RecvMsg(&in); err != nil {
		return err
	}
	if in.err != nil {
		return failureOf(in.err)
	}
	return nil
}

// SendMsg sends a message.
func (s *framedStream) SendMsg(m any) error {
	message, ok := m.(fastMessage)
	if !ok {
		return s.ServerStream.SendMsg(m)
	}
	s.out.message = message
	if err := s.ServerStream.SendMsg(&s.out); err != nil {
		return err
	}
	s.out.pool.sent(s.Context())
	return nil
}
