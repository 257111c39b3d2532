// Package hostlvm drives volume groups that the kernel runs, through the host's
// own lvm2: it decides nothing that lvm2 decides, and reads what device-mapper
// says of the devices. It needs Linux, root and the lvm program.
//
// lvm2 changes metadata and tables under its own locks; nothing is written to a
// PV from here. Metadata is read by whoever opens the Group, without locks:
// package metastore tells a commit on its way from a committed state.
//
// Whoever drives a group must be sure that no other process of cowl runs it by
// the engine: see Options.Guard.
package hostlvm

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// Options say how a group is driven.
type Options struct {
	// Read returns the group's committed metadata.
	Read func(ctx context.Context) (*volume.Group, error)
	// Guard returns an error if the group must not be changed by lvm2 just now,
	// because cowl's engine has it. It is called before each change.
	Guard func(ctx context.Context) error
	// Advise fills in what a snapshot without a size should have; nil: nothing.
	Advise func(g *volume.Group, spec *volume.SnapshotSpec)
	// Growth says how snapshots that cowl made are kept from overflowing while the
	// group is open, where their tags do not say otherwise. What becomes of one
	// that is full all the same the kernel decides.
	Growth volume.Growth
	// HoldLimit bounds how long volumes are held for a common instant; 0 is
	// freeze.DefaultLimit, and more for many volumes.
	HoldLimit time.Duration
	Log       *slog.Logger
}

// Group is a volume group that the kernel runs. Methods may be called in
// parallel: lvm2 has its locks.
type Group struct {
	o    Options
	lvm  *lvm
	id   volume.UUID
	name string
	test bool // set before use, see Rehearse

	mu     sync.Mutex
	open   map[string]int   // devices that Open returned and that are open, by name
	kept   map[string]*kept // snapshots that are watched, by name
	stop   func()           // ends the watching, nil before it began
	closed bool

	watching sync.WaitGroup
}

// Result is what a change has to say.
type Result struct{ Names, Notes []string }

// Open makes sure that lvm2 is there and means the same group by its name. The
// caller closes the group.
func Open(ctx context.Context, id volume.UUID, name string, o Options) (*Group, error) {
	if err := volume.CheckGroupName(name); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := findLVM()
	if err != nil {
		return nil, err
	}
	g := &Group{o: o, lvm: l, id: id, name: name, open: map[string]int{}, kept: map[string]*kept{}}
	return g, g.checkIdentity(ctx)
}

// checkIdentity compares the identifier that lvm2 knows a group of our name by.
// Two disks may have groups of one name, or one may be a copy of the other.
func (g *Group) checkIdentity(ctx context.Context) error {
	rows, err := g.lvm.report(ctx, "vg", "vgs", "-o", "vg_uuid", "-S", "vg_name="+g.name)
	if err != nil {
		return err
	}
	if len(rows) != 1 || rows[0]["vg_uuid"] != g.id.String() {
		return errs.WithHint(errs.E(errs.Conflict, "lvm2 and cowl do not mean the same by volume group %s: cowl found %s, lvm2 knows %s",
			g.name, g.id, cmp.Or(column(rows, "vg_uuid"), "none")), "Look at vgs -o+vg_uuid,pv_name, and name the group's devices with --devices.")
	}
	return nil
}

func column(rows []map[string]string, name string) string {
	var all []string
	for _, r := range rows {
		all = append(all, r[name])
	}
	return strings.Join(all, ", ")
}

// Model returns the committed metadata.
func (g *Group) Model(ctx context.Context) (*volume.Group, error) { return g.o.Read(ctx) }

// full is a volume's name for lvm2.
func (g *Group) full(lv string) string { return g.name + "/" + lv }

// uuid is the UUID of a volume's device.
func (g *Group) uuid(lv *volume.LV, layer string) string {
	return devmapper.LVMUUID(g.id, lv.ID, layer)
}

// find returns the metadata, and the LV of the name in it.
func (g *Group) find(ctx context.Context, name string) (*volume.Group, *volume.LV, error) {
	model, err := g.o.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	lv, err := model.FindLV(name)
	return model, lv, err
}

// Rehearse makes lvm2 try each change without making it (--test): it applies all of
// its rules, and the group stays as it is. Nothing is held still either. Call it
// before anything else.
func (g *Group) Rehearse() { g.test = true }

// change runs a command of lvm2 that alters something.
func (g *Group) change(ctx context.Context, command string, args ...string) ([]string, error) {
	if err := g.o.Guard(ctx); err != nil {
		return nil, err
	}
	if g.test {
		args = append([]string{"--test"}, args...)
	}
	return g.lvm.change(ctx, command, args...)
}

// sizeArgs are lvm2's options for a size.
func sizeArgs(s volume.Size, sign string) []string {
	switch {
	case s.Percent > 0:
		return []string{"--extents", fmt.Sprintf("%s%d%%%s", sign, s.Percent, s.Of)}
	case s.Extents > 0:
		return []string{"--extents", sign + strconv.FormatUint(uint64(s.Extents), 10)}
	}
	return []string{"--size", fmt.Sprintf("%s%db", sign, s.Bytes)}
}

// pvArgs are the PVs that an allocation is limited to, as lvm2 wants them.
func pvArgs(ranges []volume.PVRange) ([]string, error) {
	var out []string
	for _, r := range ranges {
		if r.PV == "" || r.PV[0] == '-' {
			return nil, errs.E(errs.Usage, "%q is no physical volume.", r.PV)
		}
		text := r.PV
		if !r.Whole {
			text += fmt.Sprintf(":%d-%d", r.Start, r.End)
		}
		out = append(out, text)
	}
	return out, nil
}

// tagArgs are the options for tags.
func tagArgs(option string, tags []string) ([]string, error) {
	var out []string
	for _, tag := range tags {
		if err := volume.CheckTag(tag); err != nil {
			return nil, err
		}
		out = append(out, option, tag)
	}
	return out, nil
}

func permissionArg(readOnly bool) []string {
	if readOnly {
		return []string{"--permission", "r"}
	}
	return []string{"--permission", "rw"}
}
