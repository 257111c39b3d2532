package overlay

import (
	"errors"
	"fmt"
	"os"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/ovlabel"
)

// Overlay is an overlay that this process has opened, and nobody else may
// change meanwhile.
type Overlay struct {
	path  string
	label *ovlabel.Label
	base  *base
	dev   *Device
}

// Open opens an overlay and its base. With readOnly others may open it so,
// too; otherwise nobody may. It refuses a base that has changed, and an
// overlay whose merge was begun (errs.Conflict), and what others have locked
// (errs.Busy).
func Open(path string, readOnly bool) (*Overlay, error) {
	lock := file.Exclusive
	if readOnly {
		lock = file.Shared
	}
	f, l, _, err := openFile(path, file.Options{ReadOnly: readOnly, Lock: lock})
	if err != nil {
		return nil, err
	}
	o, err := openOn(f, l, readOnly)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}

// openFile opens an overlay's file, with its label and the slot to be written
// next.
func openFile(path string, o file.Options) (*file.Device, *ovlabel.Label, int, error) {
	f, err := file.Open(path, o)
	if err != nil {
		return nil, nil, 0, explainBusy(path, err)
	}
	l, next, err := readLabel(f)
	if err != nil {
		return nil, nil, 0, errors.Join(explainLabel(path, err), f.Close())
	}
	return f, l, next, nil
}

// explainBusy says of an overlay's file what it means that it is locked.
func explainBusy(path string, err error) error {
	if errs.Is(err, errs.Busy) && errs.HintOf(err) == "" {
		return errs.WithHint(errs.E(errs.Busy, "overlay %s is in use: %w", path, err), "cowl overlay serve or merge has it, and has to end first")
	}
	return err
}

func explainLabel(path string, err error) error {
	if errs.Is(err, errs.NotFound) {
		return errs.E(errs.Corrupt, "%s is no overlay: %w", path, err)
	}
	return errs.E(errs.KindOf(err), "overlay %s: %w", path, err)
}

func openOn(f *file.Device, l *ovlabel.Label, readOnly bool) (*Overlay, error) {
	if l.State == ovlabel.Merging {
		return nil, errMerging(f.Path(), l.Path)
	}
	b, err := openLabelled(l)
	if err != nil {
		return nil, err
	}
	dev, err := newDevice(b.dev, f, deviceOptions{readOnly: readOnly, allocate: f.Allocate})
	if err != nil {
		return nil, errors.Join(explainLabel(f.Path(), err), b.Close())
	}
	return &Overlay{path: f.Path(), label: l, base: b, dev: dev}, nil
}

func errMerging(path, base string) error {
	return errs.WithHint(errs.E(errs.Conflict, "overlay %s is half merged into %s", path, base), "Finish that first: cowl overlay merge %s", path)
}

// openLabelled opens the base that a label names, if it is what it was.
func openLabelled(l *ovlabel.Label) (*base, error) {
	b, err := openBase(l.Path, l.Format, l.Anywhere)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errMissing(l.Path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the base: %w", err)
	}
	if err := b.check(l); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func errMissing(path string, err error) error {
	return errs.WithHint(errs.E(errs.NotFound, "the base %s is missing: %w", path, err), "Where it is now: cowl overlay rebase OVERLAY NEWBASE")
}

// Device returns the overlay's content. It is closed with the overlay.
func (o *Overlay) Device() block.Device { return o.dev }

// Base returns the path of the base.
func (o *Overlay) Base() string { return o.label.Path }

// Close makes durable what was written, and closes the overlay and its base.
// It fails with errs.Conflict if somebody changed the base meanwhile, in spite
// of the lock.
func (o *Overlay) Close() error {
	changed := o.base.check(o.label)
	return errors.Join(changed, o.dev.Close())
}

// Discard removes an overlay that nobody uses. One that is half merged is
// removed with force only: its base would be left half new.
func Discard(path string, force bool) error {
	f, l, _, err := openFile(path, file.Options{Lock: file.Exclusive})
	if err != nil {
		return err
	}
	if l.State == ovlabel.Merging && !force {
		return errors.Join(errMerging(path, l.Path), f.Close())
	}
	return errors.Join(os.Remove(path), f.Close())
}

// Rebase makes an overlay take a base as its own that is another file now, or
// that has other times: after it was moved, copied or restored. The sizes and
// the sampled ranges must be what they were, else it is refused with
// errs.Conflict. That all the rest is the same is the caller's word.
func Rebase(path, newBase string) (err error) {
	f, l, slot, err := openFile(path, file.Options{Lock: file.Exclusive})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if l.State == ovlabel.Merging {
		return errMerging(path, l.Path)
	}
	b, err := openBase(newBase, l.Format, l.Anywhere)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	members, err := b.members()
	if err != nil {
		return err
	}
	if len(members) != len(l.Members) || b.dev.Size() != l.Size {
		return errs.E(errs.Conflict, "%s is not the base of %s: another size, or backed by other files", newBase, path)
	}
	for i, m := range members {
		if was := l.Members[i]; was.Size != m.Size || was.Samples != m.Samples {
			return errs.E(errs.Conflict, "%s is not the base of %s: %s %s", newBase, path, b.files[i].Path(), differs(was, m))
		}
	}
	l.Sequence, l.Path, l.Members = l.Sequence+1, newBase, members
	return writeLabel(f, l, slot)
}
