package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Call asks the node at an address a question and returns who answered. to is the node that must be there; empty: any. It needs
// no cluster on either side, but if both have one it must be the same.
func (t *Transport) Call(
	ctx context.Context, address string, to placement.NodeID, request *peerv1.CallRequest,
) (*peerv1.CallResponse, Peer, error) {
	ctx, release, err := t.bind(ctx)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("call to %s: %w", address, err)
	}
	defer release()
	response, peer, err := t.call(ctx, address, to, request)
	if err != nil {
		return nil, peer, fmt.Errorf("call to %s: %w", address, endedBy(ctx, err))
	}
	return response, peer, nil
}

func (t *Transport) call(
	ctx context.Context, address string, to placement.NodeID, request *peerv1.CallRequest,
) (*peerv1.CallResponse, Peer, error) {
	if n := request.SizeVT(); n > t.o.MaxFrameBytes {
		return nil, Peer{}, fmt.Errorf("the request has %d bytes, but a frame at most %d", n, t.o.MaxFrameBytes)
	}
	c, peer, err := t.dial(ctx, address, to, peerv1.Purpose_PURPOSE_CALL)
	if err != nil {
		return nil, Peer{}, err
	}
	defer c.Close()
	if err := writeMessage(c, kindCallRequest, request); err != nil {
		return nil, peer, err
	}
	c.stall = 0 // the answer takes as long as it takes; ctx bounds it, and probes notice a dead path
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, peer, err
	}
	got, payload, err := newFrameReader(c, t.o.MaxFrameBytes, helloBytesMax).next()
	if err != nil {
		return nil, peer, err
	}
	switch got {
	case kindCallResponse:
		response := new(peerv1.CallResponse)
		if err := response.UnmarshalVT(payload); err != nil {
			return nil, peer, fmt.Errorf("%w: call response: %w", ErrBadFrame, err)
		}
		return response, peer, nil
	case kindCallFailure:
		return nil, peer, &RefusedError{Node: peer.NodeID, Address: address, Reason: reason(string(payload))}
	default:
		return nil, peer, unexpectedKind(got, kindCallResponse)
	}
}

// serveCall answers one question.
func (t *Transport) serveCall(c *conn, from Peer) error {
	payload, err := newFrameReader(c, t.o.MaxFrameBytes, helloBytesMax).expect(kindCallRequest)
	if err != nil {
		return fmt.Errorf("read call: %w", err)
	}
	request := new(peerv1.CallRequest)
	if err := request.UnmarshalVT(payload); err != nil {
		return fmt.Errorf("%w: call request: %w", ErrBadFrame, err)
	}
	response, err := t.handler.HandleCall(from, request)
	if err == nil && response == nil {
		err = errors.New("the node has no answer to this call")
	}
	if err == nil && response.SizeVT() > t.o.MaxFrameBytes {
		err = fmt.Errorf("the answer has %d bytes, but a frame at most %d", response.SizeVT(), t.o.MaxFrameBytes)
	}
	if err == nil {
		return writeMessage(c, kindCallResponse, response)
	}
	text := reason(err.Error())
	frame := append(make([]byte, headerBytes, headerBytes+len(text)), text...)
	seal(frame, kindCallFailure)
	_, err = c.Write(frame)
	return err
}
