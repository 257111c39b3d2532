package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/format/parttable"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// Scan finds what is there: the PVs on the devices that are to be looked at,
// their groups, and what daemons run of these. It takes no locks and does not
// disturb who has them. Devices that cannot be read are warnings.
func (h *Host) Scan(ctx context.Context) (*Inventory, error) {
	s, err := h.scan(ctx)
	if err != nil {
		return nil, err
	}
	defer s.set.close()
	inv := &Inventory{}
	inv.warn(s.warnings...)
	inv.warn(s.found.Problems...)
	for _, pv := range s.found.Orphans {
		inv.Orphans = append(inv.Orphans, describePV(pv))
	}
	for _, f := range s.found.Groups {
		inv.warn(f.Problems...)
		g := describeGroup(f)
		if err := h.mergeKernel(f, g); err != nil {
			inv.warn("WARNING: " + err.Error())
		}
		inv.Groups = append(inv.Groups, g)
	}
	for _, src := range s.plain {
		p := &PVInfo{PVStatus: PVStatus{Path: src.Path, Size: src.Dev.Size()}}
		p.Major, p.Minor = deviceNumber(src.Path)
		inv.Devices = append(inv.Devices, p)
	}
	for _, g := range inv.Groups {
		if err := h.mergeOwner(ctx, g); err != nil {
			inv.warn("WARNING: " + err.Error())
		}
	}
	inv.sort()
	return inv, ctx.Err()
}

func describeGroup(f *metastore.Found) *GroupInfo {
	g := &GroupInfo{Meta: f.Group, LVs: map[string]LVStatus{}, Unusable: f.Unusable}
	for i, pv := range f.PVs {
		if pv == nil {
			g.PVs = append(g.PVs, missingPV(f.Group.PVs[i]))
		} else {
			g.PVs = append(g.PVs, describePV(pv))
		}
	}
	return g
}

// dial reaches the daemon of a group, with errs.NotFound if there is none.
func (h *Host) dial(ctx context.Context, group string) (Group, error) {
	if h.o.Dial == nil || h.o.RunDir == "" {
		return nil, errs.E(errs.NotFound, "volume group %s is not served", group)
	}
	return h.o.Dial(ctx, h.o.RunDir, group)
}

// mergeOwner adds what the group's daemon says, if it has one. Its metadata
// counts: what was read may be a moment older.
func (h *Host) mergeOwner(ctx context.Context, g *GroupInfo) error {
	owner, err := h.dial(ctx, g.Meta.Name)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer owner.Close()
	st, err := owner.Status(ctx)
	if err != nil || st.Group.ID != g.Meta.ID {
		return err // another group of the name, on devices that are not looked at
	}
	byID := map[volume.UUID]*PVInfo{}
	for _, pv := range g.PVs {
		byID[pv.ID] = pv
	}
	g.Kernel = false // its PVs are the daemon's
	g.Meta, g.LVs, g.Owner = st.Group, st.LVs, st.Owner
	g.PVs = nil
	for i, listed := range st.Group.PVs {
		pv := byID[listed.ID]
		if pv == nil || pv.Missing {
			pv = ownersPV(listed, st.PVs[i])
		}
		g.PVs = append(g.PVs, pv)
	}
	return nil
}

// ownersPV describes a PV that only the daemon sees.
func ownersPV(listed *volume.PV, st PVStatus) *PVInfo {
	return &PVInfo{
		PVStatus: st, ID: listed.ID, Labelled: true, LabelSize: listed.DevSize.Bytes(),
		PEStart: listed.PEStart, BAStart: listed.BAStart, BASize: listed.BASize, InUse: true,
	}
}

// scanForNew is scan for commands that make something new, which may be the
// first that is listed in a devices file.
func (h *Host) scanForNew(ctx context.Context) (*scanned, error) {
	s, err := h.scan(ctx)
	if errors.Is(err, errNoDevicesFile) {
		return &scanned{set: newDeviceSet(lockOptions), found: &metastore.Inventory{}}, nil
	}
	return s, err
}

// scanned is what was read of the devices, which are open.
type scanned struct {
	set      *deviceSet
	pvs      []*metastore.PV
	plain    []metastore.Source // without a label
	found    *metastore.Inventory
	warnings []string
}

// rescans is how often a scan that found contradictions is repeated: PVs that
// are read one after the other while somebody commits may seem to contradict
// each other.
const (
	rescans    = 2
	rescanWait = 20 * time.Millisecond
)

// scan reads all devices.
func (h *Host) scan(ctx context.Context) (*scanned, error) {
	list, warnings, err := h.candidates()
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		s := h.scanOnce(ctx, list)
		s.found = metastore.Assemble(s.pvs)
		if err := ctx.Err(); err != nil {
			s.set.close()
			return nil, err
		}
		if try == rescans || !s.contradicts() {
			s.warnings = append(warnings, s.warnings...)
			return s, nil
		}
		s.set.close()
		time.Sleep(rescanWait)
	}
}

