// Package metastore keeps volume groups' metadata on their physical volumes, by
// LVM2's protocol: it reads PVs (ReadPV), sorts them into groups (Assemble),
// changes a group's metadata so that a crash at any byte leaves the old or the
// new (Store), and makes and unmakes PVs (CreatePV, WipePV). Backup and archive
// files are written on the way.
//
// It does not decide what a group's metadata says (package volume does), find
// devices, or keep other processes away: whoever opens the devices holds the
// locks. Readers need none; ReadPV copes with a commit by another process.
//
// # The order of writes
//
// A metadata area has a header sector with two slots that point into a circular
// buffer of texts; slot 0 is the committed text, slot 1 the precommitted one.
//
//	Precommit   the new text to every area, into sectors that the committed
//	            text does not use; flush
//	            slot 1 = the new text in every area; flush
//	Commit      slot 0 = the new text and slot 1 = nothing in every area, one
//	            sector each: the first to reach a disk is the commit; flush
//	            in-use flags of PVs that joined or left, slots of those that
//	            left; flush
//
// The sequence number is one higher in the new text, and the highest wins when
// a group is assembled, so it does not matter which areas a power cut reaches.
// The flags come last on the way in and first on the way out (Remove), so that
// a crash never leaves a PV that claims to be in use by a group that is gone.
//
// # Locks
//
// Store.mu guards all of a Store and is held over its I/O. PV and MDA values
// belong to the Store that was opened over them.
package metastore
