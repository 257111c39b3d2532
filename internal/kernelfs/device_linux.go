package kernelfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/export"
	"cowl/internal/export/fuse"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// MountDevice mounts the file system on a device, wherever that is, and returns
// the directory where the kernel shows it, read-only. The device is only read, and
// stays the caller's to close, after release.
//
// The kernel gets a file (FUSE) that is a snapshot of the device, whose store is
// in memory: so it can replay a journal, which takes as much memory as that
// changes. errs.Unsupported is what we do not mount; see Mount.
func MountDevice(dev block.Device) (root string, release func() error, err error) {
	if err := Possible(); err != nil {
		return "", nil, err
	}
	view, err := writableView(dev)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "cowl-mount-")
	if err != nil {
		return "", nil, errors.Join(err, view.Close())
	}
	files, err := fuse.Serve(dir, single{view})
	if err != nil {
		return "", nil, errors.Join(err, view.Close(), os.Remove(dir))
	}
	root, unmount, err := Mount(filepath.Join(dir, singleName), false)
	// Out of sight as well: who has the file keeps it, and if we are killed
	// nothing is left.
	err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
	end := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), unmountTime)
		defer cancel()
		return errors.Join(files.Close(ctx), view.Close())
	}
	if err != nil {
		return "", nil, errors.Join(err, end())
	}
	return root, func() error { return errors.Join(unmount(), end()) }, nil
}

// unmountTime is how long a loop device may take to let go of its file.
const unmountTime = 10 * time.Second

// writableView returns a snapshot of a device whose store is in memory.
func writableView(dev block.Device) (block.Device, error) {
	cow := mem.New(volume.CowMax(dev.Size(), volume.DefaultChunk))
	if err := snap.Format(cow, volume.DefaultChunk.Bytes()); err != nil {
		return nil, err
	}
	store, err := snap.Open(cow, snap.Options{ChunkBytes: volume.DefaultChunk.Bytes()})
	if err != nil {
		return nil, err
	}
	origin := snap.NewOrigin(kept{dev}, snap.OriginOptions{})
	view, err := origin.Attach(store, dev.Size(), false)
	if err != nil {
		return nil, errors.Join(err, origin.Close())
	}
	return viewed{view, origin}, nil
}

// viewed is a snapshot that goes with its origin.
type viewed struct {
	*snap.Snapshot
	origin *snap.Origin
}

func (v viewed) Close() error { return errors.Join(v.Snapshot.Close(), v.origin.Close()) }

// kept is a device that stays open.
type kept struct{ block.Device }

func (kept) Close() error { return nil }

// single exports one device.
type single struct{ dev block.Device }

const singleName = "device"

func (s single) List() []export.Info {
	return []export.Info{{Name: singleName, Size: s.dev.Size()}}
}

func (s single) Open(name string) (block.Device, error) {
	if name != singleName {
		return nil, errs.E(errs.NotFound, "no export %q", name)
	}
	return kept{s.dev}, nil
}
