package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

func validateTLS(c *tls.Config) error {
	var errs []error
	if c.RootCAs == nil && c.ClientCAs == nil {
		errs = append(errs, errors.New("TLS needs RootCAs or ClientCAs: the authority that signs the certificates of the peers"))
	}
	if len(c.Certificates) == 0 && (c.GetCertificate == nil || c.GetClientCertificate == nil) {
		errs = append(errs, errors.New("TLS needs Certificates, or both GetCertificate and GetClientCertificate"))
	}
	return errors.Join(errs...)
}

// hardened is what both sides have in common. Tickets are off because a resumed session is not verified against the
// authorities of today, and peers connect too rarely to gain from it.
func hardened(base *tls.Config) *tls.Config {
	c := base.Clone()
	c.MinVersion = tls.VersionTLS13
	c.SessionTicketsDisabled = true
	c.ClientSessionCache = nil
	if c.RootCAs == nil {
		c.RootCAs = c.ClientCAs
	}
	if c.ClientCAs == nil {
		c.ClientCAs = c.RootCAs
	}
	return c
}

// serverTLS is the configuration for connections that others make.
func serverTLS(base *tls.Config) *tls.Config {
	c := hardened(base)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if choose := base.GetConfigForClient; choose != nil { // how a server's authorities are reloaded; it must not undo the rest
		c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(h)
			if err != nil || chosen == nil {
				return nil, err
			}
			if err := validateTLS(chosen); err != nil {
				return nil, err
			}
			chosen = serverTLS(chosen)
			chosen.GetConfigForClient = nil
			return chosen, nil
		}
	}
	return c
}

// clientTLS is the configuration for a connection to an address. A certificate that names its node is believed at any
// address, since the name is compared with the Hello; one that does not must be valid for the host that was dialled.
func clientTLS(base *tls.Config, address string) *tls.Config {
	c := hardened(base)
	if c.ServerName == "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			c.ServerName = host
		}
	}
	host, roots, next := c.ServerName, c.RootCAs, base.VerifyConnection
	now := c.Time
	if now == nil {
		now = time.Now
	}
	c.InsecureSkipVerify = true // verifyServer takes the place of the library's own check, which always asks for the host
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verifyServer(s, roots, host, now()); err != nil {
			return err
		}
		if next != nil {
			return next(s)
		}
		return nil
	}
	return c
}

func verifyServer(s tls.ConnectionState, roots *x509.CertPool, host string, now time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the peer showed no certificate")
	}
	leaf := s.PeerCertificates[0]
	o := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	if len(certifiedNodes(leaf)) == 0 {
		o.DNSName = host
	}
	_, err := leaf.Verify(o)
	return err
}

// certifiedNodes are the names of nodes in a certificate: the last part of each URI raftkv://<cluster>/<node>.
func certifiedNodes(c *x509.Certificate) []placement.NodeID {
	var nodes []placement.NodeID
	for _, u := range c.URIs {
		if u.Scheme == "raftkv" {
			nodes = append(nodes, placement.NodeID(path.Base(u.Path)))
		}
	}
	return nodes
}

// checkCertifiedNode compares the name in a Hello with those in the sender's certificate, if it has any.
func checkCertifiedNode(conn net.Conn, node placement.NodeID) error {
	tc, ok := conn.(*tls.Conn)
	if !ok {
		return nil
	}
	certified := certifiedNodes(tc.ConnectionState().PeerCertificates[0])
	if len(certified) == 0 {
		return nil
	}
	for _, c := range certified {
		if c == node {
			return nil
		}
	}
	return fmt.Errorf("the node calls itself %q, but its certificate is for %q", node, certified)
}
