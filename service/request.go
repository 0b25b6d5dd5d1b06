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
func (c *readCall) prepare(key string) *raftnode.Request {
	c.keys[0] = key
	c.read.Keys = c.keys[:]
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

// deadline is when the service stops working on something that begins now and may take timeoutMs; 0 is the default.
func (s *Service) deadline(now time.Time, timeoutMs uint32) time.Time {
	timeout := time.Duration(timeoutMs) * time.Millisecond
	if timeout == 0 || timeout > s.limits.Timeout {
		timeout = s.limits.Timeout
	}
	return now.Add(timeout)
}
