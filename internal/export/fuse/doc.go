// Package fuse shows exports as files: one flat directory, one regular file an
// export, so that programs which know nothing of NBD can use them, mount -o
// loop first of all. It knows nothing of volumes.
//
// The files behave like disks: of a fixed size, whatever O_TRUNC says; not
// cached by the kernel, so that what a reader sees is what the device holds;
// and nobody can make, rename or remove one.
//
// It needs Linux; elsewhere Serve is errs.Unsupported.
//
// Locks: gate.mu and Mount.mu are never held together, nor across a call to
// the kernel, to a device or to the exports.
package fuse
