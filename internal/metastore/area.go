package metastore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/checksum"
	"cowl/internal/format/mda"
	"cowl/internal/format/vgtext"
)

// area is a metadata area during one change.
type area struct {
	*MDA
	next   mda.Locn // where the new text goes
	failed bool     // left out of the rest of the change
}

// refresh reads the areas' headers again: a Commit that failed may have reached
// some, and another process may have been there. An area whose header is
// damaged gets a new one.
func (s *Store) refresh(areas []*area) error {
	for _, a := range areas {
		known := mda.Locn{}
		if a.header != nil {
			known = a.header.Slots[mda.Committed]
		}
		_, err := a.readHeader()
		switch {
		case err == nil && a.Damaged == nil && a.header.Slots[mda.Committed] == known:
			continue
		case err == nil:
			if err := s.compare(a); err != nil {
				return err
			}
		case errs.Is(err, errs.Corrupt):
			a.damage(err)
			a.header = &mda.Header{Start: uint64(a.Offset), Size: uint64(a.Size)}
		default:
			a.damage(err)
			a.failed = true
			s.warn("%v", err)
		}
	}
	return nil
}

// compare judges a committed text that is not the one the store knew of.
func (s *Store) compare(a *area) error {
	text, err := a.readText()
	if err != nil {
		a.damage(err)
		if !a.writable() {
			a.failed = true
			s.warn("%v", err)
		}
		return nil
	}
	a.Text, a.Damaged = text, nil
	if text == nil || bytes.Equal(text, s.text) {
		return nil
	}
	vg, err := vgtext.Decode(text)
	switch {
	case err != nil: // damaged, and overwritten by this change
		return nil
	case slices.ContainsFunc(s.lost, func(l lost) bool { return bytes.Equal(text, l.text) }):
		// A commit that failed did happen here, and is about to be replaced.
		if s.group == nil || vg.Seqno > s.group.Seqno {
			s.group, s.text = vg, text
		}
		return nil
	case s.group == nil:
		return errs.E(errs.Conflict, "PV %s is in volume group %s", a.PV.Path, vg.Name)
	case vg.ID != s.group.ID:
		return errs.E(errs.Conflict, "PV %s went to volume group %s", a.PV.Path, vg.Name)
	case vg.Seqno <= s.group.Seqno:
		return nil
	}
	return errs.E(errs.Conflict, "volume group %s was changed by another process (seqno %d, was %d)", vg.Name, vg.Seqno, s.group.Seqno)
}

// place finds where the new text goes on every area.
func place(p *pending) error {
	length := uint64(len(p.text))
	sum := checksum.LVM(p.text)
	for _, a := range p.areas {
		if a.failed {
			continue
		}
		off, err := mda.Place(a.header.Size, a.header.Slots[mda.Committed], length)
		if err != nil {
			return fmt.Errorf("volume group %s: %s: %w", p.group.Name, a.PV.Path, err)
		}
		a.next = mda.Locn{Offset: off, Length: length, Checksum: sum}
	}
	return nil
}

// stage is the first half of the protocol.
func (s *Store) stage(p *pending) error {
	padded := make([]byte, mda.Padded(uint64(len(p.text))))
	copy(padded, p.text)
	err := s.write(p.areas, func(a *area) error { return a.writeText(padded) })
	if err == nil {
		err = s.write(p.areas, (*area).precommit)
	}
	if err != nil {
		return fmt.Errorf("write metadata of volume group %s: %w", p.group.Name, err)
	}
	return nil
}

// write does one step on every area and flushes their devices. Where either
// fails the area is left out from here on, with a warning; it is an error only
// if there is no area left.
func (s *Store) write(areas []*area, step func(*area) error) error {
	var problems []error
	var dirty []*PV
	for _, a := range areas {
		if a.failed {
			continue
		}
		if err := step(a); err != nil {
			a.fail(err, &problems)
		} else if !slices.Contains(dirty, a.PV) {
			dirty = append(dirty, a.PV)
		}
	}
	flushed := map[*PV]error{}
	for _, pv := range dirty {
		flushed[pv] = pv.Dev.Flush()
	}
	left := 0
	for _, a := range areas {
		if err := flushed[a.PV]; err != nil && !a.failed {
			a.fail(err, &problems)
		}
		if !a.failed {
			left++
		}
	}
	if left == 0 {
		return cmp.Or(errors.Join(problems...), errs.E(errs.Other, "no metadata area can be written"))
	}
	for _, err := range problems {
		s.warn("%v", err)
	}
	return nil
}

// fail leaves an area out of the rest of the change. What its header says on
// disk is not known any more.
func (a *area) fail(err error, problems *[]error) {
	a.failed = true
	a.header = nil
	*problems = append(*problems, fmt.Errorf("failed to write metadata to %s at byte %d: %w", a.PV.Path, a.Offset, err))
}

// writeText writes the padded text where place has put it.
func (a *area) writeText(padded []byte) error {
	for _, s := range mda.Spans(a.header.Size, a.next.Offset, uint64(len(padded))) {
		if _, err := a.PV.Dev.WriteAt(padded[:s.Len], a.Offset+int64(s.Off)); err != nil {
			return err
		}
		padded = padded[s.Len:]
	}
	return nil
}

// writeSlots writes the header with the given slots, and remembers them once
// they are written.
func (m *MDA) writeSlots(committed, precommitted mda.Locn) error {
	h := *m.header
	h.Slots = [2]mda.Locn{committed, precommitted}
	if _, err := m.PV.Dev.WriteAt(h.Encode(), m.Offset); err != nil {
		return err
	}
	m.header = &h
	return nil
}

func (a *area) precommit() error {
	return a.writeSlots(a.header.Slots[mda.Committed], a.next)
}

func (a *area) commit() error {
	return a.writeSlots(a.next, mda.Locn{})
}

func (a *area) revert() error {
	return a.writeSlots(a.header.Slots[mda.Committed], mda.Locn{})
}
