package overlay

import (
	"errors"
	"fmt"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
	"cowl/internal/format/ovlabel"
)

// readLabel reads the label of an overlay's file, and which slot is to be
// written next. What is no overlay is errs.NotFound.
func readLabel(file block.Device) (*ovlabel.Label, int, error) {
	layout, err := readHeader(file)
	if err != nil && !errors.Is(err, errInvalid) {
		return nil, 0, err
	}
	if err == nil && layout.ChunkBytes < ovlabel.MinChunk || file.Size() < ovlabel.Off+ovlabel.Size {
		return nil, 0, errs.E(errs.NotFound, "it is an exception store of other origin: its chunks have no room for a label")
	}
	b := make([]byte, ovlabel.Size)
	if _, err := file.ReadAt(b, ovlabel.Off); err != nil {
		return nil, 0, fmt.Errorf("read label: %w", err)
	}
	l, next, labelErr := ovlabel.Decode(b)
	if errs.Is(labelErr, errs.NotFound) && err != nil {
		return nil, 0, err // the kernel wiped the label when it gave the store up
	}
	if errs.Is(labelErr, errs.NotFound) {
		return nil, 0, errs.E(errs.NotFound, "it is an exception store of other origin: it has no label")
	}
	return l, next, labelErr
}

// writeLabel replaces the label: durably, and so that the old one is there
// until the new one is.
func writeLabel(file block.Device, l *ovlabel.Label, slot int) error {
	b, err := l.Encode()
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(b, ovlabel.SlotOff(slot)); err != nil {
		return fmt.Errorf("write label: %w", err)
	}
	if err := file.Flush(); err != nil {
		return fmt.Errorf("write label: %w", err)
	}
	return nil
}

// format makes a new file, which reads as zeroes, an overlay without content:
// the label first, and the header's sector last, so that it is a whole overlay
// or none. Areas that are zero are empty.
func format(file block.Device, l *ovlabel.Label, chunk int64) error {
	if err := writeLabel(file, l, 0); err != nil {
		return err
	}
	if _, err := file.WriteAt(dmsnap.Header{Valid: true, ChunkBytes: chunk}.Encode(), 0); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	return file.Flush()
}
