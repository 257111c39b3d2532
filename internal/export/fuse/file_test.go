//go:build linux

package fuse

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// A volume that is used through its file must be the same device as one that
// is opened directly.
func TestFileConforms(t *testing.T) {
	exports := newShelf()
	_, dir := serve(t, exports)
	n := 0
	blocktest.Run(t, func(t *testing.T, size int64) block.Device {
		n++
		name := strings.Repeat("v", n)
		if n == maxName {
			n = 0
		}
		exports.with(name, newHooked(size))
		d, err := file.Open(filepath.Join(dir, name), file.Options{})
		check(t, err)
		return d
	}, blocktest.Options{Steps: 300, Zeroed: true})
}

// What ls shows, and that a file holds what its device holds.
func TestDirectory(t *testing.T) {
	ro := newHooked(8192)
	ro.caps.ReadOnly = true
	vol := mem.New(1<<20 + 512)
	exports := newShelf().with("vol", vol).with("snap", ro)
	_, dir := serve(t, exports)

	list, err := os.ReadDir(dir)
	check(t, err)
	if len(list) != 2 || list[0].Name() != "snap" || list[1].Name() != "vol" || !list[0].Type().IsRegular() {
		t.Errorf("directory holds %v", list)
	}
	for name, want := range map[string]struct {
		mode os.FileMode
		size int64
	}{
		"vol":  {0o600, 1<<20 + 512},
		"snap": {0o400, 8192},
		"":     {0o500 | os.ModeDir, 0},
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		check(t, err)
		st := fi.Sys().(*syscall.Stat_t)
		if fi.Mode() != want.mode || fi.Size() != want.size || int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
			t.Errorf("%q: mode %v size %d owner %d:%d, want %v %d", name, fi.Mode(), fi.Size(), st.Uid, st.Gid, want.mode, want.size)
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, "vol"), []byte("hello"), 0)) // truncates, as "dd of=" does
	got, err := os.ReadFile(filepath.Join(dir, "vol"))
	check(t, err)
	want := make([]byte, 1<<20+512)
	vol.ReadAt(want, 0)
	if !bytes.Equal(got, want) || string(want[:5]) != "hello" {
		t.Error("the file does not hold what the device holds")
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// The directory is not a place to keep things in. Also root is refused: the
// library would say yes to some of these and do nothing.
func TestNothingCanBeMade(t *testing.T) {
	_, dir := serve(t, newShelf().with("vol", mem.New(4096)))
	vol, other := filepath.Join(dir, "vol"), filepath.Join(dir, "other")
	for name, err := range map[string]error{
		"create":  func() error { _, err := os.Create(other); return err }(),
		"mkdir":   os.Mkdir(other, 0o700),
		"mkfifo":  unix.Mkfifo(other, 0o600),
		"symlink": os.Symlink("vol", other),
		"link":    os.Link(vol, other),
		"rename":  os.Rename(vol, other),
		"unlink":  os.Remove(vol),
		"rmdir":   unix.Rmdir(vol),
		"chmod":   os.Chmod(vol, 0o777),
		"chown":   os.Chown(vol, 1, 1),
		"chmod .": os.Chmod(dir, 0o777),
		"grow":    os.Truncate(vol, 8192),
		"shrink":  os.Truncate(vol, 1024),
	} {
		if err == nil {
			t.Errorf("%s succeeded", name)
		}
	}
	check(t, os.Truncate(vol, 4096))
	check(t, unix.Utimes(vol, make([]unix.Timeval, 2)))
	list, err := os.ReadDir(dir)
	check(t, err)
	if len(list) != 1 {
		t.Errorf("directory holds %v", list)
	}
}

// The end of the device is the end of the file, whatever is tried there.
func TestEndOfFile(t *testing.T) {
	dev := newHooked(10000)
	_, dir := serve(t, newShelf().with("vol", dev))
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	p := bytes.Repeat([]byte("x"), 4096)
	for _, tt := range []struct {
		off  int64
		n    int
		want error
	}{{9999, 1, nil}, {9000, 1000, nil}, {10000, 0, unix.ENOSPC}, {1 << 40, 0, unix.ENOSPC}} {
		if n, err := unix.Pwrite(fd, p, tt.off); !errors.Is(err, tt.want) || err == nil && n != tt.n {
			t.Errorf("write at %d: %d, %v, want %d, %v", tt.off, n, err, tt.n, tt.want)
		}
		if n, err := unix.Pread(fd, make([]byte, 4096), tt.off); n != tt.n || err != nil {
			t.Errorf("read at %d: %d, %v, want %d", tt.off, n, err, tt.n)
		}
	}
	p = make([]byte, 2)
	dev.Device.ReadAt(p, 9999)
	if string(p) != "x\x00" {
		t.Errorf("around the end of the device: %q", p)
	}
}

// fsync is what a database, or a loop device's flush, trusts.
func TestFsync(t *testing.T) {
	dev := newHooked(1 << 20)
	_, dir := serve(t, newShelf().with("vol", dev))
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	check(t, unix.Fsync(fd))
	check(t, unix.Fdatasync(fd))
	if dev.flushed() != 2 {
		t.Errorf("%d flushes after fsync and fdatasync", dev.flushed())
	}
	for _, flag := range []int{unix.O_SYNC, unix.O_DSYNC} {
		before := dev.flushed()
		fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR|flag)
		_, err := unix.Pwrite(fd, []byte("x"), 0)
		check(t, err)
		if dev.flushed() == before {
			t.Errorf("no flush after a write with flag %#x", flag)
		}
	}
	dev.failWith(io.ErrUnexpectedEOF)
	if err := unix.Fsync(fd); !errors.Is(err, unix.EIO) {
		t.Errorf("failed flush: fsync says %v", err)
	}
	dev.failWith(nil)
}

