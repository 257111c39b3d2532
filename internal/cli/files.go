package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"cowl/internal/archive"
	"cowl/internal/errs"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
	"cowl/internal/kernelfs"
)

// files are those of a file system that is open: read by package fsread, or
// shown by the kernel.
type files struct {
	fs   *fsread.FS // nil if the kernel shows them
	root string     // where
}

// withFiles opens the file system at a place and calls f.
func (a *app) withFiles(ctx context.Context, at inside, access accessFlags, f func(*files) error) error {
	return a.opener(access).with(ctx, at.source, func(s *source) error {
		fs, err := readFS(ctx, s)
		if err == nil {
			return f(&files{fs: fs})
		}
		if !errs.Is(err, errs.Unsupported) {
			return err
		}
		if why := kernelfs.Possible(); why != nil {
			return fmt.Errorf("%w: %w", err, why)
		}
		root, release, mountErr := kernelfs.MountDevice(s.dev)
		if errs.Is(mountErr, errs.Unsupported) {
			return err
		}
		if mountErr != nil {
			return fmt.Errorf("%w: %w", err, mountErr)
		}
		return errors.Join(f(&files{root: root}), release())
	})
}

// withTree calls f with what is at and below a place.
func (fl *files) withTree(at inside, f func(archive.Tree) error) error {
	if fl.fs != nil {
		n, err := fl.fs.Lookup(at.path, false)
		if err != nil {
			return fmt.Errorf("%s:%w", at.source, err)
		}
		return f(archive.FileSystem{FS: fl.fs, Start: n, Name: path.Base(at.path)})
	}
	return fl.withShown(at, false, f)
}

// withShown is withTree of what the kernel shows; flat leaves out what is in the
// directories there.
func (fl *files) withShown(at inside, flat bool, f func(archive.Tree) error) error {
	tree, closeTree, err := kernelfs.Tree(fl.root, at.path, flat)
	if err != nil {
		return fmt.Errorf("%s:%w", at.source, err)
	}
	return errors.Join(f(tree), closeTree())
}

// open opens a regular file, also by a symbolic link.
func (fl *files) open(at inside) (f io.ReadCloser, err error) {
	if fl.fs == nil {
		f, mode, err := kernelfs.Open(fl.root, at.path)
		if err != nil {
			return nil, fmt.Errorf("%s:%w", at.source, err)
		}
		return f, mustBeFile(at, ext4.Mode(mode))
	}
	n, err := fl.fs.Lookup(at.path, true)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", at.source, err)
	}
	if err := mustBeFile(at, n.Mode); err != nil {
		return nil, err
	}
	file, err := fl.fs.OpenFile(n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return io.NopCloser(io.NewSectionReader(file, 0, file.Size())), nil
}

// mustBeFile is errs.Usage of what is no regular file.
func mustBeFile(at inside, m ext4.Mode) error {
	if m.Type() == ext4.TypeFile {
		return nil
	}
	err := errs.E(errs.Usage, "%s is a %s", at, typeNames[m.Type()])
	if m.Type() == ext4.TypeDir {
		err = errs.WithHint(err, "cowl ls lists it, cowl cp brings it back.")
	}
	return coded{err, exitFailed}
}
