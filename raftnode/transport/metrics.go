package transport

import "sync/atomic"

// Metrics counts since New.
type Metrics struct {
	MessagesSent     uint64 // written to a connection
	BatchesSent      uint64 // frames they went in
	BytesSent        uint64 // of those frames
	MessagesReceived uint64 // handed to the Handler
	BytesReceived    uint64 // of their frames' payloads
	// MessagesRefused were not taken by Send.
	MessagesRefused uint64
	// MessagesLost were taken by Send and fell with their connection; those being written then may have arrived.
	MessagesLost uint64
	// MessagesDropped arrived but were for another incarnation of this node, or of a kind it does not know.
	MessagesDropped uint64
	// ConnectionsRefused came from others and ended at a bound, in TLS or with their Hello.
	ConnectionsRefused uint64
	// ConnectionsBroken came from others, were good at first and then did something wrong or nothing for too long.
	ConnectionsBroken uint64
}

// counters are what Metrics is a copy of.
type counters struct {
	messagesSent, batchesSent, bytesSent             atomic.Uint64
	messagesReceived, bytesReceived, messagesDropped atomic.Uint64
	messagesRefused, messagesLost                    atomic.Uint64
	connectionsRefused, connectionsBroken            atomic.Uint64
}

// Metrics returns the counters as they stand.
func (t *Transport) Metrics() Metrics {
	n := &t.n
	return Metrics{
		MessagesSent:       n.messagesSent.Load(),
		BatchesSent:        n.batchesSent.Load(),
		BytesSent:          n.bytesSent.Load(),
		MessagesReceived:   n.messagesReceived.Load(),
		BytesReceived:      n.bytesReceived.Load(),
		MessagesRefused:    n.messagesRefused.Load(),
		MessagesLost:       n.messagesLost.Load(),
		MessagesDropped:    n.messagesDropped.Load(),
		ConnectionsRefused: n.connectionsRefused.Load(),
		ConnectionsBroken:  n.connectionsBroken.Load(),
	}
}
