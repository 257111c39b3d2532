package daemon

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"os"
	"path/filepath"

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
	only := single{dev, o}
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
	dev block.Device
	o   DeviceOptions
}

var _ export.Exports = single{}

// List implements export.Exports.
func (s single) List() []export.Info {
	return []export.Info{{Name: s.o.Name, Description: s.o.Note, Size: s.dev.Size(), ReadOnly: s.dev.Caps().ReadOnly}}
}

// Open implements export.Exports.
func (s single) Open(name string) (block.Device, error) {
	if name != s.o.Name && name != "" {
		return nil, errs.E(errs.NotFound, "no export %q", name)
	}
	return lent{s.dev}, nil
}

// lent is a device that its user does not close.
type lent struct{ dev block.Device }

func (l lent) ReadAt(p []byte, off int64) (int, error)             { return l.dev.ReadAt(p, off) }
func (l lent) WriteAt(p []byte, off int64) (int, error)            { return l.dev.WriteAt(p, off) }
func (l lent) Flush() error                                        { return l.dev.Flush() }
func (l lent) Discard(off, length int64) error                     { return l.dev.Discard(off, length) }
func (l lent) WriteZeroes(off, length int64) error                 { return l.dev.WriteZeroes(off, length) }
func (l lent) Extents(off, n int64) iter.Seq2[block.Extent, error] { return l.dev.Extents(off, n) }
func (l lent) Size() int64                                         { return l.dev.Size() }
func (l lent) Caps() block.Caps                                    { return l.dev.Caps() }
func (l lent) Close() error                                        { return nil }

// MakeRunDir makes the directory that a socket belongs in, for this user alone.
func MakeRunDir(dir string) error { return makeRunDir(dir) }
