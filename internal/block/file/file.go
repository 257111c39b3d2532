// Package file is a block device in a regular file or on a kernel block device
// (a disk, a partition, a loop device).
//
// It goes through the page cache by pread and pwrite, so any offset and length
// works. A small read asks for what the page cache has first, and only waits for
// the disk where that is not all (Linux). A large write from page-aligned memory bypasses it where the file system
// has direct I/O (Linux): copying it into fresh pages would take longer than
// the disk does, and push out what others read. What else is special to Linux (locks on block devices, holes, discard,
// the search for loop devices) has plain substitutes elsewhere: files only, and
// zeroes are written as bytes.
//
// # Durability
//
// Flush is fdatasync. It is skipped when what was written through this Device
// before has been flushed; the first after Open is never skipped, because what a
// killed process wrote before may be in the page cache only. Two run at a time
// where there is direct I/O: while the disk makes one durable, the kernel writes out
// for the next. Each has an open file description of its own, for the kernel
// reports a failed write once to each (Linux errseq_t) and not to each system call.
//
// When fdatasync fails, the kernel may have dropped the pages that it could not
// write and marked them clean, so that the next fdatasync would succeed with
// the data lost (PostgreSQL's "fsyncgate", 2018). Therefore a Device whose
// flush has failed fails every later flush with the same cause, until it is
// closed and opened again and its content is checked.
package file

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Lock says what others may do while a Device is open.
type Lock uint8

// The locks. They bind those who ask for one: on a regular file, other
// Devices; on a Linux block device, also mounts, device-mapper and md.
const (
	None      Lock = iota // anything
	Exclusive             // not open with Exclusive or Shared elsewhere, here or in another process
	Shared                // open with Shared elsewhere, not with Exclusive: what all read, nobody changes
)

// Options say how to open a file. The zero Options are for reading and writing
// without a lock.
type Options struct {
	ReadOnly bool
	Lock     Lock
	// Direct, of what is open for reading only on Linux, reads past the page
	// cache: for a device that somebody writes to below it, as the kernel does
	// to a snapshot's store.
	Direct bool
}

// Device is an open file or block device.
//
// Locks inside: mu is taken alone. ReadAt and WriteAt take none.
type Device struct {
	f        *os.File
	cached   *pageCache
	direct   *os.File // the same file for direct I/O; nil where there is none
	path     string
	caps     block.Caps
	disk     bool // a block device, not a regular file
	bypass   bool // f is open for direct I/O
	size     atomic.Int64
	sync     func(*os.File) error // datasync; tests replace it
	allocate func(f *os.File, off, length int64) error
	noHoles  atomic.Bool // the file system cannot punch holes
	noDirect atomic.Bool // direct I/O failed

	// written counts the changes that were made, and is raised before their
	// calls return. A flush that reads it first covers all that it counts.
	written atomic.Uint64

	mu     sync.Mutex
	ended  sync.Cond  // a flush
	synced uint64     // the changes that are durable, as written counts them
	failed error      // the first flush that failed
	idle   []*os.File // descriptions by which nobody flushes at the moment
}

