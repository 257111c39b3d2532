//go:build linux

package fuse

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"cowl/internal/export"
)

const (
	dirMode      = 0o500
	fileMode     = 0o600
	readOnlyMode = 0o400

	// blockSize is what statfs reports. A loop device takes it for the unit
	// of discards, and allows none where it is 0.
	blockSize = 4096
	maxName   = 255
)

// root is the directory. The library says yes to what a directory does not
// have a method for, so it has one for everything that must be no.
type root struct {
	fs.Inode
	mount *Mount
}

var (
	_ fs.NodeLookuper  = (*root)(nil)
	_ fs.NodeReaddirer = (*root)(nil)
	_ fs.NodeGetattrer = (*root)(nil)
	_ fs.NodeSetattrer = (*root)(nil)
	_ fs.NodeStatfser  = (*root)(nil)
	_ fs.NodeCreater   = (*root)(nil)
	_ fs.NodeMkdirer   = (*root)(nil)
	_ fs.NodeMknoder   = (*root)(nil)
	_ fs.NodeSymlinker = (*root)(nil)
	_ fs.NodeLinker    = (*root)(nil)
	_ fs.NodeUnlinker  = (*root)(nil)
	_ fs.NodeRmdirer   = (*root)(nil)
	_ fs.NodeRenamer   = (*root)(nil)
)

// Lookup finds a file by its name.
func (r *root) Lookup(ctx context.Context, name string, out *gofuse.EntryOut) (*fs.Inode, syscall.Errno) {
	info, errno := r.mount.find(name)
	if errno != 0 {
		return nil, errno
	}
	fill(&out.Attr, info, r.mount)
	stable := fs.StableAttr{Mode: syscall.S_IFREG, Ino: r.mount.inode(name)}
	return r.NewInode(ctx, &entry{mount: r.mount, name: name}, stable), 0
}

// fill describes a file.
func fill(out *gofuse.Attr, info export.Info, m *Mount) {
	out.Mode = syscall.S_IFREG | fileMode
	if info.ReadOnly {
		out.Mode = syscall.S_IFREG | readOnlyMode
	}
	out.Size = uint64(info.Size)
	out.Blksize = blockSize
	out.Nlink = 1
	out.SetTimes(&m.started, &m.started, &m.started)
}

// Readdir lists the files.
func (r *root) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	if !r.mount.gate.enter() {
		return nil, syscall.EIO
	}
	defer r.mount.gate.leave()
	var entries []gofuse.DirEntry
	for _, info := range r.mount.exports.List() {
		entries = append(entries, gofuse.DirEntry{Name: info.Name, Mode: syscall.S_IFREG, Ino: r.mount.inode(info.Name)})
	}
	return fs.NewListDirStream(entries), 0
}

// Getattr describes the directory.
func (r *root) Getattr(_ context.Context, _ fs.FileHandle, out *gofuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFDIR | dirMode
	out.Nlink = 1
	out.SetTimes(&r.mount.started, &r.mount.started, &r.mount.started)
	return 0
}

// Statfs tells of the exports together. Nothing is free.
func (r *root) Statfs(_ context.Context, out *gofuse.StatfsOut) syscall.Errno {
	if !r.mount.gate.enter() {
		return syscall.EIO
	}
	defer r.mount.gate.leave()
	list := r.mount.exports.List()
	for _, info := range list {
		out.Blocks += uint64(info.Size) / blockSize
	}
	out.Files = uint64(len(list))
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, maxName
	return 0
}

// The rest of what can be asked of a directory is refused: volumes are made
// and removed by cowl's commands.

func (r *root) Setattr(context.Context, fs.FileHandle, *gofuse.SetAttrIn, *gofuse.AttrOut) syscall.Errno {
	return syscall.EPERM
}

func (r *root) Create(context.Context, string, uint32, uint32, *gofuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

func (r *root) Mkdir(context.Context, string, uint32, *gofuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (r *root) Mknod(context.Context, string, uint32, uint32, *gofuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (r *root) Symlink(context.Context, string, string, *gofuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (r *root) Link(context.Context, fs.InodeEmbedder, string, *gofuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (r *root) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }

func (r *root) Rmdir(context.Context, string) syscall.Errno { return syscall.EPERM }

func (r *root) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}
