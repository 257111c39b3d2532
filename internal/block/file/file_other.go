//go:build !linux

package file

import (
	"errors"
	"io/fs"
	"iter"
	"os"

	"cowl/internal/block"
	"cowl/internal/errs"
)

const (
	diskSupport  = false // their sizes and locks are everywhere different
	directFlag   = 0
	diskLockFlag = 0
)

// datasync is fsync, and on darwin F_FULLFSYNC: package os sees to that.
func datasync(f *os.File) error { return f.Sync() }

func openDirect(*os.File) *os.File { return nil }

func geometry(_ *os.File, info fs.FileInfo, _ bool) (int64, block.Caps, error) {
	return info.Size(), block.Caps{BlockSize: block.SectorSize}, nil
}

func punchHole(*os.File, int64, int64) error { return errors.ErrUnsupported }

func fileExtents(_ *os.File, off, length int64) iter.Seq2[block.Extent, error] {
	return block.OneExtent(block.Extent{Off: off, Len: length, Kind: block.Data})
}

func (d *Device) discardDisk(int64, int64) error { return errNoDisk(d.path) }
func (d *Device) zeroDisk(int64, int64) error    { return errNoDisk(d.path) }

func errNoDisk(path string) error {
	return errs.E(errs.Unsupported, "%s: block devices are supported on Linux only", path)
}

func lockDisk(_ *os.File, path string, _ Lock) error { return errNoDisk(path) }

func allocate(*os.File, int64, int64) error { return errors.ErrUnsupported }

// loopOver returns "": loop devices are Linux's.
func loopOver(*os.File, bool) string { return "" }
