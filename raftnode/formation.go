package raftnode

import (
	"errors"
	"fmt"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// checkFormation says why a formation cannot be one that plan has made. It comes from another node, or from a disk, and everything
// behind it takes it for sound: a node that had made an unsound one durable could never start again.
func checkFormation(f *storev1.Formation) error {
	if len(f.GetClusterId()) != 16 {
		return fmt.Errorf("the cluster id has %d bytes, not 16", len(f.GetClusterId()))
	}
	members := make(map[string]uint64)
	for _, m := range f.GetMembers() {
		if m.GetNodeId() == "" || m.GetIncarnation() == 0 || members[m.GetNodeId()] != 0 {
			return fmt.Errorf("member %q is without name or disk, or there twice", m.GetNodeId())
		}
		members[m.GetNodeId()] = m.GetIncarnation()
	}
	if len(f.GetShards()) < 2 || f.GetShards()[0].GetId() != uint32(placement.MetaShard) {
		return errors.New("it lacks the meta shard or has no other")
	}
	var served placement.SlotSet
	for i, s := range f.GetShards() {
		if i > 0 && s.GetId() <= f.GetShards()[i-1].GetId() {
			return fmt.Errorf("shard %d is out of order", s.GetId())
		}
		if err := checkReplicas(s.GetReplicas(), members); err != nil {
			return fmt.Errorf("shard %d: %w", s.GetId(), err)
		}
		if err := checkServed(s, &served); err != nil {
			return fmt.Errorf("shard %d: %w", s.GetId(), err)
		}
	}
	if served != placement.AllSlots() {
		return fmt.Errorf("%d of %d slots are served", served.Len(), placement.SlotCount)
	}
	return nil
}

// checkReplicas wants each to have an id of its own and to be on a node of its own.
func checkReplicas(replicas []*storev1.Replica, members map[string]uint64) error {
	if len(replicas) == 0 {
		return errors.New("no replica")
	}
	ids, nodes := make(map[uint64]bool), make(map[string]bool)
	for _, r := range replicas {
		if r.GetId() == 0 || ids[r.GetId()] || nodes[r.GetNodeId()] {
			return fmt.Errorf("replica %d on node %q is without id, or there twice", r.GetId(), r.GetNodeId())
		}
		if incarnation := members[r.GetNodeId()]; incarnation == 0 || incarnation != r.GetIncarnation() {
			return fmt.Errorf("replica %d is on node %q, which is no member with that disk", r.GetId(), r.GetNodeId())
		}
		ids[r.GetId()], nodes[r.GetNodeId()] = true, true
	}
	return nil
}

// checkServed adds the slots of a shard to those of the shards before it, none of which it may serve.
func checkServed(s *storev1.Formation_Shard, served *placement.SlotSet) error {
	runs := s.GetSlots().GetRuns()
	if (len(runs) == 0) != (s.GetId() == uint32(placement.MetaShard)) {
		return fmt.Errorf("%d runs of slots", len(runs))
	}
	for _, r := range runs {
		run, err := placement.NewSlotRun(r.GetFirst(), r.GetLast())
		if err != nil {
			return err
		}
		if r.GetState() != storev1.SlotState_SLOT_STATE_SERVING {
			return fmt.Errorf("slots %d to %d are not served", run.First, run.Last)
		}
		before := served.Len()
		served.AddRun(run)
		if served.Len() != before+run.Len() {
			return fmt.Errorf("slots %d to %d are served twice", run.First, run.Last)
		}
	}
	return nil
}
