package hostlvm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// overprovisioned are the beginnings of what lvm2 warns of whenever the volumes of
// a thin pool, with their whole sizes, sum up to more than it has. Every snapshot
// counts as much as its origin there: of a volume that has some it is always true,
// and says nothing of what the pool has left. poolNotes does.
var overprovisioned = []string{
	"WARNING: Sum of all thin volume sizes",
	"WARNING: You have not turned on protection against thin pools running out of space",
	"WARNING: Set activation/thin_pool_autoextend_threshold below 100",
}

func isOverprovisioned(note string) bool {
	return slices.ContainsFunc(overprovisioned, func(beginning string) bool { return strings.HasPrefix(note, beginning) })
}

// poolFull is from how full on a pool is warned of, in percent, as a store is.
const poolFull = 80

// poolUsage is how full a thin pool is, in percent.
type poolUsage struct{ data, metadata float64 }

// parsePool reads the status of a thin pool: "1 137/2048 52/640 - rw ...", which is
// a transaction, and blocks in use of metadata and of data; or "Fail" or "Error".
func parsePool(status string) (u poolUsage, err error) {
	f := strings.Fields(status)
	if len(f) < 3 {
		return u, errs.E(errs.Corrupt, "%q is no usage of a thin pool", status)
	}
	for i, p := range []*float64{&u.metadata, &u.data} {
		used, total, ok := strings.Cut(f[1+i], "/")
		a, err1 := strconv.ParseUint(used, 10, 63)
		b, err2 := strconv.ParseUint(total, 10, 63)
		if !ok || err1 != nil || err2 != nil || b == 0 {
			return u, errs.E(errs.Corrupt, "%q is no usage of a thin pool", status)
		}
		*p = 100 * float64(a) / float64(b)
	}
	return u, nil
}

// poolNotes warn of pools in which snapshots are, or that their origins are in, and
// that are nearly full. What cannot be found out is not warned of.
func (g *Group) poolNotes(model *volume.Group, plan []planned) (notes []string) {
	c, err := devmapper.Open()
	if err != nil {
		return nil
	}
	defer c.Close()
	for _, p := range plan {
		pool := model.LV(p.origin.Pool())
		if pool == nil {
			continue
		}
		targets, err := c.Status(g.uuid(pool, devmapper.LayerPool))
		if err != nil || len(targets) != 1 {
			continue
		}
		u, err := parsePool(targets[0].Status)
		if err != nil || max(u.data, u.metadata) < poolFull {
			continue
		}
		note := fmt.Sprintf("WARNING: Thin pool %s is %.0f%% full, its metadata %.0f%%: when it is full, writes to its volumes fail. Extend it (lvextend).",
			g.full(pool.Name), u.data, u.metadata)
		if !slices.Contains(notes, note) {
			notes = append(notes, note)
		}
	}
	return notes
}
