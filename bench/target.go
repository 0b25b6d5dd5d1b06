package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// target is what load is put on. It bounds every operation by Options.Timeout.
type target interface {
	put(ctx context.Context, key string, value []byte) error
	// get reads a key; one that does not exist is no error.
	get(ctx context.Context, key string) error
	// judge names the kind of an error, and says whether a write that failed with it may have been applied.
	judge(err error) (kind string, unknown bool)
	close() error
}

func openTarget(ctx context.Context, o *Options) (target, error) {
	if o.Transport == GRPC {
		return openGRPC(o)
	}
	options := []raftkv.Option{raftkv.WithTimeout(o.Timeout)}
	if o.TLS != nil {
		options = append(options, raftkv.WithTLS(o.TLS))
	}
	if o.Connections > 0 {
		options = append(options, raftkv.WithConnections(o.Connections))
	}
	client, err := raftkv.Open(ctx, o.Endpoints, options...)
	if err != nil {
		return nil, err
	}
	return &sdkTarget{client}, nil
}

// sdkTarget goes through the SDK.
type sdkTarget struct{ client *raftkv.Client }

func (t *sdkTarget) put(ctx context.Context, key string, value []byte) error {
	_, err := t.client.Put(ctx, key, value)
	return err
}

func (t *sdkTarget) get(ctx context.Context, key string) error {
	_, err := t.client.Get(ctx, key)
	if errors.Is(err, raftkv.ErrNotFound) {
		return nil
	}
	return err
}

func (t *sdkTarget) judge(err error) (kind string, unknown bool) {
	var unknownOutcome *raftkv.OutcomeUnknownError
	unknown = errors.As(err, &unknownOutcome)
	var (
		overloaded *raftkv.OverloadedError
		notLeader  *raftkv.NotLeaderError
		limit      *raftkv.LimitError
		expired    *raftkv.SessionExpiredError
	)
	switch {
	case errors.As(err, &overloaded):
		kind = "overloaded"
	case errors.As(err, &notLeader):
		kind = "no leader"
	case errors.As(err, &limit):
		kind = "limit exceeded"
	case errors.As(err, &expired):
		kind = "session expired"
	case errors.Is(err, raftkv.ErrRefused):
		kind = "refused"
	case errors.Is(err, raftkv.ErrUnavailable):
		kind = "unavailable"
	case errors.Is(err, context.DeadlineExceeded):
		kind = "timeout"
	case errors.Is(err, context.Canceled):
		kind = "cancelled"
	default:
		kind = "other"
	}
	return kind, unknown
}

func (t *sdkTarget) close() error {
	t.client.Close()
	return nil
}

// grpcTarget makes unary calls over some connections in turn.
type grpcTarget struct {
	connections []*grpc.ClientConn
	clients     []raftkvv1.KvServiceClient
	turn        atomic.Uint64
	timeout     time.Duration
}

func openGRPC(o *Options) (target, error) {
	t := &grpcTarget{timeout: o.Timeout}
	security := insecure.NewCredentials()
	if o.TLS != nil {
		security = credentials.NewTLS(o.TLS)
	}
	for range o.Connections {
		for _, e := range o.Endpoints {
			// passthrough: an address is used as it stands, and every connection is one of its own.
			c, err := grpc.NewClient("passthrough:///"+e, grpc.WithTransportCredentials(security))
			if err != nil {
				return nil, errors.Join(fmt.Errorf("endpoint %s: %w", e, err), t.close())
			}
			t.connections = append(t.connections, c)
			t.clients = append(t.clients, raftkvv1.NewKvServiceClient(c))
		}
	}
	return t, nil
}

func (t *grpcTarget) next() raftkvv1.KvServiceClient {
	return t.clients[t.turn.Add(1)%uint64(len(t.clients))]
}

func (t *grpcTarget) put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	_, err := t.next().Put(ctx, &raftkvv1.PutRequest{Key: key, Value: value})
	return err
}

func (t *grpcTarget) get(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	_, err := t.next().Get(ctx, &raftkvv1.GetRequest{Key: key})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

// judge trusts details that only a node makes; without one, something on the way may have made the error.
func (t *grpcTarget) judge(err error) (kind string, unknown bool) {
	s := status.Convert(err)
	unknown = s.Code() != codes.InvalidArgument && s.Code() != codes.FailedPrecondition
	for _, d := range s.Details() {
		switch d.(type) {
		case *raftkvv1.OutcomeUnknown:
			return s.Code().String(), true
		case *raftkvv1.NotLeader, *raftkvv1.StaleRoute, *raftkvv1.LimitExceeded:
			unknown = false
		}
	}
	return s.Code().String(), unknown
}

func (t *grpcTarget) close() error {
	var errs []error
	for _, c := range t.connections {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
