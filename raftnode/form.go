package raftnode

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// A cluster forms once (R13). Every founding node probes the others. When all are reachable, unformed and of one plan, the one with the
// lowest name makes the formation durable and asks the others to do the same. A node starts its voters only when it knows the same
// formation to be durable on all: then no member can ever be part of another.

const (
	formInterval = 100 * time.Millisecond
	probeTimeout = 2 * time.Second
)

// ErrFormedWithout says that the cluster exists and this node's empty disk is not part of it.
var ErrFormedWithout = errors.New("the cluster is already formed and this node's disk is new; bring back its old data directory, or put the new disk in its place with 'raftkv node replace'")

// former takes a node through the formation, a step at a time.
type former struct {
	n *Node
	// said is what was logged last, so that waiting is not logged again and again.
	said string
}

// planHash is over what all founding nodes must agree on.
func planHash(o Options) uint64 {
	members := slices.Clone(o.Members)
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(string(a.ID), string(b.ID)) })
	h := xxhash.New()
	for _, m := range members {
		fmt.Fprintf(h, "%s %s %s\n", m.ID, m.PeerAddress, m.ClientAddress)
	}
	fmt.Fprintf(h, "%d %d\n", o.Shards, o.Replicas)
	return h.Sum64()
}

// run takes steps until the node serves or has failed.
func (f *former) run() {
	f.step()
	if n := f.n; !n.failed() && !n.serving.Load() {
		n.runtime.After(formInterval, f.run)
	}
}

// step asks all members who they are, and does what follows.
func (f *former) step() {
	n := f.n
	probes, missing := f.probeAll()
	if len(probes) == 0 && len(missing) == 0 {
		f.found(nil) // A cluster of one.
		return
	}
	own := n.identity.Load()
	// In order, so that a simulation repeats it.
	ids := slices.Sorted(maps.Keys(probes))
	for _, id := range ids {
		if err := f.judge(own, id, probes[id]); err != nil {
			n.fail(err)
			return
		}
	}
	for _, p := range probes {
		if p.GetFormed() && own.GetFormation() != nil {
			f.finish() // Somebody has seen it to be durable on all.
			return
		}
	}
	if len(missing) > 0 {
		f.say("waiting for members", "missing", strings.Join(missing, ", "))
		return
	}
	// Not before all have been heard: whoever is missing may know that the cluster has formed, and lives on with a disk less.
	for _, id := range ids {
		if err := sameDisk(own.GetFormation(), id, probes[id]); err != nil {
			n.fail(err)
			return
		}
	}
	if own.GetFormation() == nil {
		f.found(probes)
		return
	}
	for _, id := range ids {
		if !bytes.Equal(probes[id].GetClusterId(), own.GetFormation().GetClusterId()) {
			if f.leads() {
				f.ask(id)
			}
			f.say("waiting for members to agree", "member", id)
			return
		}
	}
	f.finish()
}

// leads says whether this node is the one that proposes the formation: the first by name.
func (f *former) leads() bool {
	for _, m := range f.n.options.Members {
		if m.ID < f.n.options.NodeID {
			return false
		}
	}
	return true
}

// judge finds out whether another member's word makes it impossible to go on.
func (f *former) judge(own *storev1.Identity, id placement.NodeID, p *peerv1.ProbeResponse) error {
	formation := own.GetFormation()
	switch {
	case p.GetPlanHash() != planHash(f.n.options):
		return fmt.Errorf("node %s was given other members, shards or replicas than this node; make 'peers', 'shards' and 'replicas' the same on all", id)
	case formation == nil && p.GetFormed() && !planted.Is(planted.EmptiedDiskAdmitted): // R13
		return fmt.Errorf("%w (node %s belongs to cluster %s)", ErrFormedWithout, id, hex.EncodeToString(p.GetClusterId()))
	case formation != nil && len(p.GetClusterId()) > 0 && !bytes.Equal(p.GetClusterId(), formation.GetClusterId()):
		return fmt.Errorf("node %s belongs to cluster %s, this node to %s", id, hex.EncodeToString(p.GetClusterId()), hex.EncodeToString(formation.GetClusterId()))
	}
	return nil
}

