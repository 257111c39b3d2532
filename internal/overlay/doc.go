// Package overlay is copy-on-write over a plain disk or image: all writes go
// to a file, and the base stays as it was. Several overlays may share a base,
// and one can be merged into it later.
//
// An overlay's file is a kernel exception store from its first byte on, which
// package snap reads and writes, with a label behind the header's sector that
// says which base it belongs to (package ovlabel, docs/format/overlay.md). The
// snapshot is the overlay's content, its origin the base, which nobody writes.
//
// # When exceptions are published
//
// A snapshot of a volume must have an exception on disk before the origin is
// written. Here the origin is never written, so an exception need not be on
// disk before somebody asks for a flush: until then the ledger (ledger.go)
// holds the areas back that snap writes, and lets its flushes be. A client's
// flush is then: flush the data; write the areas behind the one that is
// current on disk, and flush; write that one, which publishes all of them, and
// flush.
//
// # Room
//
// A write that cannot be stored must fail and change nothing else. For snap,
// as for the kernel, a store that cannot be written is invalid for good. So
// room is made in the file system before snap hears of a write (room.go), and
// where there is none the write fails with errs.NoSpace. If the file fails in
// another way, the overlay fails from then on until it is opened again; the
// file is not marked, and holds what was flushed.
//
// # Who may do what
//
// An open overlay holds an exclusive lock on its file and a shared one on
// everything that its base consists of. A merge holds the base exclusively.
//
// # Lock order
//
// ledger.publishing, then ledger.mu. room.mu is taken alone. None but
// publishing and room.mu is held over I/O.
package overlay