// contradicts reports whether something is wrong that may be no more than
// somebody's commit.
func (s *scanned) contradicts() bool {
	return len(s.found.Problems) > 0 || slices.ContainsFunc(s.found.Groups, func(f *metastore.Found) bool {
		return len(f.Problems) > 0 && len(f.Missing()) == 0
	})
}

func (h *Host) scanOnce(ctx context.Context, list []candidate) *scanned {
	s := &scanned{set: newDeviceSet(file.Options{ReadOnly: true})}
	lost := map[volume.UUID]candidate{}
	for _, c := range list {
		if ctx.Err() != nil {
			return s
		}
		seen, err := s.look(c.name)
		if err != nil && !ignorable(c, err) {
			s.warn(c, err)
		}
		if c.id != "" && !slices.Contains(seen, c.id) && strings.HasPrefix(c.name, h.o.Root+"/dev/") {
			lost[c.id] = c
		}
	}
	s.search(h, list, lost)
	return s
}

// ignorable reports whether a device that cannot be read is nothing to speak
// of: nobody listed it, and it may well be an empty drive.
func ignorable(c candidate, err error) bool {
	return c.listed == "" && !errs.Is(err, errs.Corrupt)
}

func (s *scanned) warn(c candidate, err error) {
	var text string
	switch {
	case errors.Is(err, fs.ErrNotExist), errs.Is(err, errs.NotFound):
		text = fmt.Sprintf("WARNING: %s lists %s, which is not there.", c.listed, c.name)
		if c.listed == "--devices" {
			text = fmt.Sprintf("WARNING: No device found for %s.", c.name)
		}
	default:
		text = fmt.Sprintf("WARNING: %s: %v", c.name, err)
	}
	s.warnings = append(s.warnings, text)
}

// look reads a device's label, or those of its partitions, and returns the
// identifiers of the PVs that it found.
func (s *scanned) look(name string) ([]volume.UUID, error) {
	dev, err := s.set.open(name)
	if err != nil {
		return nil, err
	}
	src := metastore.Source{Path: name, Dev: dev}
	pv, err := metastore.ReadPV(src)
	if err == nil {
		s.pvs = append(s.pvs, pv)
		return []volume.UUID{pv.ID()}, nil
	}
	if !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	parts, err := s.partitions(src)
	if parts == nil {
		s.plain = append(s.plain, src)
		return nil, err
	}
	var ids []volume.UUID
	for _, part := range parts {
		if pv, err := metastore.ReadPV(part); err == nil {
			s.pvs = append(s.pvs, pv)
			ids = append(ids, pv.ID())
		} else if !errs.Is(err, errs.NotFound) {
			s.warnings = append(s.warnings, "WARNING: "+err.Error())
		}
	}
	return ids, nil
}

// partitions returns the partitions of a whole disk that cowl has to look into
// by itself: where the kernel made devices of them, these are candidates. What
// can be read of a damaged table is as good as a whole one here, for a label
// tells by itself that it is one.
func (s *scanned) partitions(disk metastore.Source) ([]metastore.Source, error) {
	path, inside := splitName(disk.Path)
	if inside > 0 || hasPartitionDevices(path) {
		return nil, nil
	}
	table, err := parttable.Read(disk.Dev, disk.Dev.Size())
	if err != nil && !errs.Is(err, errs.Corrupt) {
		if errs.Is(err, errs.NotFound) {
			err = nil
		}
		return nil, err
	}
	var out []metastore.Source
	for _, p := range table {
		name := partitionName(path, p.Number)
		var dev block.Device
		if dev, err = s.set.open(name); err == nil {
			out = append(out, metastore.Source{Path: name, Dev: dev})
		}
	}
	return out, nil
}

// search looks for PVs that moved to another name since they were listed, as
// disks do between boots.
func (s *scanned) search(h *Host, list []candidate, lost map[volume.UUID]candidate) {
	if len(lost) == 0 {
		return
	}
	seen := map[string]bool{}
	for _, c := range list {
		seen[canonical(c.name)] = true
	}
	for _, name := range blockDevices(h.o.Root) {
		if seen[canonical(name)] {
			continue
		}
		pvs, plain := len(s.pvs), len(s.plain)
		ids, err := s.look(name)
		if err == nil && slices.ContainsFunc(ids, func(id volume.UUID) bool { _, ok := lost[id]; return ok }) {
			continue
		}
		s.pvs, s.plain = s.pvs[:pvs], s.plain[:plain]
		s.set.release(name)
	}
	have := map[volume.UUID]bool{}
	for _, pv := range s.pvs {
		have[pv.ID()] = true
	}
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		if c := lost[id]; !have[id] {
			s.warnings = append(s.warnings, fmt.Sprintf("WARNING: PV %s, which %s lists as %s, was not found.", id, c.listed, c.name))
		}
	}
}
