package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Bounds of every listener. Clients that idle, stall or flood cost a bounded amount.
const (
	connectionsDefault = 10_000
	streamsPerConn     = 1024
	headerBytes        = 64 << 10 // a key of 4 KiB is up to 12 KiB long when escaped
	windowStream       = 1 << 20
	windowConn         = 4<<20 - 1
	frameBytes         = 1 << 20

	handshakeTimeout = 10 * time.Second
	idleTimeout      = 5 * time.Minute
	pingAfter        = 30 * time.Second
	pingTimeout      = 15 * time.Second
	pingIntervalMin  = 10 * time.Second // of clients
	stallTimeout     = 30 * time.Second // no byte could be written
)

// ListenerOptions configure one listener.
type ListenerOptions struct {
	// TLS serves TLS; nil serves plain text.
	TLS *tls.Config
	// Connections is how many may be open at once; more wait until one closes. 0 is 10,000.
	Connections int
}

// HTTPServer serves a handler over HTTP/1.1 and HTTP/2, with TLS or without.
type HTTPServer struct {
	server  *http.Server
	options ListenerOptions
	count   connectionCount
}

// NewHTTPServer makes the server of the server listener.
func (s *Service) NewHTTPServer(o ListenerOptions) (*HTTPServer, error) {
	h, err := s.Handler()
	if err != nil {
		return nil, err
	}
	return newHTTPServer(h, o, s.metrics.connections("http"), s.logger), nil
}

func newHTTPServer(h http.Handler, o ListenerOptions, count connectionCount, logger *slog.Logger) *HTTPServer {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streamsPerConn,
			MaxReadFrameSize:              frameBytes,
			MaxReceiveBufferPerConnection: windowConn,
			MaxReceiveBufferPerStream:     windowStream,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              stallTimeout,
		},
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // what strangers send to a port
	}
	if o.TLS != nil {
		server.TLSConfig = o.TLS.Clone()
	}
	return &HTTPServer{server: server, options: o, count: count}
}

// Serve serves l until Shutdown, and closes it. It returns nil after Shutdown.
func (h *HTTPServer) Serve(l net.Listener) error {
	l = h.options.limit(l, h.count)
	var err error
	if h.options.TLS != nil {
		err = h.server.ServeTLS(l, "", "")
	} else {
		err = h.server.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// Shutdown takes no more requests and waits for those under way, until ctx is done; then it cuts them off.
func (h *HTTPServer) Shutdown(ctx context.Context) error {
	err := h.server.Shutdown(ctx)
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("requests were still under way: %w", err), h.server.Close())
}

// GRPCServer serves native gRPC.
type GRPCServer struct {
	server  *grpc.Server
	options ListenerOptions
	count   connectionCount
}

// NewGRPCServer makes the server of the grpc listener.
func (s *Service) NewGRPCServer(o ListenerOptions) *GRPCServer {
	server := grpc.NewServer(s.grpcOptions(o)...)
	s.registerGRPC(server)
	return &GRPCServer{server: server, options: o, count: s.metrics.connections("grpc")}
}

func (s *Service) grpcOptions(o ListenerOptions) []grpc.ServerOption {
	security := insecure.NewCredentials()
	if o.TLS != nil {
		security = credentials.NewTLS(o.TLS)
	}
	return []grpc.ServerOption{
		grpc.Creds(answerCredentials{security, s}),
		grpc.ForceServerCodecV2(grpcCodec{requestBytes: s.limits.RequestBytes}),
		// Up to twice the limit is read, to be refused with details; longer messages are refused unread.
		grpc.MaxRecvMsgSize(int(2 * s.limits.RequestBytes)),
		grpc.MaxConcurrentStreams(streamsPerConn),
		grpc.MaxHeaderListSize(headerBytes),
		grpc.InitialWindowSize(windowStream),
		grpc.InitialConnWindowSize(windowConn),
		grpc.ReadBufferSize(64 << 10),
		grpc.WriteBufferSize(64 << 10),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: pingIntervalMin, PermitWithoutStream: true,
		}),
		grpc.InTapHandle(s.boundReceive),
		grpc.WaitForHandlers(true),
	}
}

// Serve serves l until Shutdown, and closes it. It returns nil after Shutdown.
func (g *GRPCServer) Serve(l net.Listener) error {
	l = g.options.limit(l, g.count)
	if err := g.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown takes no more requests and waits for those under way, until ctx is done; then it cuts them off.
func (g *GRPCServer) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.server.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		g.server.Stop()
		<-done
		return fmt.Errorf("requests were still under way: %w", ctx.Err())
	}
}
