package service

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// restCall is the REST request that does what a message asks for.
func restCall(t testing.TB, req proto.Message) (method, path string, body []byte) {
	t.Helper()
	switch r := req.(type) {
	case *raftkvv1.GetRequest:
		path := "/v1/kv/" + url.PathEscape(r.GetKey())
		if r.GetRevision() > 0 {
			path += fmt.Sprintf("?revision=%d", r.GetRevision())
		}
		return http.MethodGet, path, nil
	case *raftkvv1.PutRequest:
		return http.MethodPost, "/v1/kv", asJSON(t, r)
	case *raftkvv1.DeleteRequest:
		v := url.Values{}
		if id := r.GetRequestId(); id != nil {
			v.Set("request_id.client_id", base64.StdEncoding.EncodeToString(id.GetClientId()))
			v.Set("request_id.sequence", fmt.Sprint(id.GetSequence()))
		}
		switch c := r.GetCondition().GetCondition().(type) {
		case *raftkvv1.Condition_Exists:
			v.Set("condition.exists", fmt.Sprint(c.Exists))
		case *raftkvv1.Condition_ModRevision:
			v.Set("condition.mod_revision", fmt.Sprint(c.ModRevision))
		}
		if r.GetPrevKv() {
			v.Set("prev_kv", "true")
		}
		return http.MethodDelete, "/v1/kv/" + url.PathEscape(r.GetKey()) + "?" + v.Encode(), nil
	case *raftkvv1.BatchRequest:
		return http.MethodPost, "/v1/batch", asJSON(t, r)
	case *raftkvv1.GetOutcomeRequest:
		return http.MethodPost, "/v1/outcome", asJSON(t, r)
	case *raftkvv1.TxnRequest:
		return http.MethodPost, "/v1/txn", asJSON(t, r)
	case *raftkvv1.ListRequest:
		return http.MethodGet, "/v1/kv" + query(r), nil
	case *raftkvv1.GrantRequest:
		return http.MethodPost, "/v1/leases", asJSON(t, r)
	case *raftkvv1.KeepAliveRequest:
		return http.MethodPost, fmt.Sprintf("/v1/leases/%d:keepAlive", r.GetId()), nil
	case *raftkvv1.RevokeRequest:
		v := url.Values{}
		if id := r.GetRequestId(); id != nil {
			v.Set("request_id.client_id", base64.StdEncoding.EncodeToString(id.GetClientId()))
			v.Set("request_id.sequence", fmt.Sprint(id.GetSequence()))
		}
		return http.MethodDelete, fmt.Sprintf("/v1/leases/%d?%s", r.GetId(), v.Encode()), nil
	case *raftkvv1.GetLeaseRequest:
		return http.MethodGet, fmt.Sprintf("/v1/leases/%d?keys=%t", r.GetId(), r.GetKeys()), nil
	case *raftkvv1.ListLeasesRequest:
		return http.MethodGet, "/v1/leases" + query(r), nil
	case *raftkvv1.StatusRequest:
		return http.MethodGet, "/v1/status", nil
	case *raftkvv1.ListNodesRequest:
		return http.MethodGet, "/v1/nodes", nil
	case *raftkvv1.ListShardsRequest:
		return http.MethodGet, "/v1/shards", nil
	case *raftkvv1.LocateKeyRequest:
		return http.MethodGet, "/v1/locate" + query(r), nil
	case *raftkvv1.GetLimitsRequest:
		return http.MethodGet, "/v1/limits", nil
	case *raftkvv1.TransferLeaderRequest:
		return http.MethodPost, fmt.Sprintf("/v1/shards/%d:transferLeader", r.GetShard()), []byte(fmt.Sprintf(`{"nodeId":%q}`, r.GetNodeId()))
	}
	t.Fatalf("no route for %T", req)
	return "", "", nil
}

// query is a message of scalars as query parameters.
func query(m proto.Message) string {
	v := url.Values{}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		v.Set(string(f.Name()), value.String())
		return true
	})
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

func asErr[E error](err error, target *E) bool { return errors.As(err, target) }

func anyOf(t testing.TB, d *connect.ErrorDetail) *anypb.Any {
	t.Helper()
	m, err := d.Value()
	if err != nil {
		t.Fatal(err)
	}
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wireStatus is the error of a stream in one form.
func wireStatus(t testing.TB, err error) *spb.Status {
	t.Helper()
	var c *connect.Error
	if errors.As(err, &c) {
		return connectStatus(t, err)
	}
	return status.Convert(err).Proto()
}

func recordOf(value string) *storev1.Record {
	return &storev1.Record{CreateRevision: 1, ModRevision: 1, Version: 1, Content: &storev1.Record_Value{Value: []byte(value)}}
}

func readOf(key string, r *storev1.Record) *peerv1.ReadResult {
	return &peerv1.ReadResult{Records: []*peerv1.KeyRecord{{Key: key, Record: r}}}
}
