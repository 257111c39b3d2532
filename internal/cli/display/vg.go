package display

import (
	"fmt"
	"strings"

	"cowl/internal/cli/fields"
	"cowl/internal/volume"
)

// VG writes vgdisplay's block.
func (p *Printer) VG(g *fields.Group) error {
	b := p.block(22)
	m := g.Meta
	mdas, _ := g.MDAs()
	b.text("  --- Volume group ---")
	b.field("VG Name", "%s", m.Name)
	b.field("System ID", "%s", m.SystemID)
	b.field("Format", "%s", orElse(m.Format, "lvm2"))
	b.field("Metadata Areas", "%d", mdas)
	b.field("Metadata Sequence No", "%d", m.Seqno)
	b.field("VG Access", "%s", groupAccess(g))
	b.field("VG Status", "%s", groupStatus(g))
	b.field("MAX LV", "%d", m.MaxLV)
	b.field("Cur LV", "%d", len(m.Visible()))
	b.field("Open LV", "%d", openLVs(g))
	b.field("Max PV", "%d", m.MaxPV)
	b.field("Cur PV", "%d", len(m.PVs))
	b.field("Act PV", "%d", len(m.PVs)-g.MissingPVs())
	used := m.Size() - m.Free()
	b.field("VG Size", "%s", p.size(m.ExtentBytes(m.Size())))
	b.field("PE Size", "%s", p.size(m.ExtentSize.Bytes()))
	b.field("Total PE", "%d", m.Size())
	b.field("Alloc PE / Size", "%d / %s", used, p.size(m.ExtentBytes(used)))
	b.field("Free  PE / Size", "%d / %s", m.Free(), p.size(m.ExtentBytes(m.Free())))
	b.field("VG UUID", "%s", m.ID)
	return b.end()
}

// VGWithParts writes the group, its volumes and its PVs, as vgdisplay -v does.
func (p *Printer) VGWithParts(g *fields.Group) error {
	if err := p.VG(g); err != nil {
		return err
	}
	for _, lv := range g.Volumes(false) {
		if err := p.LV(g, lv); err != nil {
			return err
		}
	}
	b := p.block(22)
	b.text("  --- Physical volumes ---")
	for _, pv := range g.PVs {
		b.field("PV Name", "%s     ", pv.Path)
		b.field("PV UUID", "%s", pv.ID)
		b.field("PV Status", "%s", pvStatus(pv))
		b.field("Total PE / Free PE", "%d / %d", pv.Meta.PECount, g.Meta.PVFree(pv.Meta))
		b.text("   ")
	}
	return b.w.Flush()
}

func pvStatus(pv *fields.PV) string {
	if pv.Allocatable() {
		return "allocatable"
	}
	return "NOT allocatable"
}

func groupAccess(g *fields.Group) string {
	if g.Writeable() {
		return "read/write"
	}
	return "read"
}

func groupStatus(g *fields.Group) string {
	var words []string
	if g.Exported() {
		words = append(words, "exported")
	}
	if g.Resizeable() {
		words = append(words, "resizable")
	} else {
		words = append(words, "NOT resizable")
	}
	return strings.Join(words, "/")
}

func openLVs(g *fields.Group) int {
	n := 0
	for _, lv := range g.Meta.Visible() {
		if s := g.Active(lv); s != nil && s.Opens > 0 {
			n++
		}
	}
	return n
}

// VGShort writes vgdisplay -s's line.
func (p *Printer) VGShort(g *fields.Group) error {
	m := g.Meta
	used := m.Size() - m.Free()
	_, err := fmt.Fprintf(p.Out, "  \"%s\" %s [%-9s used / %s free]\n", m.Name,
		p.size(m.ExtentBytes(m.Size())), p.size(m.ExtentBytes(used)), p.size(m.ExtentBytes(m.Free())))
	return err
}

// VGColon writes vgdisplay -c's line. Sizes are in KiB.
func (p *Printer) VGColon(g *fields.Group) error {
	m := g.Meta
	access := "r"
	if g.Writeable() {
		access = "r/w"
	}
	used := m.Size() - m.Free()
	_, err := fmt.Fprintf(p.Out, "  %s:%s:%d:-1:%d:%d:%d:-1:%d:%d:%d:%d:%d:%d:%d:%d:%s\n",
		m.Name, access, groupBits(g), m.MaxLV, len(m.Visible()), openLVs(g), m.MaxPV, len(m.PVs),
		len(m.PVs)-g.MissingPVs(), m.ExtentBytes(m.Size())>>10, m.ExtentSize.Bytes()>>10,
		m.Size(), used, m.Free(), m.ID)
	return err
}

// groupBits is the status as LVM2 has numbered its words.
func groupBits(g *fields.Group) int {
	bits := 0
	for word, bit := range map[string]int{
		volume.StatusRead: 0x100, volume.StatusWrite: 0x200, volume.StatusResizeable: 4, volume.StatusExported: 2,
	} {
		if g.Meta.Has(word) {
			bits |= bit
		}
	}
	for _, flag := range g.Meta.Flags {
		if flag == "NOAUTOACTIVATE" {
			bits |= 0x10
		}
	}
	return bits
}
