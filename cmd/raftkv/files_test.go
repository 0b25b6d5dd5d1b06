package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// What a process may have open is divided: the state and the rest of a node come first.
func TestFilesAreDivided(t *testing.T) {
	const unlimited = 0
	for name, c := range map[string]struct {
		limit, connections int
		nodes              int
		want               fileShares
	}{
		"unlimited":            {unlimited, 0, 1, fileShares{1000, 10_000, 64}},
		"unlimited, more":      {unlimited, 1 << 20, 1, fileShares{1000, 1 << 20, 64}},
		"as containers have":   {1 << 20, 0, 1, fileShares{1000, 10_000, 64}},
		"room for more":        {1 << 20, 100_000, 1, fileShares{1000, 100_000, 64}},
		"many":                 {24_000, 0, 1, fileShares{1000, 10_000, 64}},
		"some":                 {4096, 0, 1, fileShares{1000, 1292, 64}},
		"some, and fewer":      {4096, 500, 1, fileShares{1000, 500, 64}},
		"few":                  {1024, 0, 1, fileShares{256, 128, 64}},
		"few for three nodes":  {1024, 0, 3, fileShares{85, 43, 42}},
		"as many as there are": {1024, 128, 1, fileShares{256, 128, 64}},
	} {
		if got, err := divideFiles(uint64(c.limit), c.nodes, c.connections); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		limit, connections int
		want               string
	}{
		"more than there are": {1024, 129, "1770 are enough for its data and server.max_connections on each port"},
		"too few for a node":  {299, 0, "300 are enough for its data: raise"},
	} {
		if _, err := divideFiles(uint64(c.limit), 1, c.connections); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, connections := range []int{129, 5000, 60_000} { // what an error asks for is enough
		_, err := divideFiles(64, 1, connections)
		var few *filesError
		if !errors.As(err, &few) {
			t.Fatal(err)
		}
		if got, err := divideFiles(few.enough, 1, connections); err != nil || got.connections != connections {
			t.Errorf("%d connections with %d files: %+v, %v", connections, few.enough, got, err)
		}
	}
}

// Clients that open connections without end do not take the files that the state needs: those wait that are too many, and the node goes on.
func TestConnectionsLeaveFilesToTheState(t *testing.T) {
	c := newProcesses(t, t.TempDir(), 1)
	p := c.nodes[0]
	p.files = 320
	c.start(p)
	c.ready(p) // c keeps its connection
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			_ = conn.Close()
		}
	}()
	for _, port := range []int{p.port, p.grpc, p.metrics} {
		for range p.files {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
			if _, err := io.WriteString(conn, "GET /v1/limits HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	value := make([]byte, 1<<20)
	_, _ = rand.Read(value)
	for i := range 80 { // more than one memtable
		if err := c.put(p, fmt.Sprint("k", i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	c.client.CloseIdleConnections()
	if got, err := c.get(p, "k0"); err != nil || !bytes.Equal([]byte(got), value) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
