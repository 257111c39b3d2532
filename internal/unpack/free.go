package unpack

import (
	"context"
	"errors"
	"io/fs"

	"cowl/internal/archive"
	"cowl/internal/errs"
)

// checkFree makes sure, before anything is made, that no file is in the way:
// a tree that is half there because the rest was refused is neither old nor new.
func (u *unpacker) checkFree(tree archive.Tree) error {
	if u.o.Overwrite {
		return nil
	}
	st, err := u.root.Lstat(u.to.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // and so is nothing below it
	}
	if err != nil {
		return err
	}
	c := conflicts{u: u}
	if !st.IsDir() {
		c.found(u.to.Name)
	} else if err := tree.Walk(u.ctx, c.visit); err != nil {
		return err
	}
	u.begun = false
	if c.count == 0 {
		return nil
	}
	err = errs.E(errs.Exists, "%s exists already", c.first)
	if c.count > 1 {
		err = errs.E(errs.Exists, "%s and %d more exist already", c.first, c.count-1)
	}
	return errs.WithHint(err, "Nothing was written. Name another place, or replace files with --overwrite.")
}

// conflicts looks for what is in a tree's way.
type conflicts struct {
	u     *unpacker
	count int64
	first string
	free  string // a directory that is not there yet
}

func (c *conflicts) found(rel string) {
	if c.count == 0 {
		c.first = rel
	}
	c.count++
}

func (c *conflicts) visit(name string, f archive.File, _ error) error {
	if c.u.ctx.Err() != nil {
		return context.Cause(c.u.ctx)
	}
	rel, err := c.u.target(name)
	if err != nil || f == nil || c.free != "" && below(rel, c.free) {
		return nil // what is wrong is said when it is unpacked
	}
	isDir := f.Header().Mode&archive.ModeType == archive.ModeDir
	st, err := c.u.root.Lstat(rel)
	switch {
	case err != nil && isDir:
		c.free = rel
	case err != nil, isDir && st.IsDir():
	default:
		c.found(rel)
		if isDir {
			c.free = rel
		}
	}
	return nil
}
