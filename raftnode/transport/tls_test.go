package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peers"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert, key, x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// issue makes a configuration with a certificate for the given names: URIs, addresses or hosts.
func (a *authority) issue(t testing.TB, names ...string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "peer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if strings.Contains(name, "://") {
			u, err := url.Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			template.URIs = append(template.URIs, u)
		} else if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: a.pool}
}

func tlsPair(t testing.TB, a, b *tls.Config) (*pair, error) {
	t.Helper()
	p := &pair{oa: newOwner(), ob: newOwner()}
	oa, ob := options("a"), options("b")
	oa.TLS, ob.TLS = a, b
	p.a, p.b = start(t, oa, p.oa), start(t, ob, p.ob)
	p.a.SetPeers(peersOf("b", p.b))
	return p, receive(t, p.oa.changes).cause
}

func TestTLSCarriesEverything(t *testing.T) {
	ca := newAuthority(t)
	p, err := tlsPair(t, ca.issue(t, "raftkv://c/a"), ca.issue(t, "raftkv://c/b"))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if !p.a.Send("b", raftMessage(1, strings.Repeat("x", 100_000))) {
			t.Fatal("refused")
		}
	}
	p.ob.collect(t, 100)
	want := sumOf(t, noise(5<<20))
	p.ob.snapshot = func(_ Peer, _ *peerv1.SnapshotStart, body io.Reader) error {
		if sumOf(t, body) != want {
			t.Error("contents differ")
		}
		return nil
	}
	if err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), noise(5<<20)); err != nil {
		t.Fatal(err)
	}
	p.ob.snapshot = func(Peer, *peerv1.SnapshotStart, io.Reader) error { return errors.New("no space for it") }
	if err := p.a.SendSnapshot(contextFor(t), "b", startOf(1), noise(snapshotBytes)); !strings.Contains(err.Error(), "no space") {
		t.Fatal(err)
	}
	p.ob.call = func(Peer, *peerv1.CallRequest) (*peerv1.CallResponse, error) {
		return answer(&peerv1.ProbeResponse{}), nil
	}
	if _, _, err := p.a.Call(contextFor(t), p.b.Addr().String(), "", probe()); err != nil {
		t.Fatal(err)
	}
	p.b.Close()
	p.oa.waitDown(t, "b")
}

func TestTLSRefuses(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	mixed := other.issue(t, "raftkv://c/a") // believes b, but b does not believe it
	mixed.RootCAs = ca.pool
	for _, c := range []struct {
		name string
		a, b *tls.Config
		want string
	}{
		{"by address", ca.issue(t, "127.0.0.1"), ca.issue(t, "127.0.0.1"), ""},
		{"several names", ca.issue(t, "raftkv://c/z", "raftkv://c/a"), ca.issue(t, "raftkv://c/b", "127.0.0.2"), ""},
		{"another URI", ca.issue(t, "spiffe://c/z"), ca.issue(t, "spiffe://c/z", "127.0.0.1"), ""},
		{"another host", ca.issue(t, "127.0.0.1"), ca.issue(t, "127.0.0.2"), "certificate is valid for 127.0.0.2"},
		{"another authority", ca.issue(t, "raftkv://c/a"), other.issue(t, "raftkv://c/b"), "unknown authority"},
		{"caller of another authority", mixed, ca.issue(t, "raftkv://c/b"), "unknown certificate authority"},
		{"another node answers", ca.issue(t, "raftkv://c/a"), ca.issue(t, "raftkv://c/x"), `certificate is for ["x"]`},
		{"another node calls", ca.issue(t, "raftkv://c/x"), ca.issue(t, "raftkv://c/b"), `certificate is for ["x"]`},
		{"nameless", ca.issue(t, "raftkv://c"), ca.issue(t, "raftkv://c/b"), "certificate is for"},
		{"plain calls", nil, ca.issue(t, "raftkv://c/b"), "handshake"},
		{"plain answers", ca.issue(t, "raftkv://c/a"), nil, "handshake"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := tlsPair(t, c.a, c.b)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("cause %v", err)
			}
			if p.a.Send("b", raftMessage(1, "x")) || len(p.ob.batches) != 0 {
				t.Fatal("a message passed")
			}
		})
	}
}

func TestTLSRefusesOldVersionsAndMissingCertificates(t *testing.T) {
	ca := newAuthority(t)
	o := options("b")
	o.TLS = ca.issue(t, "127.0.0.1")
	tr := start(t, o, newOwner())
	old := ca.issue(t, "127.0.0.1")
	old.MaxVersion = tls.VersionTLS12
	for name, config := range map[string]*tls.Config{"TLS 1.2": old, "no certificate": {RootCAs: ca.pool}} {
		t.Run(name, func(t *testing.T) {
			config.ServerName = "127.0.0.1"
			c := tls.Client(stranger(t, tr), config)
			err := c.Handshake()
			if err == nil { // in TLS 1.3 the client hears of it later
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), "tls") {
				t.Fatalf("error %v", err)
			}
		})
	}
}

// Authorities that are chosen per connection are held to the same rules.
func TestTLSReload(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	b := ca.issue(t, "raftkv://c/b")
	var chosen atomic.Pointer[tls.Config] // peers of the earlier pairs still try
	chosen.Store(ca.issue(t, "raftkv://c/b"))
	b.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return chosen.Load(), nil }
	if _, err := tlsPair(t, ca.issue(t, "raftkv://c/a"), b); err != nil {
		t.Fatal(err)
	}
	foreign := other.issue(t, "raftkv://c/a")
	foreign.RootCAs = ca.pool
	if _, err := tlsPair(t, foreign, b); err == nil {
		t.Fatal("another authority passed")
	}
	chosen.Store(&tls.Config{Certificates: chosen.Load().Certificates})
	if _, err := tlsPair(t, ca.issue(t, "raftkv://c/a"), b); err == nil {
		t.Fatal("a configuration without authorities passed")
	}
}

func TestOptionsAreValidated(t *testing.T) {
	bad := Options{QueueMessages: -1, BatchBytes: 2 << 20, MaxFrameBytes: 1 << 20, IdleTimeout: -1, TLS: &tls.Config{}}
	_, err := New(bad, newOwner())
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"NodeID", "Listen", "QueueMessages", "BatchBytes", "IdleTimeout", "RootCAs", "Certificates"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported in: %v", want, err)
		}
	}
	o := options("a")
	o.Listen = "127.0.0.1:-1"
	if _, err := New(o, newOwner()); err == nil {
		t.Fatal("listened nowhere")
	}
}
