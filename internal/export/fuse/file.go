//go:build linux

package fuse

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"cowl/internal/block"
)

// entry is an export's entry in the directory.
type entry struct {
	fs.Inode
	mount *Mount
	name  string
}

var (
	_ fs.NodeOpener    = (*entry)(nil)
	_ fs.NodeGetattrer = (*entry)(nil)
	_ fs.NodeSetattrer = (*entry)(nil)
)

// openFlags: nothing is cached, so that the device alone says what it holds;
// writes run in parallel, as on a disk; close asks for nothing.
const openFlags = gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_PARALLEL_DIRECT_WRITES | gofuse.FOPEN_NOFLUSH

// Open opens the export.
func (f *entry) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if !f.mount.gate.enter() {
		return nil, 0, syscall.EIO
	}
	defer f.mount.gate.leave()
	dev, err := f.mount.exports.Open(f.name)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && dev.Caps().ReadOnly {
		dev.Close()
		return nil, 0, syscall.EROFS
	}
	h := &handle{mount: f.mount, dev: dev, sync: flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0}
	f.mount.mu.Lock()
	f.mount.handles[h] = true
	f.mount.mu.Unlock()
	return h, openFlags, 0
}

// Getattr describes the file, with its present size.
func (f *entry) Getattr(_ context.Context, _ fs.FileHandle, out *gofuse.AttrOut) syscall.Errno {
	info, errno := f.mount.find(f.name)
	if errno == 0 {
		fill(&out.Attr, info, f.mount)
	}
	return errno
}

// Setattr takes what a program that writes to a disk may ask for: to empty it
// first (O_TRUNC, which a disk ignores), to give it the size it has, and to
// set its times, which nobody keeps.
func (f *entry) Setattr(_ context.Context, _ fs.FileHandle, in *gofuse.SetAttrIn, out *gofuse.AttrOut) syscall.Errno {
	info, errno := f.mount.find(f.name)
	if errno != 0 {
		return errno
	}
	if in.Valid&(gofuse.FATTR_MODE|gofuse.FATTR_UID|gofuse.FATTR_GID) != 0 {
		return syscall.EPERM
	}
	if size, ok := in.GetSize(); ok && size != 0 && size != uint64(info.Size) {
		return syscall.EINVAL
	}
	fill(&out.Attr, info, f.mount)
	out.Ino = f.mount.inode(f.name)
	out.Owner = gofuse.Owner{Uid: uint32(syscall.Getuid()), Gid: uint32(syscall.Getgid())}
	out.SetTimeout(cacheTime)
	return 0
}

// handle is an open file.
type handle struct {
	mount *Mount
	dev   block.Device
	sync  bool // each write is to be durable when it returns
}

var (
	_ fs.FileReader    = (*handle)(nil)
	_ fs.FileWriter    = (*handle)(nil)
	_ fs.FileFsyncer   = (*handle)(nil)
	_ fs.FileAllocater = (*handle)(nil)
	_ fs.FileLseeker   = (*handle)(nil)
	_ fs.FileReleaser  = (*handle)(nil)
)

// Read reads up to the end of the device.
func (h *handle) Read(_ context.Context, p []byte, off int64) (gofuse.ReadResult, syscall.Errno) {
	if !h.mount.gate.enter() {
		return nil, syscall.EIO
	}
	defer h.mount.gate.leave()
	p = p[:h.within(off, len(p))]
	if _, err := h.dev.ReadAt(p, off); err != nil && len(p) > 0 {
		return nil, errnoOf(err)
	}
	return gofuse.ReadResultData(p), 0
}

// within returns how many of n bytes at off lie within the device.
func (h *handle) within(off int64, n int) int {
	return int(min(max(h.dev.Size()-off, 0), int64(n)))
}

// Write writes up to the end of the device, and behind it nothing: as on a
// disk, that is ENOSPC.
func (h *handle) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if !h.mount.gate.enter() {
		return 0, syscall.EIO
	}
	defer h.mount.gate.leave()
	n := h.within(off, len(p))
	if n == 0 && len(p) > 0 {
		return 0, syscall.ENOSPC
	}
	if _, err := h.dev.WriteAt(p[:n], off); err != nil {
		return 0, errnoOf(err)
	}
	if h.sync {
		if err := h.dev.Flush(); err != nil {
			return 0, errnoOf(err)
		}
	}
	return uint32(n), 0
}

// Fsync flushes the device.
func (h *handle) Fsync(context.Context, uint32) syscall.Errno {
	if !h.mount.gate.enter() {
		return syscall.EIO
	}
	defer h.mount.gate.leave()
	return errnoOf(h.dev.Flush())
}

// Allocate serves fallocate. A hole must read as zeroes afterwards, which a
// Discard does not promise, and a loop device relies on it: both ways of
// freeing space are WriteZeroes, and only where that costs no more than it
// should. Elsewhere callers write the zeroes themselves, or do without.
func (h *handle) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	if !h.mount.gate.enter() {
		return syscall.EIO
	}
	defer h.mount.gate.leave()
	end := uint64(h.dev.Size())
	outside := off > end || size > end-off
	switch mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0: // all of a disk is there already
		if outside {
			return syscall.ENOSPC
		}
		return 0
	case unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE:
	default:
		return syscall.EOPNOTSUPP
	}
	switch {
	case !h.dev.Caps().Zeroes:
		return syscall.EOPNOTSUPP
	case outside && mode&unix.FALLOC_FL_KEEP_SIZE == 0:
		return syscall.ENOSPC
	case outside:
		off = min(off, end)
		size = end - off
	}
	return errnoOf(h.dev.WriteZeroes(int64(off), int64(size)))
}

// Lseek serves SEEK_DATA and SEEK_HOLE.
func (h *handle) Lseek(_ context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	if !h.mount.gate.enter() {
		return 0, syscall.EIO
	}
	defer h.mount.gate.leave()
	size := h.dev.Size()
	if off >= uint64(size) {
		return 0, syscall.ENXIO
	}
	for e, err := range h.dev.Extents(int64(off), size-int64(off)) {
		if err != nil {
			return 0, errnoOf(err)
		}
		if (e.Kind == block.Data) == (whence == unix.SEEK_DATA) {
			return uint64(e.Off), 0
		}
	}
	if whence == unix.SEEK_DATA {
		return 0, syscall.ENXIO
	}
	return uint64(size), 0 // every file ends in a hole
}

// Release closes the export. Nobody hears of an error any more.
func (h *handle) Release(context.Context) syscall.Errno {
	h.mount.mu.Lock()
	mine := h.mount.handles[h] // or Close has taken them all
	delete(h.mount.handles, h)
	h.mount.mu.Unlock()
	if mine {
		return errnoOf(h.dev.Close())
	}
	return 0
}
