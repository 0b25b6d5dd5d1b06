package service

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// encodingRecorder remembers whether the last message of an answer was compressed.
type encodingRecorder struct{ last atomic.Bool }

func (e *encodingRecorder) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return ctx
}

func (e *encodingRecorder) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

func (e *encodingRecorder) HandleConn(context.Context, stats.ConnStats) {}

func (e *encodingRecorder) HandleRPC(_ context.Context, s stats.RPCStats) {
	if p, ok := s.(*stats.InPayload); ok {
		e.last.Store(p.CompressedLength != p.Length)
	}
}

func (e *encodingRecorder) compressed() bool { return e.last.Load() }

// TestCodecs round-trips messages with and without generated marshalling, and refuses what is no message.
func TestCodecs(t *testing.T) {
	messages := []proto.Message{
		&raftkvv1.PutRequest{Key: "k", Value: []byte(strings.Repeat("v", 5000)), RequestId: requestID(3)},
		&raftkvv1.GetRequest{}, wrapperspb.String("plain"),
	}
	for _, m := range messages {
		got := m.ProtoReflect().New().Interface()
		b, err := connectCodec{}.MarshalAppend([]byte("before"), m)
		if err != nil || connectCodec.Unmarshal(connectCodec{}, b[len("before"):], got) != nil || !proto.Equal(m, got) {
			t.Errorf("connect: %v became %v, %v", m, got, err)
		}
		got = m.ProtoReflect().New().Interface()
		c := grpcCodec{requestBytes: 1 << 20}
		data, err := c.Marshal(m)
		if err != nil || c.Unmarshal(data, got) != nil || !proto.Equal(m, got) {
			t.Errorf("grpc: %v became %v, %v", m, got, err)
		}
	}
	if _, err := (connectCodec{}).Marshal(1); err == nil {
		t.Error("a number was marshalled")
	}
	in := &inbound{message: new(raftkvv1.GetRequest)}
	if err := (grpcCodec{requestBytes: 1}).Unmarshal(mem.BufferSlice{mem.SliceBuffer("abc")}, in); err != nil || in.err == nil {
		t.Error("a long message was taken")
	}
}
