package replica

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// hurry lets go, under a planted bug, of what must wait until an append is durable (R3, R4).
func (r *Replica) hurry(out *Output) error {
	if !planted.Is(planted.VoteBeforeDurable) && !planted.Is(planted.AckBeforeDurable) && !planted.Is(planted.LeaderCountsItself) || out.Append == nil {
		return nil
	}
	var rest []*raftpb.Message
	for _, m := range out.Append.responses {
		switch {
		case m.GetType() == raftpb.MsgVoteResp && m.GetTo() != r.id && planted.Is(planted.VoteBeforeDurable),
			m.GetType() == raftpb.MsgAppResp && m.GetTo() != r.id && planted.Is(planted.AckBeforeDurable):
			out.Messages = append(out.Messages, m)
		case m.GetType() == raftpb.MsgAppResp && m.GetTo() == r.id && planted.Is(planted.LeaderCountsItself):
			if err := r.node.Step(m); err != nil {
				return err
			}
		default:
			rest = append(rest, m)
		}
	}
	out.Append.responses = rest
	return nil
}
