package cli

import "github.com/spf13/cobra"

// verbs are all commands, in the order of the help. To add one, write a file
// with a function like these and name it here.
var verbs = []func(*app) *cobra.Command{
	newPVs, newPVDisplay,
	newVGs, newVGDisplay,
	newLVs, newLVDisplay,
}
