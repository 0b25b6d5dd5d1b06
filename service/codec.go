package service

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// fastMessage is a message with generated marshalling.
type fastMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT(b []byte) (int, error)
	UnmarshalVT(b []byte) error
}

// messageBytes is how long a message of the contract is in its binary form.
func messageBytes(message any) uint64 {
	if m, ok := message.(fastMessage); ok {
		return uint64(m.SizeVT())
	}
	return 0
}

// appendMessage appends the binary form of a message. It does not check that strings are UTF-8, and neither does
// readMessage: the rules do.
func appendMessage(b []byte, message any) ([]byte, error) {
	switch m := message.(type) {
	case fastMessage:
		size := m.SizeVT()
		b = slices.Grow(b, size)
		n, err := m.MarshalToSizedBufferVT(b[len(b) : len(b)+size])
		if err != nil {
			return nil, fmt.Errorf("cannot marshal %T: %w", message, err)
		}
		return b[:len(b)+n], nil
	case proto.Message:
		return proto.MarshalOptions{}.MarshalAppend(b, m)
	default:
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
}

// readMessage decodes a message; it keeps nothing of b.
func readMessage(b []byte, message any) error {
	switch m := message.(type) {
	case fastMessage:
		return m.UnmarshalVT(b)
	case proto.Message:
		return proto.Unmarshal(b, m)
	default:
		return fmt.Errorf("%T is no protobuf message", message)
	}
}

// connectCodec is the binary codec of Connect, gRPC and gRPC-Web on the server listener.
type connectCodec struct{}

func (connectCodec) Name() string { return "proto" }

func (connectCodec) Marshal(message any) ([]byte, error) { return appendMessage(nil, message) }

// MarshalAppend lets Connect reuse its buffers.
func (connectCodec) MarshalAppend(b []byte, message any) ([]byte, error) {
	return appendMessage(b, message)
}

// Unmarshal decodes b.
func (connectCodec) Unmarshal(b []byte, message any) error {
	return markUnread(message, readMessage(b, message))
}

// jsonCodec is the JSON codec of Connect. Unlike Connect's own it refuses unknown fields, as REST does: a misspelt or
// newer field is an error, never silently a different request.
type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (jsonCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
	return protojson.Marshal(m)
}

func (jsonCodec) Unmarshal(b []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", message)
	}
	return markUnread(message, protojson.Unmarshal(b, m))
}

// unreadField is a field that no message has, its number being reserved by protobuf itself. It says why a message is not what its
// sender has sent.
const unreadField = 19_000

// markUnread leaves the error of a codec of Connect in the message. Connect would answer with the error alone; the rules, which look
// at every message first, find the mark and answer as all protocols do. Messages without rules keep the error.
func markUnread(message any, err error) error {
	m, ok := message.(proto.Message)
	if _, ours := message.(fastMessage); err == nil || !ok || !ours {
		return err
	}
	if _, stream := message.(*raftkvv1.ExecRequest); stream {
		return err // streamError answers
	}
	proto.Reset(m)
	mark := protowire.AppendTag(nil, unreadField, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(mark, err.Error()))
	return nil
}

// unread returns why a message could not be decoded; nil if it was.
func unread(m proto.Message) error {
	fields := m.ProtoReflect().GetUnknown()
	if len(fields) == 0 {
		return nil
	}
	if number, kind, n := protowire.ConsumeTag(fields); number == unreadField && kind == protowire.BytesType {
		if problem, n := protowire.ConsumeString(fields[n:]); n > 0 {
			return &malformedError{part: "message", problem: problem}
		}
	}
	return nil
}

// inbound is what the native gRPC listener decodes into. grpc-go turns an error of a codec into INTERNAL without details,
// so the codec leaves its error here, and the adapter answers with it.
type inbound struct {
	message any
	size    uint64
	err     error
}

// grpcCodec is the codec of the native gRPC listener.
type grpcCodec struct{ requestBytes uint64 }

func (grpcCodec) Name() string { return "proto" }

// Marshal makes the messages of our services in the buffers of their connection.
func (c grpcCodec) Marshal(message any) (mem.BufferSlice, error) {
	out, ok := message.(*outbound)
	if !ok {
		b, err := appendMessage(nil, message)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	b := out.pool.Get(out.message.SizeVT())
	if _, err := out.message.MarshalToSizedBufferVT(*b); err != nil {
		out.pool.Put(b)
		return nil, fmt.Errorf("cannot marshal %T: %w", out.message, err)
	}
	return out.pool.parts(mem.NewBuffer(b, out.pool)), nil
}

func (c grpcCodec) Unmarshal(data mem.BufferSlice, message any) error {
	in, ok := message.(*inbound)
	if !ok {
		in = &inbound{message: message}
	}
	in.size = uint64(data.Len())
	if n := in.size; n > c.requestBytes {
		in.err = &requestSizeError{limit: c.requestBytes, actual: n}
	} else {
		b := data.MaterializeToBuffer(mem.DefaultBufferPool())
		if err := readMessage(b.ReadOnlyData(), in.message); err != nil {
			in.err = &malformedError{part: "message", problem: err.Error()}
		}
		b.Free()
	}
	if ok {
		return nil
	}
	return in.err
}
