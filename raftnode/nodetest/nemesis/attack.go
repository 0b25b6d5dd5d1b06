package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// attacks are connections to all ports of a node that mean no good: slow ones, which hold what a connection holds for as long as they can, and
// such as send garbage. A node must live through them and serve the others.
type attacks struct {
	stop context.CancelFunc
	ctx  context.Context //nolint:containedctx // the attacks of one window end together
	wait sync.WaitGroup
}

const (
	// slowOnes is how many slow connections there are to each port, rudeOnes how many goroutines send garbage to each.
	slowOnes  = 60
	rudeOnes  = 2
	slowPause = 200 * time.Millisecond
	rudePause = 10 * time.Millisecond
	garbage   = 64 << 10
)

func newAttacks() *attacks {
	a := &attacks{}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a
}

// on attacks a node until end.
func (a *attacks) on(node int, seed uint64) {
	for i, port := range []int{clientPort, peerPort, adminPort, grpcPort} {
		target := fmt.Sprintf("%s:%d", address(node), port)
		for j := range slowOnes + rudeOnes {
			r := rand.New(rand.NewPCG(seed, uint64(100*i+j))) //nolint:gosec // not secret
			ctx := a.ctx
			a.wait.Go(func() {
				for ctx.Err() == nil {
					if j < slowOnes {
						slow(ctx, target, opening(r, style(j%int(styles))))
					} else {
						rude(ctx, target, opening(r, style(r.IntN(int(styles)))))
						pause(ctx, rudePause)
					}
				}
			})
		}
	}
}

// end ends all attacks, and makes ready for others.
func (a *attacks) end() {
	a.stop()
	a.wait.Wait()
	a.ctx, a.stop = context.WithCancel(context.Background())
}

// style is how an attacker begins.
type style int

const (
	random style = iota
	hugeBody
	hugeHeader
	httpFrames
	peerFrame
	handshake
	nothing
	styles
)

// opening is what an attacker sends.
func opening(r *rand.Rand, s style) []byte {
	junk := make([]byte, 1+r.IntN(garbage))
	for i := range junk {
		junk[i] = byte(r.Uint32())
	}
	switch s {
	case random:
		return junk
	case hugeBody:
		return fmt.Appendf(nil, "POST /raftkv.v1.KvService/Put HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n%s",
			uint64(1)<<40, junk)
	case hugeHeader:
		return fmt.Appendf(nil, "GET /v1/kv/%x HTTP/1.1\r\nHost: x\r\nX-Junk: %x\r\n\r\n", junk[:min(len(junk), 2000)], junk)
	case httpFrames: // a preface, and frames of any kind
		return append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), junk...)
	case peerFrame: // a length that promises much, with or without the checksum that it would have
		return append(binary.BigEndian.AppendUint32(nil, r.Uint32()>>r.IntN(32)), junk...)
	case handshake: // a record of TLS that is longer than what comes
		return append([]byte{22, 3, 1, 0x3f, 0xff, 1}, junk[:min(len(junk), 100)]...)
	default:
		return nil
	}
}

// slow sends one byte after another, for as long as the node lets it.
func slow(ctx context.Context, target string, what []byte) {
	conn, err := dial(ctx, target)
	if err != nil {
		pause(ctx, slowPause)
		return
	}
	defer conn.Close()
	for len(what) > 0 && ctx.Err() == nil {
		if _, err := conn.Write(what[:1]); err != nil {
			return
		}
		what = what[1:]
		pause(ctx, slowPause)
	}
	pause(ctx, slowPause)
}

// rude sends everything at once, listens for a moment and resets the connection.
func rude(ctx context.Context, target string, what []byte) {
	conn, err := dial(ctx, target)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(slowPause)) // If it fails, so will what follows.
	if _, err := conn.Write(what); err == nil {
		_, _ = io.CopyN(io.Discard, conn, garbage) // Whatever it says, it is not for us.
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // A reset is ruder, but a close will do.
	}
}

func dial(ctx context.Context, target string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", target)
}
