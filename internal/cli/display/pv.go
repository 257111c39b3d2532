package display

import (
	"fmt"

	"cowl/internal/cli/fields"
	"cowl/internal/volume"
)

// PV writes pvdisplay's block.
func (p *Printer) PV(pv *fields.PV) error {
	if pv.Meta == nil {
		return p.newPV(pv)
	}
	b := p.block(22)
	b.exported(pv)
	meta, group := pv.Meta, pv.Group.Meta
	b.text("  --- Physical volume ---")
	b.field("PV Name", "%s", pv.Path)
	name := group.Name
	if pv.Group.Exported() {
		name += " (exported)"
	}
	b.field("VG Name", "%s", name)
	b.field("PV Size", "%s / not usable %s", p.size(meta.DevSize.Bytes()), p.size(unusable(pv)))
	free := group.PVFree(meta)
	b.field("Allocatable", "%s", allocatable(pv, free))
	b.field("PE Size", "%s", p.size(group.ExtentSize.Bytes()))
	b.field("Total PE", "%d", meta.PECount)
	b.field("Free PE", "%d", free)
	b.field("Allocated PE", "%d", meta.PECount-free)
	b.field("PV UUID", "%s", pv.ID)
	b.text("   ")
	if p.Maps {
		p.runs(b, pv)
		b.text("   ")
	}
	return b.w.Flush()
}

// exported says so if the PV's group is.
func (b *block) exported(pv *fields.PV) {
	if pv.Group.Exported() {
		b.text("  Physical volume \"%s\" of volume group \"%s\" is exported", pv.Path, pv.Group.Meta.Name)
	}
}

// unusable returns the bytes that are neither extents nor metadata.
func unusable(pv *fields.PV) int64 {
	data := volume.Sectors(pv.Meta.PECount) * pv.Group.Meta.ExtentSize
	if pv.Meta.DevSize <= data+pv.Meta.PEStart {
		return 0
	}
	return (pv.Meta.DevSize - data).Bytes()
}

func allocatable(pv *fields.PV, free volume.Extents) string {
	switch {
	case !pv.Allocatable():
		return "NO"
	case free == 0:
		return "yes (but full)"
	}
	return "yes "
}

// newPV writes the block of a PV that is in no group.
func (p *Printer) newPV(pv *fields.PV) error {
	b := p.block(22)
	b.text("  %s", p.isNew(pv))
	b.text("  --- NEW Physical volume ---")
	b.field("PV Name", "%s", pv.Path)
	b.field("VG Name", "")
	b.field("PV Size", "%s", p.size(pv.LabelSize))
	b.field("Allocatable", "NO")
	b.field("PE Size", "%s", p.size(0))
	b.field("Total PE", "0")
	b.field("Free PE", "0")
	b.field("Allocated PE", "0")
	b.field("PV UUID", "%s", pv.ID)
	b.text("   ")
	if p.Maps {
		b.text("   ")
	}
	return b.w.Flush()
}

func (p *Printer) isNew(pv *fields.PV) string {
	return fmt.Sprintf(`"%s" is a new physical volume of "%s"`, pv.Path, p.size(pv.LabelSize))
}

func (p *Printer) runs(b *block, pv *fields.PV) {
	b.text("  --- Physical Segments ---")
	for _, run := range pv.Runs() {
		b.text("  Physical extent %d to %d:", run.Start, run.Start+run.Count-1)
		if run.LV == nil {
			b.text("    FREE")
			continue
		}
		b.text("    Logical volume\t/dev/%s/%s", pv.Group.Meta.Name, run.LV.Name)
		b.text("    Logical extents\t%d to %d", run.Seg.Start, run.Seg.Start+run.Seg.Count-1)
	}
}

// PVShort writes pvdisplay -s's line.
func (p *Printer) PVShort(pv *fields.PV) error {
	capacity := pv.LabelSize
	if pv.Meta != nil {
		capacity = pv.Free()
	}
	_, err := fmt.Fprintf(p.Out, "  Device \"%s\" has a capacity of %s\n", pv.Path, p.size(capacity))
	return err
}

// PVColon writes pvdisplay -c's line. The extent size is in KiB.
func (p *Printer) PVColon(pv *fields.PV) error {
	b := p.block(0)
	if pv.Meta == nil {
		b.text("  %s", p.isNew(pv))
		b.text("  %s::%d:-1:0:0:-1:0:0:0:0:%s", pv.Path, pv.LabelSize>>9, pv.ID)
		return b.w.Flush()
	}
	b.exported(pv)
	m := pv.Group.Meta
	total, free := pv.Meta.PECount, m.PVFree(pv.Meta)
	b.text("  %s:%s:%d:-1:%d:%d:-1:%d:%d:%d:%d:%s", pv.Path, m.Name, pv.Meta.DevSize,
		pvBits(pv), pvBits(pv)&allocatableBit, m.ExtentSize.Bytes()>>10, total, free, total-free, pv.ID)
	return b.w.Flush()
}

// LVM2's numbers for a PV's status.
const (
	exportedBit    = 2
	allocatableBit = 8
	missingBit     = 0x800000
)

func pvBits(pv *fields.PV) int {
	bits := 0
	if pv.Allocatable() {
		bits |= allocatableBit
	}
	if pv.Group.Exported() {
		bits |= exportedBit
	}
	if pv.Missing {
		bits |= missingBit
	}
	return bits
}