// A punched hole reads as zeroes, or is refused: a loop device's BLKZEROOUT
// becomes one. On a device that cannot zero cheaply it is refused.
func TestFallocate(t *testing.T) {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	cheap, dear := newHooked(1<<20), newHooked(1<<20)
	dear.caps.Zeroes = false
	_, dir := serve(t, newShelf().with("cheap", cheap).with("dear", dear))
	tests := []struct {
		mode            uint32
		off, n          int64
		cheap, dear     error
		zeroed, zeroEnd int64
	}{
		{0, 0, 1 << 20, nil, nil, 0, 0},
		{keep, 0, 1 << 20, nil, nil, 0, 0},
		{0, 0, 1<<20 + 1, unix.ENOSPC, unix.ENOSPC, 0, 0},
		{keep | unix.FALLOC_FL_PUNCH_HOLE, 4096, 8192, nil, unix.EOPNOTSUPP, 4096, 12288},
		{keep | unix.FALLOC_FL_PUNCH_HOLE, 1000, 10, nil, unix.EOPNOTSUPP, 1000, 1010},
		{unix.FALLOC_FL_ZERO_RANGE, 4096, 8192, nil, unix.EOPNOTSUPP, 4096, 12288},
		{keep | unix.FALLOC_FL_ZERO_RANGE, 1<<20 - 10, 4096, nil, unix.EOPNOTSUPP, 1<<20 - 10, 1 << 20},
		{unix.FALLOC_FL_ZERO_RANGE, 1<<20 - 10, 4096, unix.ENOSPC, unix.EOPNOTSUPP, 0, 0},
		{unix.FALLOC_FL_COLLAPSE_RANGE, 4096, 4096, unix.EOPNOTSUPP, unix.EOPNOTSUPP, 0, 0},
	}
	for _, tt := range tests {
		for name, want := range map[string]error{"cheap": tt.cheap, "dear": tt.dear} {
			dev := map[string]*hooked{"cheap": cheap, "dear": dear}[name]
			_, err := dev.Device.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 0)
			check(t, err)
			fd := open(t, filepath.Join(dir, name), unix.O_RDWR)
			if err := unix.Fallocate(fd, tt.mode, tt.off, tt.n); !errors.Is(err, want) {
				t.Errorf("%s mode %#x at %d: %v, want %v", name, tt.mode, tt.off, err, want)
			}
			got := make([]byte, 1<<20)
			dev.Device.ReadAt(got, 0)
			expect := bytes.Repeat([]byte("x"), 1<<20)
			if want == nil {
				clear(expect[tt.zeroed:tt.zeroEnd])
			}
			if !bytes.Equal(got, expect) {
				t.Errorf("%s mode %#x at %d: content differs", name, tt.mode, tt.off)
			}
		}
	}
}

// cp --sparse, tar -S and qemu find the holes this way.
func TestSeek(t *testing.T) {
	dev := newHooked(1 << 20)
	_, err := dev.WriteAt([]byte("data"), 64<<10)
	check(t, err)
	_, dir := serve(t, newShelf().with("vol", dev))
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDONLY)
	for _, tt := range []struct {
		off    int64
		whence int
		want   int64
		errno  error
	}{
		{0, unix.SEEK_HOLE, 0, nil},
		{0, unix.SEEK_DATA, 64 << 10, nil},
		{64<<10 + 7, unix.SEEK_DATA, 64<<10 + 7, nil},
		{64<<10 + 7, unix.SEEK_HOLE, 68 << 10, nil},
		{68 << 10, unix.SEEK_DATA, -1, unix.ENXIO},
		{1 << 20, unix.SEEK_HOLE, -1, unix.ENXIO},
		{0, unix.SEEK_END, 1 << 20, nil},
	} {
		if got, err := unix.Seek(fd, tt.off, tt.whence); !errors.Is(err, tt.errno) || got != tt.want {
			t.Errorf("seek %d whence %d: %d, %v, want %d, %v", tt.off, tt.whence, got, err, tt.want, tt.errno)
		}
	}
}

