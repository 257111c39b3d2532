package metastore

import (
	"fmt"

	"cowl/internal/errs"
	"cowl/internal/format/mda"
	"cowl/internal/format/pvlabel"
	"cowl/internal/volume"
)

// LVM2's layout of a PV, in bytes.
const (
	firstMDA         = 4096     // where the first metadata area begins
	defaultAlignment = 1 << 20  // of the data area
	minMDASize       = 32 << 10 // the smallest metadata area that LVM2 makes
	minPVSize        = 2 << 20  // the smallest device that LVM2 takes for a PV

	// DefaultMetadataSize is that of a metadata area unless alignment makes it
	// larger.
	DefaultMetadataSize = 1<<20 - firstMDA
)

// PVOptions lay out a new PV. All sizes are in bytes and multiples of 512; 0
// takes LVM2's default.
type PVOptions struct {
	ID volume.UUID // required

	MetadataCopies     *int  // 0 to 2 metadata areas; nil: 1
	MetadataSize       int64 // of each, at least; more where alignment leaves a gap
	DataAlignment      int64 // extents begin at a multiple of it, 0: 1 MiB
	DataAlignmentShift int64 // plus this
	BootloaderAreaSize int64
	Size               int64 // of the PV, if not the device's
	LabelSector        *int  // 0 to 3; nil: 1
}

// Layout returns the label of a PV on a device of the given size, as LVM2 would
// lay it out. The error is of kind errs.Usage or, if the device is too small,
// errs.NoSpace.
func Layout(devSize int64, o PVOptions) (pvlabel.Label, error) {
	if err := o.check(); err != nil {
		return pvlabel.Label{}, err
	}
	if o.Size == 0 {
		o.Size = devSize / pvlabel.Size * pvlabel.Size
	}
	if o.Size < minPVSize || o.Size > devSize {
		return pvlabel.Label{}, errs.E(errs.NoSpace, "a PV of %d bytes on a device of %d bytes (want at least %d)", o.Size, devSize, minPVSize)
	}
	label := pvlabel.Label{
		Sector:  pvlabel.DefaultSector,
		ID:      string(o.ID),
		DevSize: uint64(o.Size),
		Version: pvlabel.ExtensionVersion,
	}
	if o.LabelSector != nil {
		label.Sector = uint64(*o.LabelSector)
	}
	if err := o.place(&label); err != nil {
		return pvlabel.Label{}, err
	}
	return label, label.Validate()
}

// copies returns the number of metadata areas.
func (o *PVOptions) copies() int {
	if o.MetadataCopies == nil {
		return 1
	}
	return *o.MetadataCopies
}

// check fills in defaults and refuses what makes no sense.
func (o *PVOptions) check() error {
	if o.MetadataSize == 0 {
		o.MetadataSize = DefaultMetadataSize
	}
	if o.DataAlignment == 0 {
		o.DataAlignment = defaultAlignment
	}
	for _, n := range []int64{o.MetadataSize, o.DataAlignment, o.DataAlignmentShift, o.BootloaderAreaSize, o.Size} {
		if n < 0 || n%pvlabel.Size != 0 || n > 1<<60 {
			return errs.E(errs.Usage, "create PV: %d bytes are not a multiple of %d", n, pvlabel.Size)
		}
	}
	switch {
	case !o.ID.Valid():
		return errs.E(errs.Usage, "create PV: bad identifier %q", string(o.ID))
	case o.copies() < 0 || o.copies() > 2:
		return errs.E(errs.Usage, "create PV: %d metadata areas (want 0 to 2)", o.copies())
	case o.MetadataSize < minMDASize:
		return errs.E(errs.Usage, "Metadata area size too small: %d bytes.  It must be at least %d bytes.", o.MetadataSize, minMDASize)
	case o.LabelSector != nil && (*o.LabelSector < 0 || *o.LabelSector >= pvlabel.Sectors):
		return errs.E(errs.Usage, "labelsector must be less than %d.", pvlabel.Sectors)
	}
	return nil
}

