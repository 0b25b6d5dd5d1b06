package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listeners are the sockets of a node. Metrics and health are one when their ports are.
type listeners struct {
	server, grpc, peer, metrics, health net.Listener
}

// listen opens all of them, or none. Ports are opened before anything else of a node: a second one that is started by mistake then stops
// before it has touched a file.
func listen(c *config) (*listeners, error) {
	l := &listeners{}
	for _, s := range []struct {
		to        *net.Listener
		key, host string
		port      int
	}{
		{&l.server, "port", c.Host, c.Port},
		{&l.peer, "peer_port", c.Host, c.PeerPort},
		{&l.grpc, "grpc_port", c.Host, c.GRPCPort},
		{&l.metrics, "metrics_port", c.AdminHost, c.MetricsPort},
		{&l.health, "health_check_port", c.AdminHost, c.HealthCheckPort},
	} {
		if s.to == &l.health && c.HealthCheckPort == c.MetricsPort {
			continue
		}
		var err error
		if *s.to, err = net.Listen("tcp", hostPort(s.host, s.port)); err != nil {
			l.close()
			return nil, explainListen(err, s.key, hostPort(s.host, s.port))
		}
	}
	return l, nil
}

func explainListen(err error, key, address string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %s is taken by another program; stop that one or set another %s", key, address, key)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %s is reserved by the system; set one of 1024 and above: %w", key, address, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this machine has no address %s; set host right: %w", key, address, err)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// close closes those that are open. It is for listeners that nobody serves yet.
func (l *listeners) close() {
	for _, s := range []net.Listener{l.server, l.peer, l.grpc, l.metrics, l.health} {
		if s != nil {
			_ = s.Close() // nothing was accepted
		}
	}
}
