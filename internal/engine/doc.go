// Package engine runs a volume group in this process: it turns the group's
// model into stacks of devices, and changes them while they are in use.
//
// A plain volume is a map over the PVs' devices. Every activated one is put
// under a snap.Origin, to which its snapshots' stores are attached; together
// they are a family, which is activated and deactivated as one, as in LVM2.
// What users open is a volume, whose table can be changed between two of their
// requests as device-mapper's can.
//
// The engine does not find devices, lock them against other processes or know
// their paths: package manager does. It is not an interface to the kernel's
// device-mapper.
//
// # What is on disk when
//
// Every change of metadata is staged (metastore's precommit), then committed.
// The order of what surrounds the commit is what a crash, and whoever looks at
// the disk after it (cowl, lvm2, the kernel), depends on:
//
//   - A new volume: its first 4 KiB are zeroed and flushed while its extents
//     are still free, then the commit makes it visible.
//   - New snapshots: see CreateSnapshots.
//   - A removed snapshot: the commit first, while writes to the origin still
//     copy out; then it is detached. The other way round, a crash between the
//     two would leave a snapshot that has missed writes.
//   - A merge: the commit that marks it first, then the first merge step; when
//     nothing is left to merge, the commit that removes the snapshot. What
//     lies between can be cut anywhere and goes on at the next activation.
//   - A larger volume: the commit first, then the longer table. So, too, a
//     store that grows by itself: none of its new extents is written before.
//
// # Locks
//
// Group.changes (held by whatever alters metadata, tables or activation, over
// I/O), then Group.mu (state in memory only), then a table's gate. A table's
// gate is never taken with mu held, since closing it waits for I/O. watcher.mu
// is taken with none of them held but changes.
//
// Whoever holds changes may wait for requests (suspending a table) and for
// commits (package snap's). So neither may wait for changes: a commit never
// needs space that its store lacks, and a request that found none gives back
// its table's gate, extends the store under changes as any other change does,
// and is run again (grow.go). The goroutine that extends stores at their
// thresholds takes changes in the same way, and is told by a channel that a
// commit fills without waiting.
package engine