// Open opens an existing regular file or block device. With an Exclusive lock
// it fails with errs.Busy, naming the path, when somebody else has a lock; on
// Linux also when the file is behind a loop device, through which the kernel
// may write to it. With a Shared lock it fails when somebody has an Exclusive
// one, or the kernel may write to it at this moment: a mount or a device-mapper
// table that comes later is not kept away.
func Open(path string, o Options) (*Device, error) {
	// Looking first keeps from blocking on a FIFO.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	disk, err := kindOf(path, info)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	if disk && o.Lock == Exclusive {
		flags |= diskLockFlag
	}
	if o.ReadOnly && o.Direct {
		flags |= directFlag
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, explainOpen(path, disk, err)
	}
	d, err := adopt(f, path, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// kindOf reports whether the path is a block device, and refuses what is
// neither that nor a regular file.
func kindOf(path string, info fs.FileInfo) (disk bool, err error) {
	switch m := info.Mode(); {
	case m.IsRegular():
		return false, nil
	case m.IsDir():
		return false, errs.E(errs.Usage, "open %s: is a directory", path)
	case m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 && diskSupport:
		return true, nil
	}
	return false, errs.E(errs.Unsupported, "open %s: neither a regular file nor a block device", path)
}

// explainOpen adds to the system's errors what they mean here.
func explainOpen(path string, disk bool, err error) error {
	if disk && errs.Is(err, errs.Busy) {
		return errs.E(errs.Busy, "open %s: in use: mounted, or part of an active volume group or array", path)
	}
	return err
}

// adopt makes a Device of an open file, after it is locked.
func adopt(f *os.File, path string, o Options) (*Device, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	disk, err := kindOf(path, info) // again: it may have been replaced meanwhile
	if err != nil {
		return nil, err
	}
	if o.Lock != None {
		lock := lockFile
		if disk {
			lock = lockDisk
		}
		if err := lock(f, path, o.Lock); err != nil {
			return nil, err
		}
	}
	d := &Device{
		f: f, cached: newPageCache(f), path: path, disk: disk, bypass: o.ReadOnly && o.Direct && directFlag != 0, sync: datasync, allocate: allocate,
	}
	d.ended.L = &d.mu
	d.idle = []*os.File{f}
	d.written.Store(1) // by whoever had it open before
	size, caps, err := geometry(f, info, disk)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	d.size.Store(size)
	d.caps = caps
	d.caps.ReadOnly = o.ReadOnly
	if o.ReadOnly {
		d.caps.Discard, d.caps.Zeroes = false, false
		return d, nil
	}
	if d.direct = openDirect(f); d.direct != nil {
		d.idle = append(d.idle, d.direct)
	}
	return d, nil
}

// lockFile takes the lock of a regular file.
func lockFile(f *os.File, path string, lock Lock) error {
	taken, err := tryLock(f, lock == Shared)
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if taken {
		return errBusy(path)
	}
	// A loop device that is set up after this check goes unnoticed: the kernel
	// offers no lock against it.
	if loop := loopOver(f, lock == Shared); loop != "" {
		return errs.WithHint(errs.E(errs.Busy, "open %s: in use as loop device %s", path, loop),
			"detach it first: losetup -d %s", loop)
	}
	return nil
}

func errBusy(path string) error { return errs.E(errs.Busy, "open %s: in use by another process", path) }

// Create makes a sparse file of size bytes and opens it with an Exclusive lock.
// It fails with errs.Exists if there is something by that name. The file's
// existence and size are durable when it returns.
func Create(path string, size int64) (*Device, error) {
	if size < 0 {
		return nil, errs.E(errs.Usage, "create %s: negative size %d", path, size)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	d, err := initialise(f, path, size)
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return d, nil
}

func initialise(f *os.File, path string, size int64) (*Device, error) {
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return adopt(f, path, Options{Lock: Exclusive})
}

// syncDir makes a new name in the directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such call, and orders metadata by its journal
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Path returns the path that the device was opened by.
func (d *Device) Path() string { return d.path }

// Stat returns what the file system knows of the open file or device, whatever
// the path names by now.
func (d *Device) Stat() (fs.FileInfo, error) { return d.f.Stat() }

// Sync makes everything durable that anybody wrote to the file, and its times,
// which Flush does not.
func (d *Device) Sync() error {
	err := d.f.Sync()
	if d.caps.ReadOnly && errors.Is(err, fs.ErrPermission) {
		return nil // windows
	}
	return err
}

// Allocate gives the range of a regular file its place in the file system, so
// that writing there cannot fail for lack of space. What it holds stays as it
// is. Where the file system cannot do that in advance the error is
// errors.ErrUnsupported; where it has no room, of kind errs.NoSpace.
func (d *Device) Allocate(off, length int64) error {
	if err := d.checkChange(off, length); err != nil || length == 0 {
		return err
	}
	if d.disk {
		return nil // it is all there
	}
	defer d.written.Add(1)
	if err := d.allocate(d.f, off, length); err != nil {
		return fmt.Errorf("allocate %d bytes of %s: %w", length, d.path, err)
	}
	return nil
}

// Enlarge makes a regular file at least size bytes long, durably and with its place
// in the file system as Allocate, and returns how long it is then: as long as it
// is already if somebody else made it longer. If there is no room, of kind
// errs.NoSpace, the file is as it was. Of a disk it only finds out whether it
// has become that large; if not, that is errs.Unsupported.
//
// Nobody else may call Enlarge or Grow meanwhile.
func (d *Device) Enlarge(size int64) (int64, error) {
	if d.caps.ReadOnly {
		return 0, block.ErrReadOnly
	}
	info, err := d.f.Stat()
	if err != nil {
		return 0, err
	}
	now, _, err := geometry(d.f, info, d.disk)
	switch old := d.size.Load(); {
	case err != nil:
		return 0, err
	case now < old:
		return 0, errs.E(errs.Conflict, "%s has become shorter while it was open: %d bytes, and had %d", d.path, now, old)
	case now < size && d.disk:
		return 0, errs.E(errs.Unsupported, "%s is a disk of %d bytes, and does not grow", d.path, now)
	case now < size:
		if err := d.lengthen(now, size); err != nil {
			return 0, fmt.Errorf("make %s %d bytes long: %w", d.path, size, err)
		}
		now = size
	}
	d.size.Store(now)
	return now, nil
}

// lengthen makes a file longer. Where its place cannot be taken in advance, it
// ends with a hole.
func (d *Device) lengthen(from, to int64) error {
	err := d.allocate(d.f, from, to-from)
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	if err == nil {
		err = d.f.Truncate(to)
	}
	if err == nil {
		if err = d.f.Sync(); err == nil {
			return nil
		}
	}
	// What was allocated behind the end is given back.
	return errors.Join(err, d.f.Truncate(from))
}

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), d.size.Load()); err != nil {
		return 0, err
	}
	n, err := d.read(p, off)
	if n < len(p) && errors.Is(err, io.EOF) {
		err = fmt.Errorf("read %s: truncated at byte %d while it was open: %w", d.path, off+int64(n), io.ErrUnexpectedEOF)
	}
	return n, err
}

