package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// rebuildWithin is how long a node may take to have its damaged replicas replaced, once all is healed.
const rebuildWithin = 60 * time.Second

// mend waits until a node whose disk has rotted has its damaged replicas rebuilt. It may stop when it meets the damage, and is started again then,
// as by whoever watches over services. A node that never meets it is left alone: what it may read one day is asked of no more.
func (c *conductor) mend(n *node) error {
	p := newPatience(rebuildWithin)
	defer p.end()
	for {
		if n.life.gone() {
			c.end(n)
			said, err := n.words()
			if err != nil {
				return err
			}
			c.refusals = append(c.refusals, fmt.Sprintf("%s stops on damage: %s", n.id, lastLine(said)))
			if err := n.start(); err != nil {
				return err
			}
		}
		rebuilt, rebuilding, err := n.replicas()
		switch {
		case err != nil: // It is starting.
		case rebuilding == 0 && rebuilt == 0:
			return nil
		case rebuilding == 0:
			c.refusals = append(c.refusals, fmt.Sprintf("%s has rebuilt %d damaged replicas", n.id, rebuilt))
			n.lost, n.doomed = false, ""
			return nil
		}
		if p.ended() {
			c.rec.violate("%s has not rebuilt its damaged replicas within %s of healing: %d remain, %v", n.id, rebuildWithin, rebuilding, err)
			return nil
		}
		pause(context.Background(), 200*time.Millisecond)
	}
}

// replicas asks a node how many replicas it has rebuilt since it was started, and how many wait for that.
func (n *node) replicas() (rebuilt, rebuilding int, err error) {
	client := &http.Client{Timeout: askTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(fmt.Sprintf("http://%s:%d/metrics", address(n.number), adminPort))
	if err != nil {
		return 0, 0, err
	}
	defer r.Body.Close()
	found := 0
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		for name, to := range map[string]*int{"raftkv_replicas_rebuilt_total ": &rebuilt, "raftkv_replicas_rebuilding ": &rebuilding} {
			if value, ok := strings.CutPrefix(lines.Text(), name); ok {
				if *to, err = strconv.Atoi(value); err != nil {
					return 0, 0, err
				}
				found++
			}
		}
	}
	if err := lines.Err(); err != nil {
		return 0, 0, err
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("the metrics of %s have %d of the two figures of replicas", n.id, found)
	}
	return rebuilt, rebuilding, nil
}
