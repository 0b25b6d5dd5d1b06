package raftkv_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// oldNode shows the present whatever revision is asked for, as a release that knows no ranges at a revision.
type oldNode struct {
	raftkvv1connect.UnimplementedKvServiceHandler
}

func (oldNode) List(context.Context, *raftkvv1.ListRequest) (*raftkvv1.ListResponse, error) {
	return &raftkvv1.ListResponse{Header: &raftkvv1.ResponseHeader{Shard: 1, Revision: 9}}, nil
}

// The present is not taken for the past.
func TestListOfAnotherRevisionIsRefused(t *testing.T) {
	cluster := raftkvtest.New(1, 1)
	t.Cleanup(cluster.Close)
	mux := http.NewServeMux()
	mux.Handle("/", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: cluster.Endpoints()[0]}))
	mux.Handle(raftkvv1connect.NewKvServiceHandler(oldNode{}))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	ctx := within(t, time.Minute)
	cluster.Advertise(0, strings.TrimPrefix(server.URL, "http://"))
	client, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for revision, right := range map[uint64]bool{0: true, 9: true, 4: false} {
		_, err := client.List(ctx, raftkv.Prefix("{t}"), raftkv.ScanOptions{Revision: revision}, "")
		if (err == nil) != right || !right && !errors.Is(err, raftkv.ErrRefused) {
			t.Errorf("revision %d: %v", revision, err)
		}
	}
}
