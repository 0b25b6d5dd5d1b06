package raftkv

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// codec is the binary protobuf codec over the generated marshalling code, which takes about a third of the time of
// the reflective one. Its name is that of connect's own, so nothing changes on the wire.
type codec struct{}

type fastMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

func (codec) Name() string { return "proto" }

func (c codec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend lets connect marshal into the buffers that it pools.
func (codec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(fastMessage)
	if !ok {
		p, ok := message.(proto.Message)
		if !ok {
			return nil, fmt.Errorf("%T is not a protobuf message", message)
		}
		return proto.MarshalOptions{}.MarshalAppend(dst, p)
	}
	size := m.SizeVT()
	if free := cap(dst) - len(dst); free < size {
		grown := make([]byte, len(dst), len(dst)+size)
		copy(grown, dst)
		dst = grown
	}
	from := len(dst)
	dst = dst[:from+size]
	if _, err := m.MarshalToSizedBufferVT(dst[from:]); err != nil {
		return nil, fmt.Errorf("marshal %T: %w", message, err)
	}
	return dst, nil
}

// Unmarshal copies what it keeps: connect uses data again.
func (codec) Unmarshal(data []byte, message any) error {
	var err error
	switch m := message.(type) {
	case fastMessage:
		err = m.UnmarshalVT(data)
	case proto.Message:
		err = proto.Unmarshal(data, m)
	default:
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	if err != nil {
		return fmt.Errorf("unmarshal %T: %w", message, err)
	}
	return nil
}
