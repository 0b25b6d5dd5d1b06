package service

import (
	"context"
	"crypto/sha256"
	"net/http"

	"google.golang.org/grpc/metadata"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

const (
	// keyHeader carries the idempotency key of a write, replayedHeader says that an answer is that of an earlier request under it.
	keyHeader      = "Idempotency-Key"
	replayedHeader = "Idempotency-Replayed"

	idempotencyKeyBytesMax = 255
	fingerprintBytes       = 16
)

// keyContext is the key of a context's value for the lines of the header.
type keyContext struct{}

// withKeyHeader hands the header of a request on to its method, whatever protocol is between.
func withKeyHeader(r *http.Request) *http.Request {
	lines := r.Header.Values(keyHeader)
	if lines == nil {
		return r
	}
	return r.WithContext(context.WithValue(r.Context(), keyContext{}, lines))
}

// keyLines are the lines of the header of a request on any protocol.
func keyLines(ctx context.Context) []string {
	if lines, ok := ctx.Value(keyContext{}).([]string); ok {
		return lines
	}
	md, _ := metadata.FromIncomingContext(ctx) // of native gRPC
	return md.Get(keyHeader)
}

// takeKey puts the header of a request into the field that says the same. A write that cannot keep what the header asks for is refused: its client
// believes that it may send it again.
func takeKey(ctx context.Context, op operation, req request) error {
	lines := keyLines(ctx)
	if lines == nil {
		return nil
	}
	field := keyField(req)
	switch {
	case field == nil && op.writes():
		return &raftnode.InvalidError{Field: keyHeader, Problem: "is for put, delete, batch and txn"}
	case field == nil:
		return nil // A read may be repeated anyway.
	case len(lines) > 1 || lines[0] == "":
		return &raftnode.InvalidError{Field: keyHeader, Problem: "is one line of 1 to 255 visible characters of ASCII"}
	case *field != "" && *field != lines[0]:
		return &raftnode.InvalidError{Field: keyHeader, Problem: "is not what idempotency_key says; send one of them"}
	}
	*field = lines[0]
	return nil
}

// keyField is the field of a request that takes an idempotency key; nil if there is none.
func keyField(req request) *string {
	switch m := req.(type) {
	case *raftkvv1.PutRequest:
		return &m.IdempotencyKey
	case *raftkvv1.DeleteRequest:
		return &m.IdempotencyKey
	case *raftkvv1.BatchRequest:
		return &m.IdempotencyKey
	case *raftkvv1.TxnRequest:
		return &m.IdempotencyKey
	default:
		return nil
	}
}

func checkIdempotencyKey(key string, id *raftkvv1.RequestId) error {
	if key == "" {
		return nil
	}
	if len(key) > idempotencyKeyBytesMax {
		return &raftnode.LimitError{Field: "idempotency_key", Limit: idempotencyKeyBytesMax, Actual: uint64(len(key))}
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] >= 0x7f {
			return &raftnode.InvalidError{Field: "idempotency_key", Problem: "must be visible characters of ASCII"}
		}
	}
	if id != nil {
		return &raftnode.InvalidError{Field: "idempotency_key", Problem: "cannot be combined with request_id"}
	}
	return nil
}

// keyed puts a write under an idempotency key; an empty one is none. The fingerprint is over what the write does: what its answer is to show plays no part,
// nor by which protocol or method it comes.
func (s *Service) keyed(r *raftnode.Request, key string) *raftnode.Request {
	if key == "" {
		return r
	}
	b, err := r.Command.GetWrite().MarshalVT()
	if err != nil {
		b = nil // It has passed the rules, so it can be encoded; else the node refuses it.
	}
	sum := sha256.Sum256(b)
	r.Command.Idempotency = &storev1.Idempotency{
		Key: key, Fingerprint: sum[:fingerprintBytes], WindowMs: uint64(s.limits.IdempotencyWindow.Milliseconds()), //nolint:gosec // positive
	}
	return r
}

// setReplayed says on REST that an answer is that of an earlier request.
func setReplayed(header http.Header, replayed bool) {
	if replayed {
		header.Set(replayedHeader, "true")
	}
}
