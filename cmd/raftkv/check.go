package main

import "slices"

// checker fills in what follows from other values, and finds what does not go together. Values by themselves were checked when they were
// set.
type checker struct {
	*config
	// given says whether a key was set.
	given func(key string) bool
	// report notes a problem.
	report func(key, format string, args ...any)
}

func (c *checker) run() {
	c.members()
	c.ports()
	c.exposure()
	if c.Replicas > len(c.Peers) {
		c.report("cluster.replicas", "%d replicas of each shard need as many nodes; there are %d", c.Replicas, len(c.Peers))
	}
	if c.ElectionTimeout < 3*c.HeartbeatInterval {
		c.report("raft.election_timeout", "%s is less than three heartbeat intervals of %s: a follower that misses one or two heartbeats would campaign",
			c.ElectionTimeout, c.HeartbeatInterval)
	}
	if !c.SyncWrite && !c.UnsafeNoFsync {
		c.report("storage.sync_write", "without fsync, acknowledged writes are lost when the machine fails; if you want that, add --%s", flagUnsafeNoFsync)
	}
}

// members finds this node among the peers, or adds it.
func (c *checker) members() {
	for i, p := range c.Peers {
		for _, q := range c.Peers[:i] {
			switch {
			case p.ID == q.ID && p.ID != "":
				c.report("cluster.peers", "node %s is listed twice", p.ID)
			case p.Host == q.Host && slices.ContainsFunc([]int{p.Port, p.PeerPort}, func(n int) bool { return n == q.Port || n == q.PeerPort }) && p.Port > 0:
				c.report("cluster.peers", "nodes %s and %s have the same address; note that port + 100 is for peers", q.ID, p.ID)
			}
		}
		if isWildcard(p.Host) {
			c.report("cluster.peers", "node %s: %s is no address that others can reach", p.ID, p.Host)
		}
	}
	if len(c.Peers) > 0 && !c.given("server.node_id") {
		c.report("server.node_id", "is not set; say which of the peers this node is")
		return
	}
	if i := slices.IndexFunc(c.Peers, func(p peer) bool { return p.ID == c.NodeID }); i >= 0 {
		c.self(&c.Peers[i])
		return
	}
	c.Port = orElse(c.Port, portDefault)
	c.PeerPort = orElse(c.PeerPort, c.Port+peerPortOffset)
	if isWildcard(c.Host) {
		c.report("server.host", "%s tells nobody where this node is: list it in peers too, as %s:ADDRESS:%d", c.Host, c.NodeID, c.Port)
	}
	c.Peers = append(c.Peers, peer{ID: c.NodeID, Host: c.Host, Port: c.Port, PeerPort: c.PeerPort})
}

// self brings this node's own settings and its entry in peers together. The others go by the entry.
func (c *checker) self(p *peer) {
	c.Port = orElse(c.Port, p.Port)
	c.PeerPort = orElse(c.PeerPort, p.PeerPort)
	if c.Port != p.Port {
		c.report("server.port", "is %d, but peers say that %s serves clients on %d", c.Port, p.ID, p.Port)
	}
	if c.PeerPort != p.PeerPort {
		c.report("server.peer_port", "is %d, but peers say that %s serves peers on %d; on every node, list it as %s:%d",
			c.PeerPort, p.ID, p.PeerPort, p.ID+":"+p.clientAddress(), c.PeerPort)
	}
	others := slices.ContainsFunc(c.Peers, func(q peer) bool { return !isLoopback(q.Host) })
	if others && isLoopback(c.Host) {
		c.report("server.host", "%s cannot be reached by the other nodes, which are not all on this machine; set it to an address of this one, or 0.0.0.0", c.Host)
	}
}

// ports derives those that were not set, and finds double ones.
func (c *checker) ports() {
	if c.AdminHost == "" {
		c.AdminHost = c.Host
	}
	if c.Port == 0 || c.PeerPort == 0 {
		return // members has told why they are not known
	}
	c.GRPCPort = orElse(c.GRPCPort, c.Port+grpcPortOffset)
	c.MetricsPort = orElse(c.MetricsPort, c.Port+adminPortOffset)
	c.HealthCheckPort = orElse(c.HealthCheckPort, c.MetricsPort)
	used := []struct {
		key  string
		port int
	}{
		{"server.port", c.Port},
		{"server.peer_port", c.PeerPort},
		{"server.grpc_port", c.GRPCPort},
		{"monitoring.metrics_port", c.MetricsPort},
		{"monitoring.health_check_port", c.HealthCheckPort},
	}
	for i, u := range used {
		if u.port > portMax {
			c.report(u.key, "would be %d; set it, a port is at most %d", u.port, portMax)
			continue
		}
		for _, v := range used[:i] {
			if u.port == v.port && (v.key != "monitoring.metrics_port" || u.key != "monitoring.health_check_port") {
				c.report(u.key, "is %d, the same as %s", u.port, v.key)
			}
		}
	}
}

// exposure refuses to serve strangers in plain text.
func (c *checker) exposure() {
	files := []struct{ key, path string }{
		{"tls.cert_file", c.CertFile}, {"tls.key_file", c.KeyFile}, {"tls.ca_file", c.CAFile},
	}
	for _, f := range files {
		if f.path == "" && c.usesTLS() {
			c.report(f.key, "is not set; TLS needs cert_file, key_file and ca_file")
		}
	}
	if c.usesTLS() || c.Insecure {
		return
	}
	refuse := func(key, host string) {
		if !isLoopback(host) {
			c.report(key, "%s can be reached by others, and there is no TLS: set tls.cert_file, tls.key_file and tls.ca_file, or add --%s", host, flagInsecure)
		}
	}
	refuse("server.host", c.Host)
	if c.AdminHost != c.Host {
		refuse("monitoring.admin_host", c.AdminHost)
	}
}

func (c *config) usesTLS() bool {
	return c.CertFile != "" || c.KeyFile != "" || c.CAFile != "" || c.ClientCAFile != ""
}

func orElse(v, otherwise int) int {
	if v != 0 {
		return v
	}
	return otherwise
}
