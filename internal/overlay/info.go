package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/ovlabel"
	"cowl/internal/snap"
)

// State is what can be done with an overlay at the moment.
type State string

// The states. One that is in use may be anything else as well: nobody looks
// closer while it is.
const (
	OK      State = "ok"
	InUse   State = "in use"
	Merging State = "merging" // a merge was begun and is to be finished
	Changed State = "base changed"
	Missing State = "base missing"
	BaseBad State = "base unusable" // it can't be opened; see Info.Reason
	Invalid State = "invalid"       // the kernel gave the store up
)

// Info is what is to be known of an overlay without serving it.
type Info struct {
	Path    string
	Base    string
	Format  string // of the base
	State   State
	Reason  string // what is the matter, for people; empty if nothing is
	Created time.Time
	Size    int64 // bytes that the overlay shows
	Chunk   int64 // bytes
	Chunks  int   // how many of the base's are replaced
	// Usage is the store's, as of the last flush.
	Usage snap.Usage
	// Disk is what the file takes in the file system, bytes; -1 if it does not
	// tell.
	Disk int64
}

// Inspect looks at an overlay and at its base. It fails if the file is no
// overlay; what else is the matter is in the state.
func Inspect(path string) (*Info, error) {
	f, l, _, err := openFile(path, file.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	i, err := inspect(f, l)
	return i, errors.Join(err, f.Close())
}

func inspect(f *file.Device, l *ovlabel.Label) (*Info, error) {
	i := &Info{
		Path: f.Path(), Base: l.Path, Format: formatName(l.Format), Size: l.Size,
		Created: time.Unix(l.Created, 0), Disk: diskBytes(f),
	}
	inUse := busy(f.Path())
	store, err := snap.Open(f, snap.Options{ReadOnly: true})
	switch {
	case err == nil:
		i.Chunk, i.Chunks, i.Usage = store.ChunkBytes(), store.Count(), store.Usage()
	case !inUse: // else it may change while it is read
		return nil, explainLabel(f.Path(), err)
	}
	switch {
	case inUse:
		i.State, i.Reason = InUse, "a process serves or merges it"
	case i.Usage.Invalid:
		i.State, i.Reason = Invalid, errInvalid.Error()
	default:
		i.State, i.Reason = stateOf(l)
	}
	return i, nil
}

// stateOf returns the state of an overlay that nobody uses, and the reason
// where it is not OK.
func stateOf(l *ovlabel.Label) (State, string) {
	if l.State == ovlabel.Merging {
		return Merging, "its merge was interrupted"
	}
	b, err := openLabelled(l)
	switch {
	case err == nil:
		if err := b.Close(); err != nil {
			return BaseBad, err.Error()
		}
		return OK, ""
	case errs.Is(err, errs.NotFound):
		return Missing, err.Error()
	case errs.Is(err, errs.Conflict):
		return Changed, err.Error()
	}
	return BaseBad, err.Error()
}

// busy reports whether another process, or another part of this one, has the
// overlay open.
func busy(path string) bool {
	f, err := file.Open(path, file.Options{ReadOnly: true, Lock: file.Exclusive})
	if err == nil {
		f.Close()
	}
	return errs.Is(err, errs.Busy)
}

// List returns the overlays in a directory, not in those below it. What looks
// like one and cannot be read is an error that comes with the others.
func List(dir string) ([]*Info, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []*Info
	var problems []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() || !looksLikeOverlay(path) {
			continue
		}
		i, err := Inspect(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			problems = append(problems, err)
		default:
			list = append(list, i)
		}
	}
	return list, errors.Join(problems...)
}

// looksLikeOverlay tells overlays, damaged ones too, from everything else.
func looksLikeOverlay(path string) bool {
	f, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil {
		return false
	}
	defer f.Close()
	_, _, err = readLabel(f)
	return !errs.Is(err, errs.NotFound)
}

// Siblings returns the other overlays on the same base in the directories of
// the overlay and of its base: those that a merge would make useless. There
// may be more elsewhere.
func Siblings(path string) ([]string, error) {
	f, l, _, err := openFile(path, file.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own, err := f.Stat()
	if err != nil {
		return nil, err
	}
	base, err := os.Stat(l.Path)
	if err != nil {
		return nil, err
	}
	dirs := []string{filepath.Dir(path)}
	if there, err := os.Stat(filepath.Dir(l.Path)); err == nil {
		if here, err := os.Stat(dirs[0]); err != nil || !os.SameFile(here, there) {
			dirs = append(dirs, filepath.Dir(l.Path))
		}
	}
	var found []string
	for _, dir := range dirs {
		list, _ := List(dir)
		for _, i := range list {
			file, fileErr := os.Stat(i.Path)
			its, baseErr := os.Stat(i.Base)
			if fileErr == nil && baseErr == nil && !os.SameFile(file, own) && os.SameFile(its, base) {
				found = append(found, i.Path)
			}
		}
	}
	return found, nil
}
