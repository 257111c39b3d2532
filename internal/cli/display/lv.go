package display

import (
	"fmt"

	"cowl/internal/cli/fields"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// LV writes lvdisplay's block.
func (p *Printer) LV(g *fields.Group, lv *volume.LV) error {
	b := p.block(23)
	b.text("  --- Logical volume ---")
	if g.Visible(lv) {
		b.field("LV Path", "/dev/%s/%s", g.Meta.Name, lv.Name)
		b.field("LV Name", "%s", lv.Name)
	} else {
		b.field("Internal LV Name", "%s", lv.Name)
	}
	b.field("VG Name", "%s", g.Meta.Name)
	b.field("LV UUID", "%s", lv.ID)
	b.field("LV Write Access", "%s", access(g, lv))
	b.field("LV Creation host, time", "%s", fields.CreationText(lv, p.Zone))
	snapshotStatus(b, g, lv)
	state := g.Active(lv)
	b.field("LV Status", "%s", status(state))
	if state != nil {
		b.field("# open", "%d", state.Opens)
	}
	p.lvSizes(b, g, lv)
	b.field("Segments", "%d", len(lv.Segments))
	b.field("Allocation", "%s", orElse(lv.Allocation, "inherit"))
	b.field("Read ahead sectors", "%s", readAhead(lv))
	if lv.Minor != nil {
		b.field("Persistent major", "%d", orZero(lv.Major))
		b.field("Persistent minor", "%d", *lv.Minor)
	}
	if state != nil {
		exports(b, state)
	}
	if p.Maps {
		b.text("   ")
		b.text("  --- Segments ---")
		for i := range lv.Segments {
			p.segment(b, g, &lv.Segments[i])
		}
	}
	return b.end()
}

func access(g *fields.Group, lv *volume.LV) string {
	switch s := g.Active(lv); {
	case lv.ReadOnly():
		return "read only"
	case s != nil && s.ReadOnly:
		return "read/write (activated read only)"
	}
	return "read/write"
}

func status(s *manager.LVStatus) string {
	switch {
	case s == nil:
		return "NOT available"
	case s.Suspended:
		return "suspended"
	}
	return "available"
}

// works reports whether a snapshot is active and not invalid.
func works(g *fields.Group, cow *volume.LV) bool {
	s := g.Active(cow)
	return s != nil && s.Cow != nil && !s.Cow.Invalid
}

func snapshotStatus(b *block, g *fields.Group, lv *volume.LV) {
	if s, ok := g.Snapshot(lv); ok {
		word := "INACTIVE"
		if works(g, lv) {
			word = "active"
		}
		b.field("LV snapshot status", "%s destination for %s", word, s.Origin.Name)
		return
	}
	snaps := g.Snapshots(lv)
	if len(snaps) == 0 {
		return
	}
	b.field("LV snapshot status", "source of")
	for _, s := range snaps {
		word := "INACTIVE"
		if works(g, s.Cow) {
			word = "active"
		}
		b.field("", "%s [%s]", s.Cow.Name, word)
	}
}

// lvSizes writes the size, and of a snapshot the origin's size and the store.
func (p *Printer) lvSizes(b *block, g *fields.Group, lv *volume.LV) {
	extents := lv.Extents()
	snap, isStore := g.Snapshot(lv)
	if isStore {
		extents = snap.Size()
	}
	b.field("LV Size", "%s", p.size(g.Meta.ExtentBytes(extents)))
	b.field("Current LE", "%d", extents)
	if !isStore {
		return
	}
	b.field("COW-table size", "%s", p.size(g.Meta.ExtentBytes(lv.Extents())))
	b.field("COW-table LE", "%d", lv.Extents())
	if works(g, lv) {
		b.field("Allocated to snapshot", "%s%%", fields.Percent(g.Active(lv).Cow))
		if in := g.Active(lv).Cow.FullIn; in != nil {
			b.field("Full in", "%s", fields.FullInText(*in))
		}
		fullness(b, g.Active(lv).Cow)
	}
	b.field("Snapshot chunk size", "%s", p.size(snap.Segment.ChunkSize.Bytes()))
}

// fullness writes what keeps a snapshot from filling up, and what happens if it
// does: cowl's own lines.
func fullness(b *block, c *manager.CowStatus) {
	if c.OnFull == "" { // it is run by somebody else
		return
	}
	if c.Threshold > 0 {
		b.field("Extended at", "%d%%", c.Threshold)
	}
	b.field("When full", "%s", c.OnFull)
	if c.Short != "" {
		b.field("Not extended", "%s", c.Short)
	}
	if c.Holding > 0 {
		b.field("Waiting writes", "%d", c.Holding)
	}
}

func readAhead(lv *volume.LV) string {
	switch {
	case lv.ReadAhead == nil:
		return "auto"
	case *lv.ReadAhead < 0:
		return "0"
	}
	return fmt.Sprint(*lv.ReadAhead)
}

// exports says where the content of an active volume can be had.
func exports(b *block, s *manager.LVStatus) {
	if s.NBD != "" {
		b.field("NBD export", "%s", s.NBD)
	}
	if s.File != "" {
		b.field("File", "%s", s.File)
	}
	if s.Cow != nil && s.Cow.Reason != "" {
		b.field("Snapshot failure", "%s", s.Cow.Reason)
	}
}

func (p *Printer) segment(b *block, g *fields.Group, s *volume.Segment) {
	b.text("  Logical extents %d to %d:", s.Start, s.Start+s.Count-1)
	linear := s.Type == volume.Striped && len(s.Stripes) == 1
	if !linear {
		b.text("    Type\t\t%s", s.Type)
	} else {
		b.text("    Type\t\tlinear")
	}
	if len(s.Stripes) > 1 {
		b.text("    Stripes\t\t%d", len(s.Stripes))
		b.text("    Stripe size\t\t%s", p.size(s.StripeSize.Bytes()))
	}
	for i, a := range s.Stripes {
		indent := "    "
		if !linear {
			b.text("    Stripe %d:", i)
			indent = "      "
		}
		b.text("%sPhysical volume\t%s", indent, g.Path(a.PV))
		b.text("%sPhysical extents\t%d to %d", indent, a.Start, a.Start+s.AreaLen()-1)
	}
	b.text("   ")
}

// LVColon writes lvdisplay -c's line. Numbers that LVM2 no longer has, and
// those of kernel devices, are -1.
func (p *Printer) LVColon(g *fields.Group, lv *volume.LV) error {
	state := g.Active(lv)
	const (
		canRead, canWrite   = 1, 2
		activeReadOnly      = 4
		contiguous, inherit = 2, 0
	)
	rights, active, opens := canRead, 0, 0
	if !lv.ReadOnly() {
		rights |= canWrite
	}
	if state != nil {
		active, opens = 1, state.Opens
		if lv.ReadOnly() || state.ReadOnly {
			rights |= activeReadOnly
		}
	}
	policy := inherit
	if lv.Allocation == "contiguous" {
		policy = contiguous
	}
	ahead := readAhead(lv)
	if lv.ReadAhead == nil {
		ahead = "-1"
	}
	_, err := fmt.Fprintf(p.Out, "  %s:%s:%d:%d:-1:%d:%d:%d:-1:%d:%s:-1:-1\n",
		colonPath(g, lv), g.Meta.Name, rights, active, opens, g.Meta.LVSize(lv), lv.Extents(), policy, ahead)
	return err
}

func colonPath(g *fields.Group, lv *volume.LV) string {
	if g.Visible(lv) {
		return "/dev/" + g.Meta.Name + "/" + lv.Name
	}
	return ""
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}
