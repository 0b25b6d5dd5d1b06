package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// life is that of certificates, an hour if it is 0.
	life time.Duration
}

var serials int64

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(template)
	return a
}

// sign makes a certificate; the first one signs itself.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	serials++
	template.SerialNumber = big.NewInt(serials)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(max(a.life, time.Hour))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue writes a certificate for loopback, and its key.
func (a *authority) issue(name, certFile, keyFile string) {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, certFile, "CERTIFICATE", cert.Raw)
	writePEM(a.t, keyFile, "EC PRIVATE KEY", der)
}

// publish writes the certificate of the authority.
func (a *authority) publish(file string) { writePEM(a.t, file, "CERTIFICATE", a.cert.Raw) }

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certified is a configuration with a certificate, and the authority behind it.
func certified(t *testing.T) (*config, *authority) {
	t.Helper()
	dir := t.TempDir()
	c := &config{CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node.key"), CAFile: filepath.Join(dir, "ca.pem")}
	a := newAuthority(t, "nodes")
	a.publish(c.CAFile)
	a.issue("first", c.CertFile, c.KeyFile)
	return c, a
}

// handshake connects to a server with a configuration, and returns the name of its certificate.
func handshake(t *testing.T, server, client *tls.Config) (string, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		served <- tls.Server(conn, server).HandshakeContext(t.Context())
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	secure := tls.Client(conn, client)
	if err := secure.HandshakeContext(t.Context()); err != nil {
		return "", err
	}
	if err := <-served; err != nil { // with TLS 1.3 the server refuses after the client is content
		return "", err
	}
	return secure.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func trusting(t *testing.T, a *authority) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
}

// New files count from the next connection on; broken ones change nothing.
func TestCertificateReload(t *testing.T) {
	c, a := certified(t)
	var log bytes.Buffer
	id, err := openIdentity(c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	id.now = func() time.Time { return now }
	server, peer, client := id.server("h2"), id.peer(), trusting(t, a)
	expect := func(want string) {
		t.Helper()
		if got, err := handshake(t, server, client); err != nil || got != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
		if got, err := peer.GetClientCertificate(nil); err != nil || got.Leaf.Subject.CommonName != want {
			t.Errorf("to peers: %v, %v, want %s", got, err, want)
		}
	}
	expect("first")

	a.issue("second", c.CertFile, c.KeyFile)
	expect("first") // files are not looked at for every connection
	now = now.Add(checkEvery)
	expect("second")

	if err := os.WriteFile(c.KeyFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(checkEvery)
	expect("second")
	if !strings.Contains(log.String(), "certificates cannot be reloaded") {
		t.Error("a broken file is not in the log")
	}
	a.issue("third", c.CertFile, c.KeyFile)
	now = now.Add(checkEvery)
	expect("third")
}

// The metrics say when the first certificate of each file ends, also of one that was renewed and that no connection has used yet.
func TestCertificateEnds(t *testing.T) {
	c, a := certified(t)
	id, err := openIdentity(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	id.now = func() time.Time { return now }
	soon := func(at time.Time) bool { return at.After(now) && at.Before(now.Add(2*time.Hour)) }
	ends := id.notAfter()
	if len(ends) != 2 || !soon(ends[0]) || !soon(ends[2]) {
		t.Errorf("%v", ends)
	}
	first, err := os.ReadFile(c.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	a.life = 24 * time.Hour
	a.issue("second", c.CertFile, c.KeyFile)
	now = now.Add(checkEvery)
	if ends := id.notAfter(); soon(ends[0]) {
		t.Errorf("renewed, but %v", ends)
	}
	second, err := os.ReadFile(c.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := firstEnd(append(second, first...)); !ok || !soon(at) {
		t.Errorf("of a chain: %v", at)
	}
	if _, ok := firstEnd([]byte("none")); ok {
		t.Error("a certificate was found where none is")
	}
}

// A new authority of clients counts too, and only certificates that it has signed do.
func TestClientAuthorityReload(t *testing.T) {
	c, a := certified(t)
	dir := t.TempDir()
	c.ClientCAFile = filepath.Join(dir, "clients.pem")
	clients := newAuthority(t, "clients")
	clients.publish(c.ClientCAFile)
	id, err := openIdentity(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	id.now = func() time.Time { return now }
	server := id.server("h2", "http/1.1")
	signedBy := func(a2 *authority) *tls.Config {
		cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		a2.issue("client", cert, key)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		client := trusting(t, a)
		client.Certificates = []tls.Certificate{pair}
		return client
	}
	if _, err := handshake(t, server, trusting(t, a)); err == nil {
		t.Error("a client without a certificate was let in")
	}
	if _, err := handshake(t, server, signedBy(a)); err == nil {
		t.Error("a certificate of the nodes' authority let a client in")
	}
	old := signedBy(clients)
	if _, err := handshake(t, server, old); err != nil {
		t.Error(err)
	}
	others := newAuthority(t, "others")
	others.publish(c.ClientCAFile)
	now = now.Add(checkEvery)
	if _, err := handshake(t, server, old); err == nil {
		t.Error("a certificate of the old authority was let in")
	}
	if _, err := handshake(t, server, signedBy(others)); err != nil {
		t.Error(err)
	}
}

func TestCertificateErrors(t *testing.T) {
	for _, test := range []struct {
		spoil func(c *config) error
		want  string
	}{
		{func(c *config) error { return os.Remove(c.KeyFile) }, "read certificates: open"},
		{func(c *config) error { return os.WriteFile(c.CertFile, []byte("x"), 0o600) }, "node.pem with key"},
		{func(c *config) error { return os.WriteFile(c.CAFile, []byte("x"), 0o600) }, "ca.pem holds no certificate in PEM form"},
		{func(c *config) error { c.ClientCAFile = c.KeyFile; return nil }, "node.key holds no certificate in PEM form"},
	} {
		c, _ := certified(t)
		if err := test.spoil(c); err != nil {
			t.Fatal(err)
		}
		if _, err := openIdentity(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// A cluster with TLS on every listener, and clients that must show a certificate.
func TestClusterWithTLS(t *testing.T) {
	files, nodes := certified(t)
	dir := t.TempDir()
	clients := newAuthority(t, "clients")
	clientCA, cert, key := filepath.Join(dir, "clients.pem"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	clients.publish(clientCA)
	clients.issue("client", cert, key)
	configs := demoConfigs(demoFlags{nodes: 3, shards: 1, basePort: freeBase(t, 3), data: t.TempDir()})
	for _, c := range configs {
		c.CertFile, c.KeyFile, c.CAFile, c.ClientCAFile = files.CertFile, files.KeyFile, files.CAFile, clientCA
	}
	startNodes(t, configs)
	t.Setenv(envEndpoints, hostPort("127.0.0.1", configs[0].Port))

	with := []string{"--cacert", files.CAFile, "--cert", cert, "--key", key}
	if got := raft(t, "", append([]string{"put", "a", "1"}, with...)...); got.code != 0 {
		t.Error(got.errOut)
	}
	if got := raft(t, "", append([]string{"get", "a"}, with...)...); got.out != "1" {
		t.Error(got.errOut)
	}
	if got := raft(t, "", append([]string{"status"}, with...)...); strings.Count(got.out, "ready") != 3 {
		t.Error(got.out, got.errOut)
	}
	for _, transport := range []string{"sdk", "grpc"} {
		args := append([]string{"bench", "--transport", transport, "--clients", "2", "--duration", "100ms"}, with...)
		if transport == "grpc" {
			args = append(args, "--endpoints", hostPort("127.0.0.1", configs[0].GRPCPort))
		}
		if got := raft(t, "", args...); got.code != 0 {
			t.Errorf("bench over %s: %+v", transport, got)
		}
	}
	if got := raft(t, "", "get", "a", "--timeout", "300ms", "--cacert", files.CAFile); got.code != exitUnavailable {
		t.Errorf("without a certificate: %+v", got)
	}
	if got := raft(t, "", "get", "a", "--timeout", "300ms"); got.code != exitUnavailable {
		t.Errorf("without TLS: %+v", got)
	}

	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	client := trusting(t, nodes)
	client.Certificates, client.NextProtos = []tls.Certificate{pair}, nil
	transport := &http.Transport{TLSClientConfig: client}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get("https://" + hostPort("127.0.0.1", configs[2].MetricsPort) + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "ok\n" {
		t.Errorf("%s, %v", body, err)
	}
	grpc, err := tls.Dial("tcp", hostPort("127.0.0.1", configs[0].GRPCPort), func() *tls.Config {
		c := client.Clone()
		c.NextProtos = []string{"h2"}
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer grpc.Close()
	if p := grpc.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Errorf("gRPC speaks %q", p)
	}
}