// Each open file is a user of its export until it is closed, and only one that
// may be written can be opened for writing.
func TestOpens(t *testing.T) {
	ro := newHooked(4096)
	ro.caps.ReadOnly = true
	exports := newShelf().with("vol", mem.New(4096)).with("snap", ro)
	_, dir := serve(t, exports)
	a := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	b := open(t, filepath.Join(dir, "vol"), unix.O_RDONLY)
	if n := exports.open("vol"); n != 2 {
		t.Errorf("%d users, want 2", n)
	}
	unix.Close(a)
	unix.Close(b)
	eventually(t, func() bool { return exports.open("vol") == 0 }) // the kernel tells later

	for _, flags := range []int{unix.O_RDWR, unix.O_WRONLY} {
		if _, err := unix.Open(filepath.Join(dir, "snap"), flags, 0); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
			t.Errorf("read-only export opened for writing: %v", err)
		}
	}
	open(t, filepath.Join(dir, "snap"), unix.O_RDONLY)
	if n := exports.open("snap"); n != 1 {
		t.Errorf("%d users of the read-only one, want 1", n)
	}
}

// Snapshots come and go, and volumes grow, while the directory is in use. The
// kernel, which remembers names and sizes, must be told.
func TestRefresh(t *testing.T) {
	vol := newHooked(4096)
	exports := newShelf().with("vol", vol)
	m, dir := serve(t, exports)
	path := filepath.Join(dir, "vol")
	fd := open(t, path, unix.O_RDWR)
	size := func() int64 {
		var st unix.Stat_t
		check(t, unix.Stat(path, &st))
		return st.Size
	}
	if size() != 4096 {
		t.Fatalf("size %d", size())
	}
	vol.grow(1 << 20)
	if size() != 4096 {
		t.Error("the kernel asks for the size each time: cacheTime does not work")
	}
	m.Refresh()
	if size() != 1<<20 {
		t.Errorf("size %d after growing", size())
	}
	if n, err := unix.Pwrite(fd, []byte("x"), 1<<20-1); n != 1 || err != nil {
		t.Errorf("write to the new end: %d, %v", n, err)
	}

	snap := filepath.Join(dir, "snap")
	if _, err := os.Stat(snap); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before it is made: %v", err)
	}
	exports.with("snap", mem.New(512)) // new ones need no Refresh
	fi, err := os.Stat(snap)
	check(t, err)
	exports.without("snap")
	m.Refresh()
	if _, err := os.Stat(snap); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after it was removed: %v", err)
	}
	exports.with("snap", mem.New(1024)) // another one of that name
	again, err := os.Stat(snap)
	check(t, err)
	if again.Size() != 1024 || os.SameFile(fi, again) {
		t.Errorf("the new one has %d bytes, and is the same file: %v", again.Size(), os.SameFile(fi, again))
	}
}

// A removed export whose file the kernel still remembers cannot be opened.
func TestOpenOfARemovedExport(t *testing.T) {
	exports := newShelf().with("snap", mem.New(512))
	_, dir := serve(t, exports)
	_, err := os.Stat(filepath.Join(dir, "snap"))
	check(t, err)
	exports.without("snap")
	if _, err := unix.Open(filepath.Join(dir, "snap"), unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("open: %v", err)
	}
}

// Errors reach the program as what they are.
func TestErrno(t *testing.T) {
	dev := newHooked(1 << 20)
	_, dir := serve(t, newShelf().with("vol", dev))
	fd := open(t, filepath.Join(dir, "vol"), unix.O_RDWR)
	for kind, want := range map[errs.Kind]unix.Errno{
		errs.NoSpace: unix.ENOSPC, errs.Conflict: unix.EPERM, errs.Usage: unix.EINVAL, errs.Busy: unix.EBUSY,
		errs.Denied: unix.EACCES, errs.Corrupt: unix.EIO, errs.Other: unix.EIO,
		errs.NotFound: unix.ENOENT, errs.Unsupported: unix.EOPNOTSUPP,
	} {
		dev.failWith(errs.E(kind, "on purpose"))
		if _, err := unix.Pread(fd, make([]byte, 10), 0); err != want {
			t.Errorf("%v: read says %v, want %v", kind, err, want)
		}
		if _, err := unix.Pwrite(fd, make([]byte, 10), 0); err != want {
			t.Errorf("%v: write says %v, want %v", kind, err, want)
		}
		if err := unix.Fsync(fd); err != want {
			t.Errorf("%v: fsync says %v, want %v", kind, err, want)
		}
	}
	dev.failWith(nil)
}
