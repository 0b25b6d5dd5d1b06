package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// peer is a founding node as the configuration lists it.
type peer struct {
	ID, Host       string
	Port, PeerPort int
}

func (p *peer) clientAddress() string { return hostPort(p.Host, p.Port) }
func (p *peer) peerAddress() string   { return hostPort(p.Host, p.PeerPort) }

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// parsePeer reads id:host:port or id:host:port:peer_port. An IPv6 address stands in brackets.
func parsePeer(text string) (peer, error) {
	p, err := splitPeer(text)
	if err != nil {
		return p, fmt.Errorf("%q is not a node: %w; write id:host:port, or id:host:port:peer_port", text, err)
	}
	return p, nil
}

func splitPeer(text string) (p peer, err error) {
	id, rest, ok := strings.Cut(text, ":")
	if !ok {
		return p, errors.New("there is no host")
	}
	if err := checkNodeName(id); err != nil {
		return p, err
	}
	host, ports, ok := strings.Cut(rest, ":")
	if strings.HasPrefix(rest, "[") {
		host, ports, ok = strings.Cut(rest[1:], "]:")
	}
	if !ok {
		return p, errors.New("there is no port")
	}
	if err := checkHost(host); err != nil {
		return p, err
	}
	p = peer{ID: id, Host: host}
	port, peerPort, ok := strings.Cut(ports, ":")
	if p.Port, err = parsePort(port); err != nil {
		return p, err
	}
	if !ok {
		p.PeerPort = p.Port + peerPortOffset
		if p.PeerPort > portMax {
			return p, fmt.Errorf("the peer port would be %d", p.PeerPort)
		}
		return p, nil
	}
	p.PeerPort, err = parsePort(peerPort)
	return p, err
}

func parsePort(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > portMax {
		return 0, fmt.Errorf("%q is not a port", text)
	}
	return n, nil
}

// isLoopback says whether only this machine reaches a host.
func isLoopback(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	return host == "localhost"
}

// isWildcard says whether a host means all addresses of a machine.
func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}
