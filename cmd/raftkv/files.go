package main

import "fmt"

// fileShares divides what a process may have open. A state that cannot open a table ends its node, so clients get what is left by all that the node needs, and no more.
type fileShares struct {
	// tables is how many tables the state keeps open.
	tables int
	// connections is how many connections each of the two ports of clients has at most, admin each of those for operators and probes.
	connections, admin int
}

const (
	tablesMax = 1000
	// otherFiles are for the log, tables in the making, peers and the admin port.
	otherFiles = 512
	// filesMin is what a node cannot do without.
	filesMin           = 64
	connectionsDefault = 10_000
	connectionsMax     = 1_000_000
	adminMax           = 64
)

// filesError says that the system lets the process have too few files open.
type filesError struct{ limit, need uint64 }

func (e *filesError) Error() string {
	return fmt.Sprintf("this process may have %d files open, and needs at least %d for its data and server.max_connections on each port: raise the limit (ulimit -n, LimitNOFILE of systemd), or lower max_connections",
		e.limit, e.need)
}

// divideFiles divides limit, which is that of the process, 0 if there is none. Its nodes have equal shares. connections is what the configuration says, 0 if that is for
// the node to choose: 10,000, or what there is room for.
func divideFiles(limit uint64, nodes, connections int) (fileShares, error) {
	f := fileShares{tables: tablesMax, connections: connections, admin: adminMax}
	if limit == 0 {
		if connections == 0 {
			f.connections = connectionsDefault
		}
		return f, nil
	}
	share := int(min(limit, 1<<30)) / nodes //nolint:gosec // bounded
	others := min(otherFiles, share/2)
	f.tables, f.admin = min(tablesMax, share/4), min(adminMax, others/4)
	room := (share - f.tables - others) / 2
	if connections == 0 {
		f.connections = min(connectionsDefault, room)
	}
	if share < filesMin || f.connections > room {
		need := filesMin
		if connections > 0 {
			need = tablesMax + otherFiles + 2*connections
		}
		return fileShares{}, &filesError{limit: limit, need: uint64(need * nodes)} //nolint:gosec // positive
	}
	return f, nil
}
