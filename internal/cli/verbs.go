package cli

import "github.com/spf13/cobra"

// verbs are all commands, in the order of the help. To add one, write a file
// with a function like these and name it here.
var verbs = []func(*app) *cobra.Command{
	newPVCreate, newPVs, newPVDisplay, newPVScan, newPVResize, newPVRemove,
	newVGCreate, newVGExtend, newVGReduce, newVGChange, newVGs, newVGDisplay, newVGRemove,
	newLVCreate, newLVExtend, newLVChange, newLVConvert, newLVs, newLVDisplay, newLVRemove,
	newServe, newOverlay, newAdvise, newMap,
	newSnapshot, newRollback, newBackup, newList, newVerify, newDrill, newRestore, newForget, newCleanup, newRepo, newJob, newGuest,
	newLs, newCat, newCp, newTar, newDiff, newDemo, newVersion,
}
