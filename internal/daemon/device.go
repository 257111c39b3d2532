package daemon

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/export"
	"cowl/internal/export/fuse"
	"cowl/internal/export/nbd"
)

// DeviceOptions is how a single device is served.
type DeviceOptions struct {
	Name   string // of the export, and of the file
	Note   string // about the device, for clients
	Socket string // of the NBD server
	// Files is the directory in which the device is shown as a file; "" for
	// nowhere. Where FUSE cannot be used the device is served all the same.
	Files string
	Log   *slog.Logger // nil: nowhere
	// Bitmaps are offered to NBD clients.
	Bitmaps []export.Bitmap
	// Ready is called once clients can connect. files is the path of the file,
	// "" if there is none.
	Ready func(files string)
}

// ServeDevice serves one device, which stays the caller's, until ctx ends.
// Requests that have arrived by then are finished. A server that answers on the
// socket already is errs.Busy.
func ServeDevice(ctx context.Context, dev block.Device, o DeviceOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	only := single{&device{dev: dev, log: o.Log}, o}
	sockets, err := listen(o.Socket)
	if err != nil {
		return err
	}
	server := nbd.NewServer(only, o.Log)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(sockets) }()
	files, shown := showFile(only, o)
	if o.Ready != nil {
		o.Ready(shown)
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-ended:
		ended <- nil
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	for _, end := range []func(context.Context) error{server.Shutdown, files} {
		if problem := end(drain); problem != nil {
			o.Log.Warn("clients had to be cut off", "err", problem)
		}
	}
	return errors.Join(err, <-ended)
}

// showFile shows the device as a file and returns how that is ended, and the
// file's path.
func showFile(only single, o DeviceOptions) (end func(context.Context) error, path string) {
	if o.Files == "" {
		return func(context.Context) error { return nil }, ""
	}
	m, err := fuse.Serve(o.Files, only)
	if err != nil {
		o.Log.Warn("it is not shown as a file", "err", err)
		return func(context.Context) error { return nil }, ""
	}
	return func(ctx context.Context) error {
		defer os.Remove(o.Files) // one that a killed process made, if it is empty
		return m.Close(ctx)
	}, filepath.Join(o.Files, o.Name)
}

// single is the set of one device. It is the default export as well.
type single struct {
	dev *device
	o   DeviceOptions
}

var _ export.Exports = single{}

// List implements export.Exports.
func (s single) List() []export.Info {
	dev := s.dev.dev
	return []export.Info{{
		Name: s.o.Name, Description: s.o.Note, Size: dev.Size(), ReadOnly: dev.Caps().ReadOnly, Bitmaps: s.o.Bitmaps,
	}}
}

// Open implements export.Exports.
func (s single) Open(name string) (block.Device, error) {
	if name != s.o.Name && name != "" {
		return nil, errs.E(errs.NotFound, "no export %q", name)
	}
	return s.dev, nil
}

// device is a device that its users do not close, and whose read errors are
// logged: a client says no more of them than EIO.
type device struct {
	dev block.Device
	log *slog.Logger

	mu   sync.Mutex
	said map[string]bool // what is in the log; guarded by mu
}

// maxSaid bounds how many different errors are logged.
const maxSaid = 1000

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.dev.ReadAt(p, off)
	d.say(err)
	return n, err
}

func (d *device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for e, err := range d.dev.Extents(off, length) {
			d.say(err)
			if !yield(e, err) {
				return
			}
		}
	}
}

// say logs an error that is not the client's, once however often it is tried.
func (d *device) say(err error) {
	if err == nil || errs.Is(err, errs.Usage) {
		return
	}
	text := err.Error()
	d.mu.Lock()
	known := d.said[text] || len(d.said) == maxSaid
	if d.said == nil {
		d.said = map[string]bool{}
	}
	if !known {
		d.said[text] = true
	}
	d.mu.Unlock()
	if !known {
		d.log.Error("it cannot be read", "err", err)
	}
}

func (d *device) WriteAt(p []byte, off int64) (int, error) { return d.dev.WriteAt(p, off) }
func (d *device) Flush() error                             { return d.dev.Flush() }
func (d *device) Discard(off, length int64) error          { return d.dev.Discard(off, length) }
func (d *device) WriteZeroes(off, length int64) error      { return d.dev.WriteZeroes(off, length) }
func (d *device) Size() int64                              { return d.dev.Size() }
func (d *device) Caps() block.Caps                         { return d.dev.Caps() }
func (d *device) Close() error                             { return nil }

// MakeRunDir makes the directory that a socket belongs in, for this user alone.
func MakeRunDir(dir string) error { return makeRunDir(dir) }
