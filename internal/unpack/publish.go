package unpack

import (
	"errors"
	"io/fs"
	"path"

	"cowl/internal/errs"
)

func relName(in *place, base string) string { return path.Join(in.name, base) }

// replace puts a file into the place of one that may be there. The new content is
// on the disk before the old one is gone.
func (u *unpacker) replace(in *place, tmp, base string) error {
	st, err := in.root.Lstat(base)
	switch {
	case err == nil && st.IsDir():
		return errs.E(errs.Exists, "%s is a directory", relName(in, base))
	case err == nil && st.Mode().IsRegular():
		if err := syncFile(in, tmp); err != nil {
			return writeError{err}
		}
	}
	if err := in.root.Rename(tmp, base); err != nil {
		return writeError{err}
	}
	return nil
}

// syncFile flushes a file if it is a regular one.
func syncFile(in *place, name string) error {
	st, err := in.root.Lstat(name)
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	f, err := in.root.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil // its mode is one that keeps us out: the sync at the end has to do
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// publishByLink gives a file its name where a rename would replace what has
// it: by a second name, or where there are none, by looking first.
func (u *unpacker) publishByLink(in *place, tmp, base string) error {
	err := in.root.Link(tmp, base)
	if err == nil {
		if err := in.root.Remove(tmp); err != nil {
			return writeError{err}
		}
		return nil
	}
	rel := relName(in, base)
	if errors.Is(err, fs.ErrExist) {
		return exists(rel, err)
	}
	if _, err := in.root.Lstat(base); !errors.Is(err, fs.ErrNotExist) {
		return exists(rel, errors.Join(fs.ErrExist, err))
	}
	if err := in.root.Rename(tmp, base); err != nil {
		return writeError{err}
	}
	return nil
}
