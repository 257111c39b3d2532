package daemon

import (
	"context"
	"log/slog"

	"cowl/internal/block"
	"cowl/internal/export"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// exports shows a group's active volumes to the NBD and FUSE servers.
type exports struct {
	group manager.Group
	log   *slog.Logger
}

var _ export.Exports = exports{}

// List implements export.Exports: what is active, in the metadata's order. A
// snapshot on its way back into its origin cannot be opened and is left out.
func (e exports) List() []export.Info {
	st, err := e.group.Status(context.Background())
	if err != nil {
		e.log.Warn("list exports", "err", err)
		return nil
	}
	var out []export.Info
	for _, lv := range st.Group.Visible() {
		if run, active := st.LVs[lv.Name]; active {
			out = append(out, describe(st.Group, lv, run))
		}
	}
	return out
}

// describe returns what an export's clients are told.
func describe(g *volume.Group, lv *volume.LV, run manager.LVStatus) export.Info {
	info := export.Info{
		Name:        lv.Name,
		Description: "volume " + g.Name + "/" + lv.Name,
		Size:        g.ExtentBytes(lv.Extents()),
		ReadOnly:    run.ReadOnly,
	}
	if s, ok := g.SnapshotOf(lv); ok {
		info.Description = "snapshot " + g.Name + "/" + lv.Name + " of " + s.Origin.Name
		info.Size = g.ExtentBytes(s.Size())
	}
	return info
}

// Open implements export.Exports. A volume that is not active is activated
// for as long as it is open, as for every other caller of the group.
func (e exports) Open(name string) (block.Device, error) {
	return e.group.Open(context.Background(), name, false)
}
