package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/block/qcow2"
	"cowl/internal/errs"
	"cowl/internal/format/ovlabel"
)

// base is an open base: its content and the files that it consists of.
type base struct {
	dev      block.Device // owns the files
	format   ovlabel.Format
	files    []*file.Device // in the order of ovlabel.Label.Members
	dir      string         // backing files have to be below it, unless anywhere
	anywhere bool
}

// openBase opens a base for reading, all its files with shared locks. A format
// of 0 is found out.
func openBase(path string, format ovlabel.Format, anywhere bool) (*base, error) {
	b := &base{format: format, anywhere: anywhere, dir: realDir(path)}
	dev, err := b.open(path, formatName(format))
	if err != nil {
		return nil, err
	}
	b.dev = dev
	if _, isQcow2 := dev.(*qcow2.Device); isQcow2 {
		b.format = ovlabel.Qcow2
	} else {
		b.format = ovlabel.Raw
	}
	if dev.Size() == 0 {
		return nil, errors.Join(errs.E(errs.Conflict, "%s is empty: nothing to lay anything over", path), dev.Close())
	}
	return b, nil
}

func formatName(f ovlabel.Format) string {
	return map[ovlabel.Format]string{ovlabel.Raw: "raw", ovlabel.Qcow2: "qcow2"}[f]
}

// realDir is the directory that a file is in, symbolic links resolved.
func realDir(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return filepath.Dir(path)
}

// open opens one file of the base, and with it what it is backed by. The
// format is "" if it is to be found out.
func (b *base) open(path, format string) (block.Device, error) {
	if err := b.mayOpen(path); err != nil {
		return nil, err
	}
	f, err := file.Open(path, file.Options{ReadOnly: true, Lock: file.Shared})
	if err != nil {
		return nil, err
	}
	b.files = append(b.files, f)
	dev, err := b.interpret(f, format)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return dev, nil
}

// interpret makes a device of an open file.
func (b *base) interpret(f *file.Device, format string) (block.Device, error) {
	is, err := qcow2.Is(f)
	switch {
	case err != nil:
		return nil, err
	case format == "raw":
		return f, nil
	case format != "qcow2" && format != "":
		return nil, errs.E(errs.Unsupported, "%s: cowl does not read images of format %q", f.Path(), format)
	case format == "" && !is:
		return f, nil
	case format == "" && len(b.files) > 1:
		// qemu, too, takes a backing file's format from what is in it no more:
		// whoever wrote to a raw one could name any file of this host.
		return nil, errs.WithHint(errs.E(errs.Unsupported, "%s looks like qcow2, and the image that it backs does not say so", f.Path()),
			"qemu-img rebase -u -F qcow2 -b %s IMAGE writes it down", f.Path())
	}
	dev, err := qcow2.Open(f, func(name, format string) (block.Device, error) { return b.backing(f.Path(), name, format) })
	if err != nil {
		return nil, errs.E(errs.KindOf(err), "open %s: %w", f.Path(), errs.WithHint(err, "%s", errs.HintOf(err)))
	}
	return dev, nil
}

var protocol = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// backing opens what an image says it is backed by, a path relative to the
// image's directory.
func (b *base) backing(image, name, format string) (block.Device, error) {
	if protocol.MatchString(name) || strings.ContainsRune(name, 0) {
		return nil, errs.E(errs.Unsupported, "the image is backed by %q, which is not a file's name", name)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(realDir(image), name)
	}
	return b.open(name, format)
}

// mayOpen refuses what a stranger's image should not lead to.
func (b *base) mayOpen(path string) error {
	if len(b.files) == ovlabel.MaxMembers {
		return errs.E(errs.Unsupported, "the base consists of more than %d files, one backed by the other", ovlabel.MaxMembers)
	}
	for _, f := range b.files {
		was, err := f.Stat()
		if err != nil {
			return err
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(was, now) {
			return errs.E(errs.Corrupt, "%s is backed by itself", path)
		}
	}
	if len(b.files) == 0 || b.anywhere {
		return nil
	}
	rel, err := filepath.Rel(b.dir, filepath.Join(realDir(path), filepath.Base(path)))
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return errs.WithHint(errs.E(errs.Denied, "the image is backed by %s, which is not below %s", path, b.dir),
			"If you know why: --backing-anywhere")
	}
	return nil
}

// members identifies all files.
func (b *base) members() ([]ovlabel.Member, error) {
	var list []ovlabel.Member
	for _, f := range b.files {
		m, err := identify(f)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// check compares the base with what a label says of it.
func (b *base) check(l *ovlabel.Label) error {
	now, err := b.members()
	switch {
	case err != nil:
		return err
	case b.dev.Size() != l.Size:
		return errChanged(l.Path, differs(ovlabel.Member{Size: l.Size}, ovlabel.Member{Size: b.dev.Size()}))
	case len(now) != len(l.Members):
		return errChanged(l.Path, "is backed by other files")
	}
	for i := range now {
		if what := differs(l.Members[i], now[i]); what != "" {
			return errChanged(b.files[i].Path(), what)
		}
	}
	return nil
}

func (b *base) Close() error { return b.dev.Close() }
