package cli

import (
	"cmp"
	"fmt"

	"cowl/internal/cli/fields"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// nearlyFull is from how full on a snapshot that is not extended by itself is
// warned about, in percent: where dmeventd begins to.
const nearlyFull = 80

// lowSpace returns what there is to say about snapshots that lack space, of
// those that a report is about, before they are lost. Those that are lost
// already have their place in the report; lost names them.
func lowSpace(data *fields.Data) (warnings, lost []string) {
	for _, g := range data.Groups {
		for _, lv := range g.Volumes(false) {
			s := g.Active(lv)
			if s == nil || s.Cow == nil {
				continue
			}
			name := fullName(g.Meta.Name, lv.Name)
			if s.Cow.Invalid {
				lost = append(lost, fmt.Sprintf("Snapshot %s is lost: %s", name, cmp.Or(s.Cow.Reason, "it overflowed")))
			} else if text := spaceText(g, lv, s.Cow); text != "" {
				warnings = append(warnings, fmt.Sprintf("WARNING: Snapshot %s is now %s%% full%s", name, fields.Percent(s.Cow), text))
			}
		}
	}
	return warnings, lost
}

// spaceText says what is wrong with a snapshot's space, "" if nothing is.
func spaceText(g *fields.Group, lv *volume.LV, c *manager.CowStatus) string {
	snap, _ := g.Snapshot(lv)
	switch {
	case c.Short != "" && c.Holding > 0:
		return fmt.Sprintf(", and %d writes to %s wait for space: %s", c.Holding, snap.Origin.Name, c.Short)
	case c.Short != "":
		return ", and cannot be extended: " + c.Short
	case c.OnFull == "" || c.Threshold > 0 || snap.Segment != nil && snap.Segment.Merging:
		return ""
	case c.Allocated*100 >= c.Total*nearlyFull && g.Meta.ExtentBytes(lv.Extents()) < volume.CowMax(g.Meta.ExtentBytes(snap.Size()), snap.Segment.ChunkSize):
		return ", and is not extended by itself."
	}
	return ""
}

// checkSpace warns of snapshots that lack space; with check the error, which
// ends the command with a code of its own, says whether there are any.
func (a *app) checkSpace(data *fields.Data, check bool) error {
	warnings, lost := lowSpace(data)
	a.noteOnce(warnings)
	if !check || len(warnings)+len(lost) == 0 {
		return nil
	}
	a.noteOnce(lost)
	return coded{errs.E(errs.NoSpace, "%w", errSilent), exitSpace}
}
