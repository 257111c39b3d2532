// Package repo keeps images of volumes in a repository: deduplicated,
// compressed, encrypted, and incremental in that an image is stored as what
// differs from an earlier one. It is kopia's repository, through kopia's
// library, and what is in it is kopia's own snapshot format: the stock kopia
// lists, verifies and restores the images without cowl. docs/format/repository.md
// has every object and blob.
//
// What the package is not: it knows nothing of volume groups and snapshots.
// It stores the bytes of a block.Device, together with a record that says
// where they came from; package backup is what takes the snapshot and knows
// what has changed.
//
// # What is added to kopia
//
//   - Every blob is read back after it was written, or its checksum is
//     confirmed by the store (proof.go).
//   - The SHA-256 of every blob is kept in blobs of our own (sums.go), so that
//     any flipped byte is found by reading the store once, without decrypting.
//   - Locks that name their owner (lock.go): maintenance that frees space at
//     once needs the repository for itself; kopia's own waits a day instead.
//
// # The order of a backup
//
// Segments, then indexes, then the checksums of what was written, then the
// snapshot's manifest: its flush is the commit point. Whoever finds a backup
// in the list finds all of it in the store, read back. What an interrupted
// run has stored is found again by its hash, and not stored twice.
//
// Concurrency: a Repo's methods may be called in parallel. Goroutines of a
// call end before it does; the lock's keeper ends with Lock.Release.
package repo
