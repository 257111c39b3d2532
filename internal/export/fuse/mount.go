//go:build linux

package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"cowl/internal/errs"
	"cowl/internal/export"
)

const (
	// maxWrite is the longest request in bytes, the most that kernels take by
	// default.
	maxWrite = 1 << 20

	// maxBackground is how many asynchronous requests the kernel sends at
	// once: the queue depth of a disk.
	maxBackground = 64

	// cacheTime is how long the kernel believes what it was told of names and
	// sizes. Without it every read asks for the size first. Refresh makes
	// changes known at once; this is for those that nobody announces.
	cacheTime = 10 * time.Second

	// drainTime is how long Close waits for requests in flight after it has
	// given up waiting for the files to be closed.
	drainTime = 5 * time.Second
)

// Mount is a directory of exports.
type Mount struct {
	path    string // absolute, without symbolic links
	made    bool   // the directory was not there before
	exports export.Exports
	started time.Time
	root    *root
	gate    *gate
	served  chan struct{} // closed when the kernel sends no more

	mu      sync.Mutex
	closing bool
	inodes  map[string]uint64 // numbers of the names that were looked up
	last    uint64            // number that was given out
	handles map[*handle]bool
}

// Serve mounts a directory that shows the exports and serves it until Close.
// It makes the directory where it is missing. A mount that a dead process left
// there is cleared away; anything else that is mounted there is errs.Busy.
// Where FUSE cannot be used the error is errs.Unsupported.
//
// Root mounts by itself; others need fusermount3. Either way only the user who
// mounted has access.
func Serve(path string, exports export.Exports) (*Mount, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	m := &Mount{
		path:    path,
		exports: exports,
		started: time.Now(),
		gate:    newGate(),
		served:  make(chan struct{}),
		inodes:  make(map[string]uint64),
		last:    gofuse.FUSE_ROOT_ID,
		handles: make(map[*handle]bool),
	}
	m.root = &root{mount: m}
	if err := m.makeDir(); err != nil {
		return nil, err
	}
	if err := m.mount(); err != nil {
		m.removeDir()
		return nil, err
	}
	return m, nil
}

// resolve makes a path what the kernel's table of mounts calls it. Its last
// element may be missing, or a dead mount that cannot be looked at.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// makeDir makes the directory if there is none.
func (m *Mount) makeDir() error {
	err := os.Mkdir(m.path, 0o700)
	if !errors.Is(err, os.ErrExist) {
		m.made = err == nil
		return err
	}
	fi, err := os.Stat(m.path)
	if err == nil && !fi.IsDir() {
		return errs.E(errs.Exists, "mount %s: there is something that is not a directory", m.path)
	}
	return err
}

// mount attaches the directory and starts to serve it.
func (m *Mount) mount() error {
	timeout := cacheTime
	options := &fs.Options{
		MountOptions: gofuse.MountOptions{
			FsName:            "cowl",
			Name:              "cowl",
			Options:           []string{"default_permissions", "noexec"},
			MaxBackground:     maxBackground,
			MaxWrite:          maxWrite,
			DisableXAttrs:     true,
			DisableSplice:     true, // gains nothing
			ExtraCapabilities: gofuse.CAP_ASYNC_DIO,
			Logger:            log.New(io.Discard, "", 0),
		},
		EntryTimeout: &timeout,
		AttrTimeout:  &timeout,
		UID:          uint32(os.Getuid()),
		GID:          uint32(os.Getgid()),
	}
	server, err := attach(m.path, fs.NewNodeFS(m.root, options), &options.MountOptions)
	if err != nil {
		return err
	}
	go func() {
		defer close(m.served)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		detach(m.path, unix.MNT_DETACH)
		return fmt.Errorf("mount %s: %w", m.path, err)
	}
	refusePolls(m.path)
	return nil
}

// Refresh tells the kernel that the exports have changed: those that are gone
// vanish, and grown ones show their new size, at once instead of some seconds
// later. New ones need no telling.
//
// The caller must not hold a lock that List or Open take: the kernel may wait
// for an answer of theirs before it lets Refresh go on.
func (m *Mount) Refresh() {
	present := make(map[string]bool)
	for _, info := range m.exports.List() {
		present[info.Name] = true
	}
	for name, child := range m.root.Children() {
		if present[name] {
			child.NotifyContent(-1, 0) // attributes only; there is no cached content
			continue
		}
		m.mu.Lock()
		delete(m.inodes, name)
		m.mu.Unlock()
		m.root.RmChild(name)
		m.root.NotifyEntry(name)
	}
}

// Close unmounts the directory and closes what is open. While files are in use
// it waits for them until the context ends. Then it takes the directory away
// all the same, and those who still have files open get I/O errors from then
// on; the error says how many there were. A second Close does nothing.
func (m *Mount) Close(ctx context.Context) error {
	m.mu.Lock()
	again := m.closing
	m.closing = true
	m.mu.Unlock()
	if again {
		return nil
	}
	inUse := m.detach(ctx)
	if inUse != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
	}
	if err := m.gate.shut(ctx); err != nil {
		return fmt.Errorf("unmount %s: requests still run: %w", m.path, err)
	}
	left := m.closeHandles()
	m.removeDir()
	if inUse != nil {
		return fmt.Errorf("unmount %s: %d files were in use: %w", m.path, left, inUse)
	}
	return nil
}

// detach unmounts and waits for the kernel to say that it was the end. An error
// says why it is not; the directory is gone all the same.
func (m *Mount) detach(ctx context.Context) error {
	if err := detachWhenFree(ctx, m.path); err != nil {
		if lazy := detach(m.path, unix.MNT_DETACH); lazy != nil {
			return lazy
		}
		return err
	}
	select {
	case <-m.served:
		return nil
	case <-ctx.Done(): // it was detached by somebody else, and is still in use
		return ctx.Err()
	}
}

// closeHandles closes the files whose release the kernel did not tell of.
func (m *Mount) closeHandles() (left int) {
	m.mu.Lock()
	handles := m.handles
	m.handles = nil
	m.mu.Unlock()
	for h := range handles {
		h.dev.Close()
	}
	return len(handles)
}

// removeDir removes the directory if Serve made it.
func (m *Mount) removeDir() {
	if m.made {
		os.Remove(m.path) // somebody may have put something there since
	}
}

// inode returns the number of a file: the same as long as its name is there.
func (m *Mount) inode(name string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inodes[name] == 0 {
		m.last++
		m.inodes[name] = m.last
	}
	return m.inodes[name]
}

// find returns the description of an export.
func (m *Mount) find(name string) (export.Info, syscall.Errno) {
	if !m.gate.enter() {
		return export.Info{}, syscall.EIO
	}
	defer m.gate.leave()
	for _, info := range m.exports.List() {
		if info.Name == name {
			return info, 0
		}
	}
	return export.Info{}, syscall.ENOENT
}

// errUnusable says that this system cannot mount FUSE file systems.
func errUnusable(path string, err error) error {
	return errs.E(errs.Unsupported, "mount %s: FUSE is not available: %w", path, err)
}