// sameDisk finds out whether a member still has the disk with which it was to be part of the formation. Nobody has formed the cluster with the new one, and nobody can with the old one.
func sameDisk(formation *storev1.Formation, id placement.NodeID, p *peerv1.ProbeResponse) error {
	for _, m := range formation.GetMembers() {
		if m.GetNodeId() == string(id) && m.GetIncarnation() != p.GetIncarnation() {
			return fmt.Errorf("node %s has another disk than when the cluster began to form; empty the data directories of all founding nodes and start again (nothing was stored yet)", id)
		}
	}
	return nil
}

// probeAll asks the other members who they are.
func (f *former) probeAll() (probes map[placement.NodeID]*peerv1.ProbeResponse, missing []string) {
	n := f.n
	probes = make(map[placement.NodeID]*peerv1.ProbeResponse)
	for _, m := range n.options.Members {
		if m.ID == n.options.NodeID {
			continue
		}
		resp, err := n.call(m, &peerv1.CallRequest{Body: &peerv1.CallRequest_Probe{Probe: &peerv1.ProbeRequest{}}})
		if err != nil || resp.GetProbe() == nil {
			missing = append(missing, string(m.ID)+" at "+m.PeerAddress)
			continue
		}
		probes[m.ID] = resp.GetProbe()
	}
	return probes, missing
}

func (n *Node) call(m Member, r *peerv1.CallRequest) (*peerv1.CallResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	resp, _, err := n.transport.Call(ctx, m.PeerAddress, m.ID, r)
	return resp, err
}

// found makes the formation, if this node is the one to do it.
func (f *former) found(probes map[placement.NodeID]*peerv1.ProbeResponse) {
	n := f.n
	if !f.leads() {
		f.say("waiting for the first member to form the cluster")
		return
	}
	if n.identity.Load().GetFormation() == nil {
		incarnations := map[placement.NodeID]uint64{n.options.NodeID: n.identity.Load().GetIncarnation()}
		for id, p := range probes {
			incarnations[id] = p.GetIncarnation()
		}
		formation, err := plan(n.options, incarnations, n.random)
		if err == nil {
			err = n.adopt(formation)
		}
		if err != nil {
			n.fail(err)
			return
		}
	}
	if len(probes) == 0 {
		f.finish()
	}
}

// ask asks a member to make the formation durable.
func (f *former) ask(id placement.NodeID) {
	n := f.n
	for _, m := range n.options.Members {
		if m.ID != id {
			continue
		}
		resp, err := n.call(m, &peerv1.CallRequest{Body: &peerv1.CallRequest_Form{Form: &peerv1.FormRequest{Formation: n.identity.Load().GetFormation()}}})
		if err != nil {
			f.say("cannot reach member", "member", id, "err", err.Error())
		} else if !resp.GetForm().GetAccepted() {
			f.say("member refuses the formation", "member", id, "reason", resp.GetForm().GetRefusal())
		}
	}
}

// finish starts the node: the formation is durable on every member.
func (f *former) finish() {
	n := f.n
	if err := n.start(); err != nil {
		n.fail(err)
	}
}

// say logs a state of the formation once.
func (f *former) say(message string, args ...any) {
	if s := message + fmt.Sprint(args...); s != f.said {
		f.said = s
		f.n.log.Info("forming: "+message, args...)
	}
}

