package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"cowl/internal/archive"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// errListed ends a walk.
var errListed = errors.New("listed")

// listShown is list of what the kernel shows, and of archives.
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
			l.fs, it.Node = shown{f}, f.Header().Node()
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

// shown is the file at hand of a tree.
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
