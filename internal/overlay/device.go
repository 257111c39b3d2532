package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
	"cowl/internal/snap"
)

// Device is an overlay's content. What is written goes to the overlay's file;
// the base is only read.
type Device struct {
	base   block.Device
	file   block.Device
	store  *snap.Store
	origin *snap.Origin
	snap   *snap.Snapshot
	ledger *ledger
	room   *room
}

// deviceOptions is how a Device behaves.
type deviceOptions struct {
	readOnly bool
	allocate func(off, length int64) error // see room
	manual   bool                          // no timers
}

// newDevice stacks an overlay's file over its base. It owns both, unless it
// fails.
func newDevice(base, file block.Device, o deviceOptions) (*Device, error) {
	layout, err := readHeader(file)
	if err != nil {
		return nil, err
	}
	d := &Device{base: base, file: file, ledger: newLedger(file, layout, o.manual || o.readOnly)}
	if d.store, err = snap.Open(d.ledger, snap.Options{ReadOnly: o.readOnly}); err != nil {
		return nil, err
	}
	d.origin = snap.NewOrigin(base, snap.OriginOptions{Manual: o.manual})
	if d.snap, err = d.origin.Attach(d.store, base.Size(), o.readOnly); err != nil {
		return nil, err
	}
	d.room = newRoom(file, d.store, o.allocate)
	return d, nil
}

// readHeader reads what stands before the label. An invalid store is refused:
// only the kernel makes one, when it could not write.
func readHeader(file block.Device) (dmsnap.Layout, error) {
	b := make([]byte, dmsnap.HeaderSize)
	if file.Size() < int64(len(b)) {
		return dmsnap.Layout{}, errs.E(errs.NotFound, "it has %d bytes", file.Size())
	}
	if _, err := file.ReadAt(b, 0); err != nil {
		return dmsnap.Layout{}, fmt.Errorf("read header: %w", err)
	}
	if binary.LittleEndian.Uint32(b) != dmsnap.Magic {
		return dmsnap.Layout{}, errs.E(errs.NotFound, "it does not begin as an exception store")
	}
	h, _, err := dmsnap.DecodeHeader(b)
	switch {
	case err != nil:
		return dmsnap.Layout{}, err
	case !h.Valid:
		return dmsnap.Layout{}, errInvalid
	}
	return dmsnap.Layout{ChunkBytes: h.ChunkBytes}, nil
}

var errInvalid = errs.E(errs.Conflict, "it is invalid: the kernel could not write it, and gave it up")

// ReadAt implements block.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) { return d.snap.ReadAt(p, off) }

// WriteAt implements block.Device. Where there is no room for what it would
// add it fails with errs.NoSpace and changes nothing.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	release, err := d.room.claim(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err := d.snap.WriteAt(p, off)
	d.room.release(release)
	if err == nil {
		err = d.relieve()
	}
	return n, d.explain(err)
}

// zeroBytes is how far WriteZeroes looks ahead.
const zeroBytes = 64 << 20

// WriteZeroes implements block.Device. Where the base is known to read as
// zeroes there is nothing to do: it does not change.
func (d *Device) WriteZeroes(off, length int64) error {
	if err := d.check(off, length); err != nil {
		return err
	}
	for end := off + length; off < end; {
		n := min(end-off, zeroBytes)
		todo, err := d.notZero(off, n)
		if err != nil {
			return err
		}
		for _, e := range todo {
			if err := d.zero(e.Off, e.Len); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// notZero returns the extents of a range that may hold something.
func (d *Device) notZero(off, length int64) ([]block.Extent, error) {
	var list []block.Extent
	for e, err := range block.Coalesce(d.snap.Extents(off, length)) {
		if err != nil {
			return nil, err
		}
		if e.Depth == 0 || e.Kind == block.Data {
			list = append(list, e)
		}
	}
	return list, nil
}

func (d *Device) zero(off, length int64) error {
	release, err := d.room.claim(off, length)
	if err != nil {
		return err
	}
	err = d.snap.WriteZeroes(off, length)
	d.room.release(release)
	if err == nil {
		err = d.relieve()
	}
	return d.explain(err)
}

// check refuses a change that cannot be.
func (d *Device) check(off, length int64) error {
	if d.snap.Caps().ReadOnly {
		return block.ErrReadOnly
	}
	return block.CheckRange(off, length, d.snap.Size())
}

// relieve publishes before too much is held back.
func (d *Device) relieve() error {
	if !d.ledger.crowded() {
		return nil
	}
	return d.ledger.publish()
}

// explain says of an error after which nothing goes any more what that means.
func (d *Device) explain(err error) error {
	if err == nil || !d.store.Usage().Invalid {
		return err
	}
	return errs.WithHint(errs.E(errs.Other, "the overlay's file or its base failed, and it is out of use until it is opened again: %w", err),
		"What was flushed is safe")
}

// Flush implements block.Device.
func (d *Device) Flush() error {
	if err := d.snap.Flush(); err != nil {
		return d.explain(err)
	}
	if d.snap.Caps().ReadOnly {
		return nil
	}
	return d.ledger.publish()
}

// Discard implements block.Device. It is advice, and a store gives no chunk
// back.
func (d *Device) Discard(off, length int64) error { return d.snap.Discard(off, length) }

// Extents implements block.Device. Depth 0 is the overlay, 1 its base.
func (d *Device) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	return d.snap.Extents(off, length)
}

// Size implements block.Device.
func (d *Device) Size() int64 { return d.snap.Size() }

// Caps implements block.Device.
func (d *Device) Caps() block.Caps { return d.snap.Caps() }

// Usage returns how full the overlay's store is.
func (d *Device) Usage() snap.Usage { return d.store.Usage() }

// Close implements block.Device. What was written is durable afterwards, and
// room that was not used is given back.
func (d *Device) Close() error {
	readOnly := d.snap.Caps().ReadOnly
	problems := []error{d.origin.Close()} // closes the base
	if !readOnly {
		published := d.ledger.publish()
		problems = append(problems, published)
		if published == nil && !d.store.Usage().Invalid {
			problems = append(problems, d.room.giveBack())
		}
	}
	return errors.Join(append(problems, d.ledger.Close(), d.file.Close())...)
}

var _ block.Device = (*Device)(nil)
