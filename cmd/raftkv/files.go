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
	// tablesMin is what the state engine takes at the least.
	tablesMin = 75
	// otherFiles are for the log, tables in the making, peers and the admin port.
	otherFiles = 512
	// filesMin is what a node cannot do without: four times tablesMin.
	filesMin           = 300
	connectionsDefault = 10_000
	connectionsMax     = 1_000_000
	adminMax           = 64
)

// filesError says that the system lets the process have too few files open, and how many are enough.
type filesError struct {
	limit, enough uint64
	// configured: it is for the number of connections that the configuration asks for.
	configured bool
}

func (e *filesError) Error() string {
	what, otherwise := "its data", ""
	if e.configured {
		what, otherwise = "its data and server.max_connections on each port", ", or lower max_connections"
	}
	return fmt.Sprintf("this process may have %d files open; %d are enough for %s: raise the limit (ulimit -n, LimitNOFILE of systemd)%s", e.limit, e.enough, what, otherwise)
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
	f.tables, f.admin = max(tablesMin, min(tablesMax, share/4)), min(adminMax, others/4)
	room := (share - f.tables - others) / 2
	if connections == 0 {
		f.connections = min(connectionsDefault, room)
	}
	if share < filesMin || f.connections > room {
		enough := filesMin
		if connections > 0 {
			enough = tablesMax + otherFiles + 2*connections
		}
		return fileShares{}, &filesError{limit: limit, enough: uint64(enough * nodes), configured: connections > 0} //nolint:gosec // positive
	}
	return f, nil
}