// read reads, by direct I/O through aligned memory where that is asked for.
func (d *Device) read(p []byte, off int64) (int, error) {
	if !d.bypass {
		n := d.cached.read(p, off)
		if n == len(p) {
			return n, nil
		}
		more, err := d.f.ReadAt(p[n:], off+int64(n))
		return n + more, err
	}
	if len(p) == 0 || isAligned(p, off) {
		return d.f.ReadAt(p, off)
	}
	from := off &^ (directAlign - 1)
	before, end := int(off-from), off+int64(len(p))
	length := (end+directAlign-1)&^(directAlign-1) - from // maybe past the device's end
	memory := make([]byte, length+directAlign)
	memory = memory[-int(uintptr(unsafe.Pointer(&memory[0])))&(directAlign-1):][:length]
	n, err := d.f.ReadAt(memory, from)
	if n = max(0, min(n-before, len(p))); n == len(p) {
		err = nil
	}
	return copy(p, memory[before:][:n]), err
}

// WriteAt implements block.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.checkChange(off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := d.write(p, off)
	d.written.Add(1)
	return n, err
}

const (
	// directBytes is from how many bytes on a write bypasses the page cache. A
	// smaller one is sooner copied than the disk has answered.
	directBytes = 256 << 10

	// directAlign is what direct I/O asks of memory, offset and length at most:
	// no logical block is larger than a page.
	directAlign = 4096
)

// write writes by direct I/O where that is possible and pays. The kernel drops
// what the page cache has of the range, so that both ways can be mixed.
func (d *Device) write(p []byte, off int64) (int, error) {
	if d.direct == nil || len(p) < directBytes || d.noDirect.Load() || !isAligned(p, off) {
		return d.f.WriteAt(p, off)
	}
	n, err := d.direct.WriteAt(p, off)
	if errors.Is(err, syscall.EINVAL) { // this file system asks for more
		d.noDirect.Store(true)
		return d.f.WriteAt(p, off)
	}
	return n, err
}

func isAligned(p []byte, off int64) bool {
	return (int64(len(p))|off|int64(uintptr(unsafe.Pointer(&p[0]))))%directAlign == 0
}

