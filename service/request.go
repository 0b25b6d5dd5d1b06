package service

import (
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// readCall is a read of one key, with everything that the node needs of it in one allocation.
type readCall struct {
	request raftnode.Request
	read    peerv1.ReadRequest
	keys    [1]string
}

// prepare fills the request in; Deadline and Done are left to the caller.
func (c *readCall) prepare(m *raftkvv1.GetRequest, stale *peerv1.Stale) *raftnode.Request {
	if m.GetRevision() != 0 {
		c.read.Past = []*peerv1.PastRead{{Key: m.GetKey(), Revision: m.GetRevision()}}
	} else {
		c.keys[0] = m.GetKey()
		c.read.Keys = c.keys[:]
	}
	c.read.Stale = stale
	c.request.Read = &c.read
	c.request.AutoShard = true
	return &c.request
}

// writeCall is a write of one key, in one allocation too.
type writeCall struct {
	request   raftnode.Request
	command   storev1.Command
	body      storev1.Command_Write
	write     storev1.Write
	operation storev1.Operation
	list      [1]*storev1.Operation
	id        storev1.RequestId
}

// put is the request of a Put; Deadline and Done are left to the caller.
func (c *writeCall) put(m *raftkvv1.PutRequest) *raftnode.Request {
	r := c.prepare(storev1.OperationKind_OPERATION_KIND_PUT, m.GetKey(), m.GetValue(), m.GetRequestId())
	c.operation.TtlMs, c.operation.Lease = m.GetTtlMs(), m.GetLeaseId()
	c.write.Compares = compares(m.GetKey(), m.GetCondition())
	if m.GetPrevKv() {
		r.After = previousOf(m.GetKey())
	}
	return r
}

// remove is the request of a Delete; Deadline and Done are left to the caller.
func (c *writeCall) remove(m *raftkvv1.DeleteRequest) *raftnode.Request {
	r := c.prepare(storev1.OperationKind_OPERATION_KIND_DELETE, m.GetKey(), nil, m.GetRequestId())
	c.write.Compares = compares(m.GetKey(), m.GetCondition())
	if m.GetPrevKv() {
		r.After = previousOf(m.GetKey())
	}
	return r
}

// prepare fills the request in; Deadline and Done are left to the caller.
func (c *writeCall) prepare(kind storev1.OperationKind, key string, value []byte, id *raftkvv1.RequestId) *raftnode.Request {
	c.operation.Kind, c.operation.Key, c.operation.Value = kind, key, value
	c.list[0] = &c.operation
	c.write.Operations = c.list[:]
	c.body.Write = &c.write
	c.command.Body = &c.body
	if id != nil {
		c.id.ClientId, c.id.Sequence, c.id.Seen, c.id.AckedBelow = id.GetClientId(), id.GetSequence(), id.GetSeen(), id.GetAckedBelow()
		c.command.RequestId = &c.id
	}
	c.request.Command = &c.command
	c.request.AutoShard = true
	return &c.request
}

// compares are the condition of a write of a key, which has passed the rules, as the state machine takes it; none if there is none.
func compares(key string, m *raftkvv1.Condition) []*storev1.Compare {
	switch c := m.GetCondition().(type) {
	case *raftkvv1.Condition_Exists:
		return []*storev1.Compare{{Key: key, Condition: &storev1.Compare_Exists{Exists: c.Exists}}}
	case *raftkvv1.Condition_ModRevision:
		return []*storev1.Compare{{Key: key, Condition: &storev1.Compare_ModRevision{ModRevision: c.ModRevision}}}
	default:
		return nil
	}
}

// deadline is when the service stops working on something that begins now and may take timeoutMs; 0 is the default.
func (s *Service) deadline(now time.Time, timeoutMs uint32) time.Time {
	timeout := time.Duration(timeoutMs) * time.Millisecond
	if timeout == 0 || timeout > s.limits.Timeout {
		timeout = s.limits.Timeout
	}
	return now.Add(timeout)
}
