package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// network is a star: each node has a network namespace with one address, and this process routes between them, so that it can lose what it
// likes. Clients speak from here, and reach every node always.
type network struct {
	// cuts are the pairs (from, to) whose packets vanish; slow the nodes that are reached slowly.
	cuts map[[2]int]bool
	slow map[int]bool
}

// rulePriority is that of blackhole rules: between those for local addresses and those for routes.
const rulePriority = "100"

func address(node int) string   { return fmt.Sprintf("10.77.%d.2", node+1) }
func gateway(node int) string   { return fmt.Sprintf("10.77.%d.1", node+1) }
func namespace(node int) string { return fmt.Sprintf("raftkv%d", node+1) }
func device(node int) string    { return fmt.Sprintf("rkv%d", node+1) }

// command runs a tool, whose output becomes part of the error.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// ip runs ip with the words of a line.
func ip(format string, args ...any) error {
	return command("ip", strings.Fields(fmt.Sprintf(format, args...))...)
}

func newNetwork(nodes int) (*network, error) {
	err := errors.Join(ip("link set lo up"), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600))
	for i := range nodes {
		if err != nil {
			break
		}
		ns, dev := namespace(i), device(i)
		err = errors.Join(
			ip("netns add %s", ns),
			ip("link add %s type veth peer name uplink netns %s", dev, ns),
			ip("addr add %s/24 dev %s", gateway(i), dev),
			ip("link set %s up", dev),
			ip("-n %s addr add %s/24 dev uplink", ns, address(i)),
			ip("-n %s link set uplink up", ns),
			ip("-n %s link set lo up", ns),
			ip("-n %s route add default via %s", ns, gateway(i)),
		)
	}
	if err != nil {
		return nil, fmt.Errorf("make the network: %w", err)
	}
	return &network{cuts: make(map[[2]int]bool), slow: make(map[int]bool)}, nil
}

// in runs f on a thread that is in the namespace of a node. A process that f starts is in it, too.
func in(node int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and no other goroutine gets into the namespace.
		runtime.LockOSThread()
		ns, err := os.Open("/run/netns/" + namespace(node))
		if err != nil {
			done <- err
			return
		}
		err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		if err != nil {
			done <- fmt.Errorf("enter %s: %w", namespace(node), err)
			return
		}
		done <- f()
	}()
	return <-done
}

// cut makes packets from one node to another vanish.
func (n *network) cut(from, to int) error {
	if n.cuts[[2]int{from, to}] {
		return nil
	}
	n.cuts[[2]int{from, to}] = true
	return ip("rule add from %s to %s blackhole pref %s", address(from), address(to), rulePriority)
}

// cutAll makes all packets between nodes vanish.
func (n *network) cutAll(nodes int) error {
	var err error
	for from := range nodes {
		for to := range nodes {
			if from != to {
				err = errors.Join(err, n.cut(from, to))
			}
		}
	}
	return err
}

// slowDown lets a node be reached at a rate that makes queues.
func (n *network) slowDown(node int) error {
	if n.slow[node] {
		return nil
	}
	n.slow[node] = true
	return slowDown(device(node))
}

func slowDown(dev string) error {
	return command("tc", strings.Fields("qdisc add dev "+dev+" root tbf rate 2mbit burst 16kb latency 500ms")...)
}

// heal ends all that was done to the network.
func (n *network) heal() error {
	var err error
	for c := range n.cuts {
		err = errors.Join(err, ip("rule del from %s to %s blackhole pref %s", address(c[0]), address(c[1]), rulePriority))
	}
	for node := range n.slow {
		err = errors.Join(err, command("tc", "qdisc", "del", "dev", device(node), "root"))
	}
	clear(n.cuts)
	clear(n.slow)
	return err
}