// plan makes the formation: where shards and replicas go. Replica ids count from 1 and are never used again in a shard.
func plan(o Options, incarnations map[placement.NodeID]uint64, random func() uint64) (*storev1.Formation, error) {
	formation := &storev1.Formation{}
	for range 2 {
		formation.ClusterId = appendUint64(formation.ClusterId, random())
	}
	var nodes []placement.Node
	for _, m := range o.Members {
		nodes = append(nodes, placement.Node{ID: m.ID})
		formation.Members = append(formation.Members, &storev1.Formation_Member{
			NodeId: string(m.ID), Incarnation: incarnations[m.ID], PeerAddress: m.PeerAddress, ClientAddress: m.ClientAddress,
		})
	}
	slices.SortFunc(formation.Members, func(a, b *storev1.Formation_Member) int { return strings.Compare(a.NodeId, b.NodeId) })
	var data []placement.ShardID
	for i := range o.Shards {
		data = append(data, placement.ShardID(i+1))
	}
	slots, err := placement.AssignSlots(data)
	if err != nil {
		return nil, fmt.Errorf("assign slots: %w", err)
	}
	tables := make(map[placement.ShardID]*storev1.SlotTable)
	for _, s := range slots {
		tables[s.Shard] = servingTable(s.Slots)
	}
	placed, err := placement.PlaceReplicas(append([]placement.ShardID{placement.MetaShard}, data...), nodes, o.Replicas)
	if err != nil {
		return nil, fmt.Errorf("place replicas: %w", err)
	}
	for _, p := range placed {
		shard := &storev1.Formation_Shard{Id: uint32(p.Shard), Slots: tables[p.Shard]}
		for i, id := range p.Nodes {
			shard.Replicas = append(shard.Replicas, &storev1.Replica{Id: uint64(i + 1), NodeId: string(id), Incarnation: incarnations[id]})
		}
		formation.Shards = append(formation.Shards, shard)
	}
	slices.SortFunc(formation.Shards, func(a, b *storev1.Formation_Shard) int { return int(a.Id) - int(b.Id) })
	return formation, nil
}

func servingTable(slots placement.SlotSet) *storev1.SlotTable {
	t := &storev1.SlotTable{Epoch: 1}
	for _, r := range slots.Runs() {
		t.Runs = append(t.Runs, &storev1.SlotTable_Run{First: uint32(r.First), Last: uint32(r.Last), State: storev1.SlotState_SLOT_STATE_SERVING})
	}
	return t
}

// adopt makes a formation durable on this node.
func (n *Node) adopt(f *storev1.Formation) error {
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	id := cloneIdentity(n.identity.Load())
	if id.GetFormation() != nil {
		return nil // Another call was faster; the next probe shows whether it was the same formation.
	}
	id.Formation = f
	if err := n.replaceIdentity(id); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FormationAdopted)
	n.log.Info("forming: agreed", "cluster", hex.EncodeToString(f.GetClusterId()))
	return nil
}

// HandleCall answers the questions of nodes that may not belong to a cluster yet.
func (h peerHandler) HandleCall(_ transport.Peer, r *peerv1.CallRequest) (*peerv1.CallResponse, error) {
	n := h.n
	switch body := r.GetBody().(type) {
	case *peerv1.CallRequest_Probe:
		id := n.identity.Load()
		return &peerv1.CallResponse{Body: &peerv1.CallResponse_Probe{Probe: &peerv1.ProbeResponse{
			NodeId: id.GetNodeId(), Incarnation: id.GetIncarnation(), PlanHash: planHash(n.options),
			ClusterId: id.GetFormation().GetClusterId(), Formed: id.GetFormed(),
		}}}, nil
	case *peerv1.CallRequest_Form:
		resp := &peerv1.FormResponse{Accepted: true}
		if err := n.acceptFormation(body.Form.GetFormation()); err != nil {
			resp.Accepted, resp.Refusal = false, err.Error()
		}
		return &peerv1.CallResponse{Body: &peerv1.CallResponse_Form{Form: resp}}, nil
	default:
		return nil, fmt.Errorf("unknown call: the peer speaks a newer protocol")
	}
}

// acceptFormation makes a formation durable that another member proposes, unless there is another one already.
func (n *Node) acceptFormation(f *storev1.Formation) error {
	own := n.identity.Load()
	if have := own.GetFormation().GetClusterId(); len(have) > 0 {
		if bytes.Equal(have, f.GetClusterId()) {
			return nil
		}
		return fmt.Errorf("node %s belongs to cluster %s already", own.GetNodeId(), hex.EncodeToString(have))
	}
	if err := checkFormation(f); err != nil {
		return fmt.Errorf("the formation is not sound: %w", err)
	}
	for _, m := range f.GetMembers() {
		if m.GetNodeId() == own.GetNodeId() && m.GetIncarnation() == own.GetIncarnation() {
			if err := n.adopt(f); err != nil {
				n.fail(err) // What the disk holds now is not known (R6).
				return err
			}
			return nil
		}
	}
	return fmt.Errorf("the formation does not list node %s with its disk", own.GetNodeId())
}
