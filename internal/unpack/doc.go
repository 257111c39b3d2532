// Package unpack brings files back: it puts a tree (package archive) into a
// directory of the running system, with owners, modes, times, hard links,
// symbolic links, devices, extended attributes, ACLs and holes.
//
// The tree may come from a hostile image, and the directory may have links in
// it that somebody placed there. Whatever the names in the tree are, nothing is
// made or changed outside of the directory: all names are resolved below an
// os.Root, and no link that stands in the way is followed.
//
// A file grows under a name of its own (".cowl.XXXXXXXX.partial") and gets its
// final one when its content and all that is known of it are in place. Files that
// exist are left alone unless Options.Overwrite is set, and are then replaced
// in one step; directories that exist are filled, and never removed. Before
// Unpack returns without an error, all is on the disk.
//
// What the system does not let us set (owners, without root) is counted in the
// report, each kind with an example. A file whose owner could not be set gets
// no set-user-ID and set-group-ID bits.
//
// Memory: an entry for each directory on the way down, and one for each file
// with several names until all of them were seen.
package unpack