// place fills in the areas: the first metadata area and the bootloader area in
// front of the data, each up to the next aligned byte, and the second metadata
// area from the last aligned byte that leaves it room to the device's end.
func (o *PVOptions) place(label *pvlabel.Label) error {
	up := func(n int64) int64 { return (n + o.DataAlignment - 1) / o.DataAlignment * o.DataAlignment }
	shift := o.DataAlignmentShift
	start := up(firstMDA) + shift
	if o.copies() > 0 {
		start = up(firstMDA+o.MetadataSize) + shift
		label.MDAs = append(label.MDAs, pvlabel.Area{Offset: firstMDA, Size: uint64(start - firstMDA)})
	}
	if o.BootloaderAreaSize > 0 {
		end := up(start-shift+o.BootloaderAreaSize) + shift
		label.Bootloader = []pvlabel.Area{{Offset: uint64(start), Size: uint64(end - start)}}
		start = end
	}
	label.Data = []pvlabel.Area{{Offset: uint64(start)}}
	end := o.Size
	if o.copies() == 2 {
		end = (o.Size - o.MetadataSize) / o.DataAlignment * o.DataAlignment
		label.MDAs = append(label.MDAs, pvlabel.Area{Offset: uint64(end), Size: uint64(o.Size - end)})
	}
	if start >= end {
		return errs.E(errs.NoSpace, "a device of %d bytes has no room for data: metadata would take %d bytes in front and %d at its end",
			o.Size, start, o.Size-end)
	}
	return nil
}

// CreatePV makes the device a PV of no group. What was in the device's first
// four sectors and in its metadata areas is lost. The label is written last:
// until it is durable the device is none, or the PV that it was.
func CreatePV(src Source, o PVOptions) (*PV, error) {
	label, err := Layout(src.Dev.Size(), o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.Path, err)
	}
	pv := &PV{Path: src.Path, Dev: src.Dev, Label: label}
	for _, a := range label.MDAs {
		m := &MDA{PV: pv, Offset: int64(a.Offset), Size: int64(a.Size)}
		m.header = &mda.Header{Start: a.Offset, Size: a.Size}
		if err := m.writeSlots(mda.Locn{}, mda.Locn{}); err != nil {
			return nil, fmt.Errorf("create metadata area of %s at byte %d: %w", src.Path, m.Offset, err)
		}
		pv.MDAs = append(pv.MDAs, m)
	}
	if err := flush(pv); err != nil {
		return nil, err
	}
	sector, err := label.Encode()
	if err != nil {
		return nil, err
	}
	head := make([]byte, pvlabel.Sectors*pvlabel.Size)
	copy(head[label.Sector*pvlabel.Size:], sector)
	if _, err := src.Dev.WriteAt(head, 0); err != nil {
		return nil, fmt.Errorf("write label of %s: %w", src.Path, err)
	}
	return pv, flush(pv)
}

// WipePV removes the labels from a device, so that it is no PV any more. The
// rest of the device stays as it is. Whether the PV may go is the caller's
// business. A device without a label gives an error of kind errs.NotFound.
func WipePV(src Source) error {
	head := make([]byte, min(pvlabel.Sectors*pvlabel.Size, src.Dev.Size()/pvlabel.Size*pvlabel.Size))
	if _, err := src.Dev.ReadAt(head, 0); err != nil {
		return fmt.Errorf("read label of %s: %w", src.Path, err)
	}
	found := false
	for at := 0; at < len(head); at += pvlabel.Size {
		if !pvlabel.Present(head[at : at+pvlabel.Size]) {
			continue
		}
		found = true
		if _, err := src.Dev.WriteAt(make([]byte, pvlabel.Size), int64(at)); err != nil {
			return fmt.Errorf("wipe label of %s: %w", src.Path, err)
		}
	}
	if !found {
		return errs.E(errs.NotFound, "%s: not a physical volume: no label in its first %d sectors", src.Path, pvlabel.Sectors)
	}
	if err := src.Dev.Flush(); err != nil {
		return fmt.Errorf("flush %s: %w", src.Path, err)
	}
	return nil
}
