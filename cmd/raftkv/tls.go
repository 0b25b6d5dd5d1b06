package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkEvery is how often the files of a certificate are looked at, at most; only handshakes cause it.
const checkEvery = time.Second

// identity is the certificate of a node and the authorities that it trusts, kept as new as their files. It looks at the files when a
// connection is made, so it needs no goroutine, and a node without connections costs nothing.
type identity struct {
	files [4]string // certificate, key, authority of nodes, authority of clients or empty
	log   *slog.Logger
	now   func() time.Time

	// mu guards what follows. It is held while files are read, so that they are read once. A leaf.
	mu      sync.Mutex
	checked time.Time
	content [4][]byte
	current material
}

// material is what the files hold.
type material struct {
	certificate    *tls.Certificate
	nodes, clients *x509.CertPool // clients is nil if they need no certificate
}

// openIdentity reads the files that c names; nil if it names none. Later failures to read them are logged, and leave what was read
// before in use.
func openIdentity(c *config, log *slog.Logger) (*identity, error) {
	if !c.usesTLS() {
		return nil, nil
	}
	t := &identity{files: [4]string{c.CertFile, c.KeyFile, c.CAFile, c.ClientCAFile}, log: log, now: time.Now}
	if err := t.reload(); err != nil {
		return nil, err
	}
	t.checked = t.now()
	return t, nil
}

// server returns the configuration of a listener for clients; nil without TLS.
func (t *identity) server(protocols ...string) *tls.Config {
	if t == nil {
		return nil
	}
	return t.config(func(m material) *tls.Config {
		c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{*m.certificate}}
		if m.clients != nil {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, m.clients
		}
		return c
	})
}

// peer returns the configuration for connections between nodes, both ways; nil without TLS. Both sides always show a certificate. A
// new authority counts for connections that others make as soon as it is in the file, and for those that this node makes after a
// restart; so a rotation puts both authorities into the file, and restarts one node after the other.
func (t *identity) peer() *tls.Config {
	if t == nil {
		return nil
	}
	return t.config(func(m material) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return t.latest().certificate, nil
			},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return t.latest().certificate, nil
			},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: m.nodes, RootCAs: m.nodes,
		}
	})
}

// config returns what from makes of the files, and makes servers ask again for each connection. Each answer has session keys of its
// own, so no session outlives a change of the authorities.
func (t *identity) config(from func(material) *tls.Config) *tls.Config {
	c := from(t.latest())
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return from(t.latest()), nil }
	return c
}

// latest returns the material, read again if the files have changed.
func (t *identity) latest() material {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.now(); now.Sub(t.checked) >= checkEvery {
		t.checked = now
		if err := t.reload(); err != nil {
			t.log.Warn("certificates cannot be reloaded; the ones read before stay in use", "err", err)
		}
	}
	return t.current
}

// reload reads the files, and takes them over if all of them are sound. mu is held, or t is new.
func (t *identity) reload() error {
	var content [4][]byte
	same := true
	for i, path := range t.files {
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read certificates: %w", err)
		}
		content[i] = b
		same = same && bytes.Equal(b, t.content[i])
	}
	if same {
		return nil
	}
	pair, err := tls.X509KeyPair(content[0], content[1])
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", t.files[0], t.files[1], err)
	}
	m := material{certificate: &pair}
	if m.nodes, err = parsePool(t.files[2], content[2]); err != nil {
		return err
	}
	if t.files[3] != "" {
		if m.clients, err = parsePool(t.files[3], content[3]); err != nil {
			return err
		}
	}
	t.content, t.current = content, m
	return nil
}

func parsePool(path string, content []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return pool, nil
}
