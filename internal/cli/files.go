package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"cowl/internal/archive"
	"cowl/internal/backup"
	"cowl/internal/errs"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
	"cowl/internal/kernelfs"
)

// files are those of a file system that is open: read by package fsread, shown by
// the kernel, or in an archive.
type files struct {
	fs      *fsread.FS       // or
	archive *archive.Archive // or
	root    string           // where the kernel shows them
}

// filesOptions say what files are wanted for.
type filesOptions struct {
	// only is the one file that will be read.
	only string
	// compare says that all will be read, by name.
	compare bool
}

// withFiles opens the file system at a place and calls f.
func (a *app) withFiles(ctx context.Context, at inside, access accessFlags, o filesOptions, f func(*files) error) error {
	return a.opener(access).with(ctx, at.source, func(s *source) error { return a.withFilesOf(ctx, s, o, f) })
}

// withFilesOf opens the file system in a source and calls f.
func (a *app) withFilesOf(ctx context.Context, s *source, o filesOptions, f func(*files) error) error {
	archived, err := openArchive(ctx, s, o)
	if err != nil {
		return err
	}
	if archived != nil {
		return errors.Join(f(&files{archive: archived}), archived.Close())
	}
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
}

// openArchive opens the archive that a file is, nil if it is none.
func openArchive(ctx context.Context, s *source, o filesOptions) (*archive.Archive, error) {
	if s.file == "" {
		return nil, nil
	}
	head := make([]byte, min(512, s.dev.Size()))
	if _, err := s.dev.ReadAt(head, 0); err != nil || !archive.Is(head) {
		return nil, err
	}
	opts := archive.OpenOptions{}
	if o.only != "" && backup.OwnArchive(s.file) {
		opts.Until = o.only
	}
	// What is compressed is not read in the order of names.
	opts.Sums = o.compare && archive.CompressionOf(head) != archive.None
	archived, err := archive.Open(ctx, s.dev, s.dev.Size(), opts)
	switch {
	case errs.Is(err, errs.NotFound) && archive.CompressionOf(head) == archive.None:
		return nil, nil
	case errs.Is(err, errs.NotFound):
		if _, fsErr := readFS(ctx, s); !errs.Is(fsErr, errs.NotFound) {
			return nil, nil // a file system whose boot block begins so
		}
		err = errs.WithHint(fmt.Errorf("%s is compressed: %w", s.name, err), "If an image is compressed in it, decompress that first.")
	case err != nil:
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	return archived, err
}

// withTree calls f with what is at and below a place.
func (fl *files) withTree(at inside, f func(archive.Tree) error) error {
	return fl.tree(at, treeOptions{}, f)
}

// treeOptions say how a tree is to be walked.
type treeOptions struct {
	flat   bool // without what is in the directories below
	byName bool
	follow bool // a symbolic link that the path ends in
}

// tree is withTree with options. What fsread reads is never flat.
func (fl *files) tree(at inside, o treeOptions, f func(archive.Tree) error) (err error) {
	switch {
	case fl.fs != nil:
		n, err := fl.fs.Lookup(at.path, o.follow)
		if err != nil {
			return fmt.Errorf("%s:%w", at.source, err)
		}
		return f(archive.FileSystem{FS: fl.fs, Start: n, Name: path.Base(at.path), ByName: o.byName})
	case fl.archive != nil:
		place, err := fl.archive.Lookup(at.path, o.follow)
		if err != nil {
			return fmt.Errorf("%s:%w", at.source, err)
		}
		return f(archive.Members{Archive: fl.archive, Start: place, Name: path.Base(at.path), Flat: o.flat, ByName: o.byName})
	}
	tree, closeTree, err := kernelfs.Tree(fl.root, at.path, o.flat)
	if err != nil {
		return fmt.Errorf("%s:%w", at.source, err)
	}
	return errors.Join(f(tree), closeTree())
}

// open opens a regular file, also by a symbolic link.
func (fl *files) open(at inside) (f io.ReadCloser, err error) {
	if fl.fs == nil && fl.archive == nil {
		f, mode, err := kernelfs.Open(fl.root, at.path)
		if err != nil {
			return nil, fmt.Errorf("%s:%w", at.source, err)
		}
		return f, mustBeFile(at, ext4.Mode(mode))
	}
	if fl.archive != nil {
		return fl.openMember(at)
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

// openMember is open of an archive.
func (fl *files) openMember(at inside) (io.ReadCloser, error) {
	place, err := fl.archive.Lookup(at.path, true)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", at.source, err)
	}
	f := fl.archive.File(place)
	if err := mustBeFile(at, ext4.Mode(f.Header().Mode)); err != nil {
		return nil, err
	}
	content, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return io.NopCloser(io.NewSectionReader(content, 0, f.Header().Size)), nil
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
