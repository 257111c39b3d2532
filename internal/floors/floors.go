// Package floors holds cowl's layering and checks the source tree against it:
// which package may import which, that every package has a row in the table
// and a doc comment, and that the contracts of the lower floors are written
// down. It reads source text only, whatever the build tags, so that a darwin
// file cannot break what the linux build would not show.
//
// It is a test; nothing imports it.
package floors

import "strings"

// Row is one line of the table: a package, or a family of packages.
type Row struct {
	// Path is a package's directory, or "dir/..." for it and all below it.
	// Where several rows match a package, the longest path is its row.
	Path  string
	Holds string // what it is, in a phrase

	// Imports lists, as Paths, what of the floors below may be imported. nil
	// means all of them. Members of one "dir/..." may import each other.
	Imports []string

	// Pure packages compute: they neither do I/O nor take random numbers.
	Pure bool

	// Documented packages have a comment on every exported name.
	Documented bool

	// Test packages are for tests. The program never imports them, and they
	// may import testing.
	Test bool
}

// Table is the building from the roof down. A package imports rows below its
// own only. Tests of a package keep to that order too, but may use what their
// row's Imports leaves out, and every Test package.
var Table = []Row{
	{Path: "test/...", Holds: "judges that need the whole program", Test: true},
	{Path: "bench", Holds: "measures cowl beside its peers", Test: true},
	{Path: "cmd/cowl", Holds: "builds the environment, calls cli, exits with its code", Imports: []string{"internal/cli"}},
	{Path: "internal/cli/...", Holds: "one file a verb; reports; exit codes"},
	{Path: "internal/daemon", Holds: "the process that owns a group, and its client"},
	{Path: "internal/backup/repo/storetest", Holds: "what every place for a repository's blobs must do", Test: true},
	{Path: "internal/backup/...", Holds: "images, manifests, restore, over manager"},
	{Path: "internal/quiet", Holds: "applications and file systems rest while snapshots are taken", Documented: true,
		Imports: []string{"internal/manager", "internal/freeze", "internal/errs"}},
	{Path: "internal/kernelfs", Holds: "has the kernel read file systems, of any device", Documented: true,
		Imports: []string{"internal/export/...", "internal/snap", "internal/archive", "internal/volume", "internal/block/...", "internal/errs"}},
	{Path: "internal/export/...", Holds: "NBD and FUSE, over block devices only",
		Imports: []string{"internal/block/...", "internal/errs"}},
	{Path: "internal/manager", Holds: "groups and volumes by name, as verbs see them"},
	{Path: "internal/engine", Holds: "a group's volumes as stacks of devices, changed while in use"},
	{Path: "internal/hostlvm", Holds: "a group that the kernel runs, through lvm2 and device-mapper", Documented: true,
		Imports: []string{"internal/snap", "internal/freeze", "internal/devmapper", "internal/forecast", "internal/volume", "internal/block/...", "internal/errs"}},
	{Path: "internal/overlay", Holds: "copy-on-write files over untouched disks and images",
		Imports: []string{"internal/snap", "internal/volume", "internal/format/...", "internal/block/...", "internal/errs"}},
	{Path: "internal/kernelstat", Holds: "counts the writes to the kernel's volumes", Documented: true,
		Imports: []string{"internal/forecast", "internal/errs"}},
	{Path: "internal/freeze", Holds: "keeps file systems and kernel devices still for a moment", Documented: true,
		Imports: []string{"internal/devmapper", "internal/errs"}},
	{Path: "internal/guestagent", Holds: "asks virtual machines to freeze their file systems", Documented: true,
		Imports: []string{"internal/errs"}},
	{Path: "internal/devmapper", Holds: "asks the kernel's device-mapper, suspends and resumes", Documented: true,
		Imports: []string{"internal/volume", "internal/errs"}},
	{Path: "internal/snap", Holds: "the copy-on-write store over two devices; nothing of LVM", Documented: true,
		Imports: []string{"internal/format/dmsnap", "internal/block/...", "internal/errs"}},
	{Path: "internal/unpack", Holds: "puts trees into directories, and nothing outside of them", Documented: true,
		Imports: []string{"internal/archive", "internal/errs"}},
	{Path: "internal/fsdiff", Holds: "what differs between the files of two file systems", Documented: true,
		Imports: []string{"internal/archive", "internal/fsread", "internal/format/ext4", "internal/errs"}},
	{Path: "internal/archive", Holds: "trees as tar archives, and what is in such archives as trees", Documented: true,
		Imports: []string{"internal/fsread", "internal/format/ext4", "internal/errs"}},
	{Path: "internal/fsread", Holds: "files of an ext2, ext3 or ext4, without mounting it", Documented: true,
		Imports: []string{"internal/format/ext4", "internal/block/...", "internal/errs"}},
	{Path: "internal/fsread/fstree", Holds: "trees and images that file-system readers get wrong", Test: true},
	{Path: "internal/metastore", Holds: "reads, stages, commits and reverts a group's metadata"},
	{Path: "internal/forecast", Holds: "what a snapshot will need, from writes that were watched", Pure: true, Documented: true,
		Imports: []string{"internal/volume", "internal/errs"}},
	{Path: "internal/format/vgtext", Holds: "LVM2's metadata text to and from the model", Pure: true, Documented: true},
	{Path: "internal/volume", Holds: "the model of a volume group, and allocation", Pure: true, Documented: true,
		Imports: []string{"internal/format/config", "internal/errs"}},
	{Path: "internal/format/...", Holds: "bytes to structs and back", Pure: true, Documented: true,
		Imports: []string{"internal/errs"}},
	{Path: "internal/block/blocktest", Holds: "the conformance suite that every Device passes", Test: true},
	{Path: "internal/block/crash", Holds: "disks whose power can be cut", Test: true, Documented: true},
	{Path: "internal/block/...", Holds: "Device and its small family", Documented: true},
	{Path: "internal/kerneltest/...", Holds: "runs scripts under a real Linux kernel", Test: true},
	{Path: "internal/lvmtest", Holds: "runs the real lvm2 on loop devices of its own", Test: true},
	{Path: "internal/judge", Holds: "asks for tools that judge cowl's work", Test: true},
	{Path: "internal/floors", Holds: "this table", Test: true},
	{Path: "internal/errs", Holds: "kinds of errors"},
}

// find returns the index of the package's row, or -1.
func find(table []Row, pkg string) int {
	best, length := -1, -1
	for i, r := range table {
		if covers(r.Path, pkg) && len(r.Path) > length {
			best, length = i, len(r.Path)
		}
	}
	return best
}

// covers tells whether a path, which may end in "/...", is or includes pkg.
func covers(path, pkg string) bool {
	dir, family := strings.CutSuffix(path, "/...")
	return pkg == dir || family && strings.HasPrefix(pkg, dir+"/")
}

// allowed says why a package of the table must not import another, or "".
func allowed(table []Row, from, to string, inTest bool) string {
	f, t := find(table, from), find(table, to)
	if f < 0 || t < 0 {
		return "" // a missing row is a finding of its own
	}
	row, target := table[f], table[t]
	switch {
	case target.Test && (inTest || row.Test):
		return ""
	case target.Test:
		return "which is for tests only"
	case f == t:
		return "" // members of a family; Go itself refuses cycles
	case t < f:
		return "which is on a floor above it"
	case inTest || row.Imports == nil:
		return ""
	}
	for _, p := range row.Imports {
		if covers(p, to) {
			return ""
		}
	}
	return "which its row in the table does not list"
}
