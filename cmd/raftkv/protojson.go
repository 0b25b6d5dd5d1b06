package main

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// protoJSON is a message inside of other JSON, with the names of the contract, and fields that are zero.
type protoJSON struct{ message proto.Message }

// MarshalJSON makes one line. protojson varies its blanks on purpose; without them, the output is always the same.
func (p protoJSON) MarshalJSON() ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(p.message)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// messages wraps a list.
func messages[M proto.Message](list []M) []protoJSON {
	out := make([]protoJSON, len(list))
	for i, m := range list {
		out[i] = protoJSON{m}
	}
	return out
}