// checkChange checks a change's range and that changes are allowed at all.
func (d *Device) checkChange(off, length int64) error {
	if d.caps.ReadOnly {
		return block.ErrReadOnly
	}
	return block.CheckRange(off, length, d.size.Load())
}

// Flush implements block.Device; see the package's comment for when it is
// skipped and what a failure means.
func (d *Device) Flush() error {
	if d.caps.ReadOnly {
		return nil
	}
	f, err := d.turn(d.written.Load())
	if f == nil {
		return err
	}
	covered := d.written.Load()
	err = d.sync(f)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, f)
	d.ended.Broadcast()
	if d.failed = cmp.Or(d.failed, err); d.failed != nil { // also if only another's did: it covers the same changes
		return fmt.Errorf("flush %s: %w", d.path, d.failed)
	}
	d.synced = max(d.synced, covered)
	return nil
}

// turn takes what to flush by, waiting for it, or returns nil if a flush has
// failed or the changes up to want need none any more.
func (d *Device) turn(want uint64) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		switch n := len(d.idle); {
		case d.failed != nil:
			return nil, fmt.Errorf("flush %s: an earlier flush failed and what was written before it may be lost: %w", d.path, d.failed)
		case d.synced >= want:
			return nil, nil
		case n > 0:
			f := d.idle[n-1]
			d.idle = d.idle[:n-1]
			return f, nil
		}
		d.ended.Wait()
	}
}

// Discard implements block.Device: a hole in a file, a discard on a disk. Where
// there is neither it does nothing.
func (d *Device) Discard(off, length int64) error {
	if err := d.checkChange(off, length); err != nil || length == 0 || !d.caps.Discard {
		return err
	}
	defer d.written.Add(1)
	if d.disk {
		return d.discardDisk(off, length)
	}
	_, err := d.punch(off, length)
	return err
}

// WriteZeroes implements block.Device: a hole in a file, the disk's own zeroing
// on a disk, zero bytes where these do not work.
func (d *Device) WriteZeroes(off, length int64) error {
	if err := d.checkChange(off, length); err != nil || length == 0 {
		return err
	}
	defer d.written.Add(1)
	if d.disk {
		return d.zeroDisk(off, length)
	}
	if done, err := d.punch(off, length); done || err != nil {
		return err
	}
	return block.WriteZeroBytes(d.f, off, length)
}

// punch makes a hole in a regular file, and reports false if it cannot.
func (d *Device) punch(off, length int64) (bool, error) {
	if d.noHoles.Load() {
		return false, nil
	}
	err := punchHole(d.f, off, length)
	if errors.Is(err, errors.ErrUnsupported) {
		d.noHoles.Store(true)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("punch hole in %s: %w", d.path, err)
	}
	return true, nil
}

// Extents implements block.Device: the holes of a file, where the file system
// tells; a disk is all data.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, d.size.Load()); err != nil {
		return block.NoExtents(err)
	}
	if d.disk {
		return block.OneExtent(block.Extent{Off: off, Len: length, Kind: block.Data})
	}
	return fileExtents(d.f, off, length)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.size.Load() }

// Grow makes a regular file larger; the new part reads as zeroes. Flush makes
// the growth durable. Disks do not grow this way (errs.Unsupported), and
// nothing shrinks (errs.Usage).
func (d *Device) Grow(size int64) error {
	switch {
	case d.caps.ReadOnly:
		return block.ErrReadOnly
	case d.disk:
		return errs.E(errs.Unsupported, "grow %s: it is a block device", d.path)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.size.Load(); size < old {
		return errs.E(errs.Usage, "grow %s: %d bytes are fewer than the %d it has", d.path, size, old)
	}
	if err := d.f.Truncate(size); err != nil {
		return err
	}
	d.written.Add(1)
	d.size.Store(size)
	return nil
}

// Caps implements block.Device.
func (d *Device) Caps() block.Caps { return d.caps }

// Close implements block.Device. It releases the lock.
func (d *Device) Close() error {
	if d.direct != nil {
		d.direct.Close() // what it wrote is as durable as Flush has made it
	}
	d.cached.close()
	return d.f.Close()
}

var _ block.Device = (*Device)(nil)
