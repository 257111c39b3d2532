package cli

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"cowl/internal/archive"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// errListed ends a walk.
var errListed = errors.New("listed")

// listShown is list of what the kernel shows.
func (l *lister) listShown(ctx context.Context, tree archive.Tree, at inside) error {
	var failed error
	begun := false
	err := tree.Walk(ctx, func(name string, f archive.File, err error) error {
		first := !begun
		begun = true
		full := at.path
		if !first {
			full = join(at.path, strings.TrimPrefix(name, "./"))
		}
		if err != nil {
			l.out.Flush()
			l.a.complain(fmt.Errorf("%s: %w", inside{at.source, full}, err))
			failed = errSilent
			if f != nil { // a directory that was listed, once more
				return nil
			}
		}
		it := &fsread.Item{Name: path.Base(full), Err: err}
		if f != nil {
			l.fs, it.Node = shown{f}, shownNode(f.Header())
			it.Ino, it.Type = it.Node.Ino, it.Node.Mode.Type()
		}
		switch {
		case first && (l.o.directory || it.Type != ext4.TypeDir):
			return errors.Join(l.print(full, it), errListed)
		case first && !l.o.recursive:
			return nil
		}
		return l.print(full, it)
	})
	if errors.Is(err, errListed) {
		err = nil
	}
	return errors.Join(err, failed)
}

// shown is the file at hand of those that the kernel shows.
type shown struct{ archive.File }

// Readlink implements details.
func (s shown) Readlink(*fsread.Node) (string, error) { return s.File.Readlink() }

// Xattrs implements details.
func (s shown) Xattrs(*fsread.Node) ([]fsread.Xattr, error) {
	attrs, err := s.File.Xattrs()
	out := make([]fsread.Xattr, len(attrs))
	for i, a := range attrs {
		out[i] = fsread.Xattr(a)
	}
	return out, err
}

// shownNode is what stat says as a node. Numbers that do not fit (inodes of XFS
// on large devices) are the largest that do.
func shownNode(h *archive.Header) *fsread.Node {
	n := &fsread.Node{
		Ino: ext4.Ino(min(h.Ino, math.MaxUint32)), Mode: ext4.Mode(h.Mode), Links: uint16(min(h.Links, math.MaxUint16)), UID: h.UID, GID: h.GID,
		Size: h.Size, Sectors: uint64(h.Allocated) / 512, Mtime: h.Mtime, Atime: h.Atime, Ctime: h.Ctime,
	}
	binary.LittleEndian.PutUint32(n.Block[4:], h.Major<<8|h.Minor&0xff|h.Minor&^0xff<<12)
	return n
}
