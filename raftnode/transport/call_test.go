package transport

import (
	"context"
	"errors"
	"strings"
	"testing"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

func probe() *peerv1.CallRequest {
	return &peerv1.CallRequest{Body: &peerv1.CallRequest_Probe{Probe: &peerv1.ProbeRequest{}}}
}

func answer(r *peerv1.ProbeResponse) *peerv1.CallResponse {
	return &peerv1.CallResponse{Body: &peerv1.CallResponse_Probe{Probe: r}}
}

func TestCall(t *testing.T) {
	for name, form := range map[string]struct{ a, b []byte }{
		"one cluster": {cluster, cluster}, "caller unformed": {nil, cluster}, "answerer unformed": {cluster, nil}, "both unformed": {},
	} {
		t.Run(name, func(t *testing.T) {
			oa, ob := options("a"), options("b")
			oa.ClusterID = func() []byte { return form.a }
			ob.ClusterID = func() []byte { return form.b }
			h := newOwner()
			h.call = func(from Peer, r *peerv1.CallRequest) (*peerv1.CallResponse, error) {
				if from != (Peer{"a", 7}) || r.GetProbe() == nil {
					t.Errorf("call %+v of %+v", r, from)
				}
				return answer(&peerv1.ProbeResponse{NodeId: "b", PlanHash: 42}), nil
			}
			a, b := start(t, oa, newOwner()), start(t, ob, h)
			for _, to := range []NodeID{"", "b"} {
				r, who, err := a.Call(contextFor(t), b.Addr().String(), to, probe())
				if err != nil {
					t.Fatal(err)
				}
				if who != (Peer{"b", 7}) || r.GetProbe().GetPlanHash() != 42 {
					t.Fatalf("answer %+v of %+v", r, who)
				}
			}
		})
	}
}

func TestCallFails(t *testing.T) {
	h := newOwner()
	a, b := start(t, options("a"), newOwner()), start(t, options("b"), h)
	address := b.Addr().String()
	var refused *RefusedError
	if _, _, err := a.Call(contextFor(t), address, "c", probe()); !errors.As(err, &refused) || !strings.Contains(err.Error(), `not "c"`) {
		t.Fatalf("wrong node: %v", err)
	}
	h.call = func(Peer, *peerv1.CallRequest) (*peerv1.CallResponse, error) { return nil, errors.New("not today") }
	if _, who, err := a.Call(contextFor(t), address, "", probe()); !errors.As(err, &refused) || refused.Reason != "not today" || who.NodeID != "b" {
		t.Fatalf("handler's error: %v", err)
	}
	h.call = func(Peer, *peerv1.CallRequest) (*peerv1.CallResponse, error) { return nil, nil }
	if _, _, err := a.Call(contextFor(t), address, "", probe()); !errors.As(err, &refused) {
		t.Fatalf("no answer: %v", err)
	}
	if _, _, err := a.Call(contextFor(t), closedAddress(t), "", probe()); err == nil {
		t.Fatal("nobody listens")
	}
}

// A call ends with its context, with its transport, and with the other side.
func TestCallHasThreeExits(t *testing.T) {
	h := newOwner()
	entered, release := make(chan struct{}), make(chan struct{})
	h.call = func(Peer, *peerv1.CallRequest) (*peerv1.CallResponse, error) {
		entered <- struct{}{}
		<-release
		return answer(&peerv1.ProbeResponse{}), nil
	}
	a, b := start(t, options("a"), newOwner()), start(t, options("b"), h)
	defer b.Close()
	defer close(release)
	result := make(chan error, 1)
	call := func(ctx context.Context) {
		go func() {
			_, _, err := a.Call(ctx, b.Addr().String(), "", probe())
			result <- err
		}()
		receive(t, entered)
	}
	ctx, cancel := context.WithCancel(context.Background())
	call(ctx)
	cancel()
	if err := receive(t, result); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	call(context.Background())
	b.in.closeAll()
	if err := receive(t, result); err == nil {
		t.Fatal("the other side is gone")
	}
	b = start(t, options("b"), h)
	call(context.Background())
	a.Close()
	if err := receive(t, result); !errors.Is(err, ErrClosed) {
		t.Fatalf("closed: %v", err)
	}
	if _, _, err := a.Call(context.Background(), b.Addr().String(), "", probe()); !errors.Is(err, ErrClosed) {
		t.Fatalf("closed before: %v", err)
	}
}
