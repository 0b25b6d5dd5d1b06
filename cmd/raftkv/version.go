package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version and commit are set when a release is linked.
var (
	version = "dev"
	commit  = "unknown"
)

func newVersion() *cobra.Command {
	format := newChoice("text", "text", "json")
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			platform := runtime.GOOS + "/" + runtime.GOARCH
			if format.value == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{
					"version": version, "commit": commit, "go": runtime.Version(), "platform": platform,
				})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "raftkv %s (commit %s, %s, %s)\n", version, commit, runtime.Version(), platform)
			return err
		},
	}
	format.add(c)
	return c
}
