// Package backup makes images of logical volumes that can be proved, and
// writes them back. It sees volumes through manager.Group only, so it is the
// same over cowl's own engine, over a daemon, and over any Group to come.
//
// A backup is three files in a directory that already exists:
//
//	VG-LV.20060102T150405Z.raw          the image, sparse (or .tar, .qcow2)
//	VG-LV.20060102T150405Z.raw.json     its manifest (see Manifest)
//	VG-LV.20060102T150405Z.raw.sha256   for sha256sum -c: image and manifest
//
// The image's name is the commit point. It is written as
// ".NAME.partial", flushed, read back and compared with the hashes of what
// was read from the volume; then manifest and checksums get their names, and
// the image last. Whoever finds an image under its name finds a verified one
// with everything beside it; whatever a crash leaves is hidden and says
// "partial". Before reading back, the page cache is asked to forget the file
// (posix_fadvise DONTNEED, Linux), so that on most file systems the bytes
// come from the device; other systems may answer from memory.
//
// The source is a snapshot: one of our own making, tagged Tag, that is
// removed as soon as the last byte was read, or a snapshot that the caller
// names, which stays. A snapshot that overflows or vanishes on the way fails
// the backup: its status is looked at after the last read.
//
// RunRepository backs up into a repository instead (package repo), which is
// the store: history, deduplication and encryption are its matter. This package
// takes the snapshot, watches it, and says what the image is of.
//
// Concurrency: the functions may run in parallel, also for one volume into
// one directory. There are no locks; goroutines of a call end before it does.
package backup
