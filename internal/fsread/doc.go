// Package fsread reads the files of an ext2, ext3 or ext4 without mounting it:
// from any block.Device, by anybody who can read that, and without writing a
// byte. What it shows is what the kernel would show of the same device after
// mounting it, so a journal that is not empty is replayed first, in memory.
//
//	fs, err := fsread.Open(ctx, dev, fsread.Options{})
//	n, err := fs.Lookup("/etc/hostname", true)
//	f, err := fs.OpenFile(n)
//	io.Copy(os.Stdout, io.NewSectionReader(f, 0, f.Size()))
//
// The image may hold anything. Whatever it says, no call panics, goes round in
// circles, or takes memory out of proportion: errors are of kind errs.Corrupt,
// or errs.Unsupported for what the kernel would read and cowl does not
// (encrypted files, features that are not known), and name the inode and the
// block. Damage in one place does not keep others from being read.
//
// Names are bytes as the disk has them, in Go strings that need not be UTF-8.
//
// Memory: caches are bounded by Options.CacheBytes. Directories are read
// piece by piece, however large. The journal takes 24 bytes for each block
// that it holds.
//
// Concurrency: all methods may be called in parallel. Nodes are values that
// nobody changes. Locks: cache.mu, never held over I/O.
package fsread
