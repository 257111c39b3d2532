package cli

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildVersion is set by the linker in releases: -X cowl/internal/cli.buildVersion=1.0.
var buildVersion = ""

// program names this program and its version in metadata.
func program() string { return "cowl version " + version() }

// version is the release, or the commit that was built.
func version() string {
	if buildVersion != "" {
		return buildVersion
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return "devel-" + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "devel"
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show cowl's version", GroupID: groupOwn,
		Long:    "Show cowl's version and the formats that it works on.",
		Example: "  cowl version",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.say("%s", program())
			a.say("Metadata: LVM2 text format version 1; PV header extension version 2")
			a.say("Snapshots: dm-snapshot persistent exception store version 1")
			return nil
		},
	}
}
