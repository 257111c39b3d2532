// Package snap is the copy-on-write engine: snapshots of a block device in the
// Linux kernel's persistent exception store, compatible with dm-snapshot in
// both directions. It stacks over two devices, an origin and a COW device, and
// knows nothing of LVM.
//
// # The life of a write
//
// A write to an Origin whose chunks every snapshot has already copied goes
// straight to the origin device. Any other is staged in memory and
// acknowledged, as a disk with a volatile write cache does (stage.go): it
// belongs to a generation, which is what one commit takes. A commit
// (queue.go, commit.go) does, for the whole generation:
//
//  1. read the old chunks from the origin, coalesced, each once for all snapshots;
//  2. write them to every COW device, in order of new chunk, along with the
//     exception areas behind the current one, and a zeroed area behind a full one;
//  3. flush the COW devices;
//  4. write each store's current area: this publishes the exceptions;
//  5. flush the COW devices;
//  6. enter the exceptions into the index, from where reads find them;
//  7. write the origin, and complete the requests that were waited for.
//
// A client's Flush commits what came before it, and then flushes the origin. A
// commit also begins when a generation is full, and a moment after a
// generation's first write.
//
// A generation copies out for the snapshots that existed when its writes came.
// Attaching a snapshot seals the generation, so that it need not wait for
// what is staged: the new snapshot's reads look into the older generations
// as the origin's do, until they are committed.
//
// So at any power cut an exception on disk points to complete data, and the
// origin never holds new data whose old data is not safe. The kernel's commit
// has the same order (drivers/md/dm-snap-persistent.c); it flushes once per
// area write because it holds each origin write back until then.
//
// # Room
//
// Where a store must not overflow (Snapshot.Reserve), a write that it may have
// no chunks for is refused before it is staged (room.go): what is acknowledged
// can always be committed. The refused request gives back the gate and tells
// its caller, who may find more room, and asks again. So a commit never waits
// for space, and whoever extends a store may hold what others hold who wait
// for a commit.
//
// # Reads without locks
//
// A snapshot read that finds no exception reads the origin and then looks
// again: if the chunk has been excepted meanwhile, what was read may be torn,
// and the COW has it. Step 7 comes after step 6, so that if the second look
// finds nothing, no origin write had begun.
//
// # Lock order
//
// Origin.gate, then merge.twice, then committer.mu, then Store.mu. No lock is
// held over I/O except gate: for reading over a request that is not staged, for
// writing over the commit that begins a merge or detaches a snapshot; and
// twice, over a write that a merge wants on both devices. A commit takes
// neither, so that whoever holds them may wait for one.
package snap
