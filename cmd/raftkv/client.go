package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

const (
	endpointDefault = "127.0.0.1:8080"
	// connectTimeout is how long to look for a node that answers. It is short: usually there is none because none was started.
	connectTimeout = 3 * time.Second
)

// clientFlags say how a command reaches the cluster.
type clientFlags struct {
	endpoints         []string
	timeout           time.Duration
	cacert, cert, key string
}

func addClientFlags(c *cobra.Command) *clientFlags {
	f := &clientFlags{}
	flags := c.Flags()
	flags.StringSliceVar(&f.endpoints, "endpoints", nil,
		"nodes of the cluster, as host:port or https://host:port (default $"+envEndpoints+", else "+endpointDefault+")")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long an operation may go on trying")
	flags.StringVar(&f.cacert, "cacert", "", "file with the authority that signs the certificates of the nodes, PEM; turns TLS on")
	flags.StringVar(&f.cert, "cert", "", "file with the certificate of this client, PEM, for nodes that ask for one")
	flags.StringVar(&f.key, "key", "", "file with its private key, PEM")
	return f
}

// addresses are the endpoints to use.
func (f *clientFlags) addresses() []string {
	if len(f.endpoints) > 0 {
		return f.endpoints
	}
	if list := strings.FieldsFunc(os.Getenv(envEndpoints), func(r rune) bool { return r == ',' || r == ' ' }); len(list) > 0 {
		return list
	}
	return []string{endpointDefault}
}

// options are those of the client.
func (f *clientFlags) options() ([]raftkv.Option, error) {
	if f.timeout <= 0 {
		return nil, &usageError{fmt.Errorf("--timeout must be more than 0, it is %s", f.timeout)}
	}
	for _, e := range f.addresses() {
		if err := checkEndpoint(e); err != nil {
			return nil, &usageError{err}
		}
	}
	options := []raftkv.Option{raftkv.WithTimeout(f.timeout)}
	c, err := f.tls()
	if err == nil && c != nil {
		options = append(options, raftkv.WithTLS(c))
	}
	return options, err
}

// tls is the configuration that the flags ask for; nil if they ask for none.
func (f *clientFlags) tls() (*tls.Config, error) {
	if (f.cert == "") != (f.key == "") {
		return nil, &usageError{errors.New("--cert and --key go together")}
	}
	if f.cacert == "" && f.cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.cacert != "" {
		content, err := os.ReadFile(f.cacert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		if c.RootCAs, err = parsePool(f.cacert, content); err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// open connects to the cluster.
func (f *clientFlags) open(ctx context.Context) (*raftkv.Client, error) {
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, min(f.timeout, connectTimeout))
	defer cancel()
	c, err := raftkv.Open(opening, f.addresses(), options...)
	switch {
	case err == nil, errors.Is(err, raftkv.ErrRefused), ctx.Err() != nil:
		return c, err
	}
	return nil, &unreachableError{err}
}

func checkEndpoint(e string) error {
	address := e
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(e, scheme); ok {
			address = strings.TrimSuffix(rest, "/")
		}
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || strings.Contains(port, "/") {
		return fmt.Errorf("endpoint %q is not host:port, http://host:port or https://host:port", e)
	}
	return nil
}

// withClient makes the RunE of a command that needs the cluster.
func withClient(f *clientFlags, do func(cmd *cobra.Command, c *raftkv.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := f.open(cmd.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		return do(cmd, c, args)
	}
}
