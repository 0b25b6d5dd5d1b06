package raftnode

import (
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// raftLogger gives raft's messages to slog. What raft calls information is debugging here: the node logs leaders itself.
type raftLogger struct{ log *slog.Logger }

var _ raft.Logger = raftLogger{}

func (l raftLogger) Debug(v ...any)                   { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Debugf(format string, v ...any)   { l.debug(format, v) }
func (l raftLogger) Info(v ...any)                    { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Infof(format string, v ...any)    { l.debug(format, v) }
func (l raftLogger) Warning(v ...any)                 { l.log.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) { l.debug(format, v) }
func (l raftLogger) Error(v ...any)                   { l.log.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l raftLogger) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }

// debug formats only what is wanted.
func (l raftLogger) debug(format string, v []any) {
	if l.log.Enabled(nil, slog.LevelDebug) { //nolint:staticcheck // slog's handlers here use no context
		l.log.Debug(fmt.Sprintf(format, v...))
	}
}

func nodeID(r *storev1.Replica) placement.NodeID { return placement.NodeID(r.GetNodeId()) }
