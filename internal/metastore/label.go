package metastore

import (
	"errors"
	"fmt"

	"cowl/internal/errs"
	"cowl/internal/format/mda"
	"cowl/internal/format/pvlabel"
)

// ResizePV writes into the label of a PV of no group how large it is, in bytes.
// Nothing of it may lie behind.
func ResizePV(pv *PV, size int64) error {
	label := pv.Label
	for _, a := range label.MDAs {
		if end := int64(a.Offset + a.Size); end > size {
			return errs.E(errs.NoSpace, "%s cannot have %d bytes: its metadata ends at byte %d.", pv.Path, size, end)
		}
	}
	label.DevSize = uint64(size)
	if err := writeLabel(pv, label); err != nil {
		return err
	}
	pv.Label = label
	return nil
}

// setInUse writes the PV header's flag, if it is not what it should be, and
// flushes.
func (pv *PV) setInUse(on bool) error {
	if pv.InUse() == on {
		return nil
	}
	label := pv.Label
	label.SetInUse(on)
	if err := writeLabel(pv, label); err != nil {
		return err
	}
	pv.Label = label
	return nil
}

// writeLabel writes a label where it belongs, one sector, and flushes.
func writeLabel(pv *PV, label pvlabel.Label) error {
	sector, err := label.Encode()
	if err != nil {
		return err
	}
	if _, err := pv.Dev.WriteAt(sector, int64(label.Sector)*pvlabel.Size); err != nil {
		return fmt.Errorf("write label of %s: %w", pv.Path, err)
	}
	return flush(pv)
}

func flush(pv *PV) error {
	if err := pv.Dev.Flush(); err != nil {
		return fmt.Errorf("flush %s: %w", pv.Path, err)
	}
	return nil
}

// release makes a PV one of no group again: first the flag, and when that is
// durable the metadata. An area that is ignored stays so.
func (pv *PV) release() error { return releaseAll([]*PV{pv}) }

// releaseAll releases PVs together: all flags, and then all metadata, so that
// the group is complete until the first area goes. It tries every PV.
func releaseAll(pvs []*PV) error {
	var problems []error
	for _, pv := range pvs {
		problems = append(problems, pv.setInUse(false))
	}
	for _, pv := range pvs {
		problems = append(problems, pv.clearAreas())
	}
	return errors.Join(problems...)
}

// clearAreas zeroes the slots of all areas.
func (pv *PV) clearAreas() error {
	for _, m := range pv.MDAs {
		if err := m.clear(); err != nil {
			return fmt.Errorf("clear metadata area of %s at byte %d: %w", pv.Path, m.Offset, err)
		}
	}
	if len(pv.MDAs) == 0 {
		return nil
	}
	return flush(pv)
}

// clear zeroes the slots. An area with a damaged header gets a new one.
func (m *MDA) clear() error {
	if _, err := m.readHeader(); errs.Is(err, errs.Corrupt) {
		m.header = &mda.Header{Start: uint64(m.Offset), Size: uint64(m.Size)}
	} else if err != nil {
		return err
	}
	if err := m.writeSlots(mda.Locn{}.WithIgnored(m.Ignored), mda.Locn{}); err != nil {
		return err
	}
	m.Text, m.group, m.Damaged = nil, nil, nil
	return nil
}
