package metastore

import (
	"bytes"
	"fmt"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/checksum"
	"cowl/internal/format/config"
	"cowl/internal/format/mda"
	"cowl/internal/format/pvlabel"
)

// readTries bounds how often a text is read again because its area's header
// changed meanwhile: each is a commit by another process.
const readTries = 16

// ReadPV reads a PV's label and metadata areas. What is wrong with an area is
// noted in it and hides nothing else. The error is of kind errs.NotFound if
// the device has no label, and errs.Corrupt or errs.Unsupported if it has one
// that cannot be used.
func ReadPV(src Source) (*PV, error) {
	label, err := readLabel(src)
	if err != nil {
		return nil, err
	}
	pv := &PV{Path: src.Path, Dev: src.Dev, Label: *label}
	for _, a := range label.MDAs {
		m := &MDA{PV: pv, Offset: int64(a.Offset), Size: int64(a.Size)}
		m.read()
		pv.MDAs = append(pv.MDAs, m)
	}
	return pv, nil
}

// readLabel takes the first sector that holds a good label.
func readLabel(src Source) (*pvlabel.Label, error) {
	head := make([]byte, min(pvlabel.Sectors*pvlabel.Size, src.Dev.Size()/pvlabel.Size*pvlabel.Size))
	if _, err := src.Dev.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read label of %s: %w", src.Path, err)
	}
	var bad error
	for at := range len(head) / pvlabel.Size {
		sector := head[at*pvlabel.Size : (at+1)*pvlabel.Size]
		if !pvlabel.Present(sector) {
			continue
		}
		label, err := pvlabel.Decode(sector, uint64(at))
		if err == nil {
			return label, nil
		}
		bad = err
	}
	if bad != nil {
		return nil, fmt.Errorf("%s: %w", src.Path, bad)
	}
	return nil, errs.E(errs.NotFound, "%s: not a physical volume: no label in its first %d sectors", src.Path, pvlabel.Sectors)
}

// read reads the area's header and committed text. Another process may commit
// at the same time: then the header points elsewhere when it is read again,
// and what was read of the old text means nothing.
func (m *MDA) read() {
	var before []byte
	for range readTries {
		sector, err := m.readHeader()
		if err != nil && (sector == nil || bytes.Equal(sector, before)) {
			m.damage(err)
			return
		}
		if err == nil {
			text, err := m.readText()
			if err == nil {
				m.Text, m.Damaged = text, nil
				return
			}
			if bytes.Equal(sector, before) {
				m.damage(err)
				return
			}
		}
		before = sector
	}
	m.damage(errs.E(errs.Busy, "%s: the metadata area at byte %d changes all the time", m.PV.Path, m.Offset))
}

// readHeader reads and decodes the header. The sector is nil if it could not
// be read.
func (m *MDA) readHeader() (sector []byte, err error) {
	m.header = nil
	if err := m.inside(); err != nil {
		return nil, err
	}
	sector = make([]byte, mda.HeaderSize)
	if _, err := m.PV.Dev.ReadAt(sector, m.Offset); err != nil {
		return nil, fmt.Errorf("read metadata area of %s at byte %d: %w", m.PV.Path, m.Offset, err)
	}
	h, err := mda.Decode(sector, uint64(m.Offset))
	if err != nil {
		return sector, fmt.Errorf("%s: %w", m.PV.Path, err)
	}
	if h.Size > uint64(m.Size) {
		return sector, errs.E(errs.Corrupt, "%s: the metadata area at byte %d says it has %d bytes (want at most %d)",
			m.PV.Path, m.Offset, h.Size, m.Size)
	}
	m.header = h
	m.Ignored = h.Slots[mda.Committed].Ignored()
	return sector, nil
}

// inside checks that the area as the label has it is on the device.
func (m *MDA) inside() error {
	if m.Size < mda.MinSize || block.CheckRange(m.Offset, m.Size, m.PV.Dev.Size()) != nil || m.Offset%mda.HeaderSize != 0 {
		return errs.E(errs.Unsupported, "%s: the metadata area of %d bytes at byte %d cannot be on a device of %d bytes",
			m.PV.Path, m.Size, m.Offset, m.PV.Dev.Size())
	}
	return nil
}

// readText reads the committed text that the header points to.
func (m *MDA) readText() ([]byte, error) {
	locn := m.header.Slots[mda.Committed]
	if locn.None() {
		return nil, nil
	}
	if err := mda.CheckLocn(m.header.Size, locn); err != nil {
		return nil, fmt.Errorf("%s: metadata area at byte %d: %w", m.PV.Path, m.Offset, err)
	}
	if locn.Length > config.MaxSize {
		return nil, errs.E(errs.Unsupported, "%s: metadata of %d bytes (want at most %d)", m.PV.Path, locn.Length, config.MaxSize)
	}
	text := make([]byte, 0, locn.Length)
	for _, s := range mda.Spans(m.header.Size, locn.Offset, locn.Length) {
		part := text[len(text) : len(text)+int(s.Len)]
		if _, err := m.PV.Dev.ReadAt(part, m.Offset+int64(s.Off)); err != nil {
			return nil, fmt.Errorf("read metadata of %s at byte %d: %w", m.PV.Path, m.Offset+int64(s.Off), err)
		}
		text = text[:len(text)+len(part)]
	}
	if want, got := locn.Checksum, checksum.LVM(text); want != got {
		return nil, errs.E(errs.Corrupt, "%s: metadata at byte %d: bad checksum (want %#08x, got %#08x)",
			m.PV.Path, m.Offset+int64(locn.Offset), want, got)
	}
	return bytes.TrimRight(text, "\x00"), nil
}
