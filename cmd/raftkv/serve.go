package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

const serveHelp = `Run one node. Without any settings it is a cluster of its own on 127.0.0.1:8080, with its data in ./data.

Settings come from a YAML file (--config), from environment variables and from flags; a later source overrides an earlier
one. The key section.name of the file, shown in brackets below, is the flag --name and the variable RAFTKV_NAME; in section
tls, --tls-name and RAFTKV_TLS_NAME. Everything that is wrong is reported at once.

Several nodes form a cluster when all of them are started with the same peers, shards and replicas:
  raftkv serve --node-id n1 --data-dir n1 --peers n1:127.0.0.1:7001,n2:127.0.0.1:7002,n3:127.0.0.1:7003
and the same with n2 and n3. A peer is id:host:port with the port for clients. Nodes reach each other on port + 100;
native gRPC is on port + 300, metrics and probes on port + 200.

Without TLS a node serves loopback addresses only, unless --insecure is given.

SIGINT and SIGTERM stop the node in order: requests under way are answered, leadership is handed over, the exit code is 0. A
node that can no longer promise what it must, because a disk fails, ends with exit code 1.`

func newServe() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long:  serveHelp,
		Args:  arguments(cobra.NoArgs),
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration file, YAML")
	addSettings(c.Flags())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		config, ignored, err := loadConfig(sources{file: file, environ: os.Environ(), flags: cmd.Flags()})
		if err != nil {
			return err
		}
		log, _ := newLogger(cmd.ErrOrStderr(), config.LogLevel, config.LogFormat)
		if len(ignored) > 0 {
			log.Warn("environment variables that look like settings and are none; 'raftkv serve --help' lists the settings",
				"variables", strings.Join(ignored, " "))
		}
		return serve(cmd.Context(), config, log)
	}
	return c
}

// serve runs a node until ctx ends or the node fails.
func serve(ctx context.Context, c *config, log *slog.Logger) error {
	tuneMemory()
	if !c.usesTLS() && (!isLoopback(c.Host) || !isLoopback(c.AdminHost)) {
		log.Warn("insecure: anybody who reaches the addresses of this node can read and write everything", "host", c.Host)
	}
	if !c.SyncWrite {
		log.Warn("no fsync: acknowledged writes are lost when the machine fails")
	}
	n, err := startNode(c, log)
	if err != nil {
		return err
	}
	failure := n.wait(ctx)
	if failure == nil {
		log.Info("stopping: requests under way are answered, leadership is handed over")
	}
	stopped := n.stop()
	if failure != nil {
		return failure // stopping a node that has failed tells nothing more
	}
	if stopped != nil {
		return fmt.Errorf("stop: %w", stopped)
	}
	log.Info("stopped")
	return nil
}
