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
	_, err := fmt.Fprintf(p.Out, "  Device \"%s\" has a capacity of %s\n", pv.Path, p.size(pv.Free()))
	return err
}

// PVColon writes pvdisplay -c's line. The extent size is in KiB.
func (p *Printer) PVColon(pv *fields.PV) error {
	const allocatableBit, missingBit = 8, 0x800000
	group, status, canAllocate := "", 0, 0
	var extentKiB int64
	var total, free volume.Extents
	sectors := volume.Sectors(pv.LabelSize >> 9)
	if pv.Meta == nil {
		if _, err := fmt.Fprintf(p.Out, "  %s\n", p.isNew(pv)); err != nil {
			return err
		}
	} else {
		m := pv.Group.Meta
		group, extentKiB = m.Name, m.ExtentSize.Bytes()>>10
		total, free, sectors = pv.Meta.PECount, m.PVFree(pv.Meta), pv.Meta.DevSize
		if pv.Allocatable() {
			status, canAllocate = allocatableBit, allocatableBit
		}
		if pv.Missing {
			status |= missingBit
		}
	}
	_, err := fmt.Fprintf(p.Out, "  %s:%s:%d:-1:%d:%d:-1:%d:%d:%d:%d:%s\n",
		pv.Path, group, sectors, status, canAllocate, extentKiB, total, free, total-free, pv.ID)
	return err
}
