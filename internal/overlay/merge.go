package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
	"cowl/internal/format/ovlabel"
	"cowl/internal/snap"
)

// Merge writes what an overlay holds into its base, and leaves the overlay
// empty. It can be cut off anywhere, by the context or by a power cut, and
// goes on with the next call; until then the base is half old, half new, and
// the overlay can't be opened. progress, unless nil, is told how many chunks
// there are and how many are left. rate bounds how much is copied, in bytes a
// second, unless it is 0.
//
// The base must be raw. Other overlays on it are of no use afterwards: they
// find it changed. Those that are open make Merge fail with errs.Busy.
func Merge(ctx context.Context, path string, rate int64, progress func(left, total int)) (err error) {
	f, l, slot, err := openFile(path, file.Options{Lock: file.Exclusive})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if l.Format != ovlabel.Raw {
		return errs.WithHint(errs.E(errs.Unsupported, "the base %s is not a raw image: cowl does not write others", l.Path),
			"Serve the overlay, and convert what it shows: qemu-img convert nbd+unix://... NEW")
	}
	guard, err := openTarget(l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	m := &merge{file: f, label: l, slot: slot, before: guard}
	m.pace.Set(rate)
	m.open = func() (block.Device, error) { return file.Open(l.Path, file.Options{}) }
	m.identify = func() (ovlabel.Member, error) { return identify(guard) }
	return m.run(ctx, progress)
}

// openTarget claims a raw base and makes sure that it is the overlay's. It is
// opened for reading: to open a file for writing may change its times, as
// cowl asks the file system for holes then.
func openTarget(l *ovlabel.Label) (*file.Device, error) {
	b, err := file.Open(l.Path, file.Options{ReadOnly: true, Lock: file.Exclusive})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errMissing(l.Path, err)
	case errs.Is(err, errs.Busy) && errs.HintOf(err) == "":
		return nil, errs.WithHint(err, "Other overlays on it may be served: see cowl overlay list")
	case err != nil:
		return nil, fmt.Errorf("open the base: %w", err)
	}
	now, err := identify(b)
	if err == nil {
		err = mayMerge(l, now)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// mayMerge refuses a base that is not the overlay's. Once a merge has begun
// its content and times tell nothing.
func mayMerge(l *ovlabel.Label, now ovlabel.Member) error {
	was := l.Members[0]
	if l.State == ovlabel.Merging {
		was.Samples, was.Changed, was.Status = now.Samples, now.Changed, now.Status
	}
	if what := differs(was, now); what != "" {
		return errChanged(l.Path, what)
	}
	return nil
}

// merge is the work between the two labels: one that says that it has begun is
// durable before the base's first byte changes, and one that knows the base as
// it then is comes once the store is empty.
type merge struct {
	file     block.Device
	label    *ovlabel.Label
	slot     int
	before   block.Device                   // the base, to look at
	open     func() (block.Device, error)   // the base, to write to
	identify func() (ovlabel.Member, error) // the base, when all is done
	pace     snap.Pace
}

func (m *merge) run(ctx context.Context, progress func(left, total int)) (err error) {
	store, err := snap.Open(m.file, snap.Options{})
	if err != nil {
		return err
	}
	// What cannot be merged has to be refused before anything says that it is.
	if err := snap.NewOrigin(m.before, snap.OriginOptions{Manual: true}).StartMerge(store, m.label.Size); err != nil {
		return err
	}
	if err := m.mark(ovlabel.Merging); err != nil {
		return err
	}
	base, err := m.open()
	if err != nil {
		return err
	}
	origin := snap.NewOrigin(base, snap.OriginOptions{Manual: true})
	defer func() { err = errors.Join(err, origin.Close()) }()
	if err := origin.StartMerge(store, m.label.Size); err != nil {
		return err
	}
	if err := m.moveAll(ctx, origin, store, progress); err != nil {
		return err
	}
	if m.label.Members[0], err = m.identify(); err != nil {
		return err
	}
	if err := m.mark(ovlabel.Live); err != nil {
		return err
	}
	return m.empty(dmsnap.Layout{ChunkBytes: store.ChunkBytes()})
}

// mark makes a state durable.
func (m *merge) mark(s ovlabel.State) error {
	m.label.Sequence++
	m.label.State = s
	err := writeLabel(m.file, m.label, m.slot)
	m.slot = 1 - m.slot
	return err
}

// moveAll moves the chunks, in snap's crash-safe steps.
func (m *merge) moveAll(ctx context.Context, origin *snap.Origin, store *snap.Store, progress func(left, total int)) error {
	total := store.Count()
	tell := func(left int) {
		if progress != nil {
			progress(left, total)
		}
	}
	tell(total)
	origin.LimitMergeStep(m.pace.Step())
	for left, copied := total, 0; left > 0; tell(left) {
		if err := m.pace.Wait(ctx, int64(copied)*store.ChunkBytes()); err != nil {
			return err
		}
		before := left
		var err error
		if left, err = origin.MergeStep(); err != nil {
			return err
		}
		copied = before - left
	}
	if err := origin.FinishMerge(); err != nil {
		return err
	}
	return origin.Flush()
}

// empty gives the space of the chunks back. The areas are empty already.
func (m *merge) empty(layout dmsnap.Layout) error {
	from := layout.Off(dmsnap.FirstData)
	if err := m.file.Discard(from, m.file.Size()-from); err != nil {
		return err
	}
	return m.file.Flush()
}
