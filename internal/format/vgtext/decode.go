package vgtext

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/config"
	"cowl/internal/volume"
)

// Bounds that keep products of what the text says within 63 bits. LVM2 itself
// counts extents in 32 bits.
const (
	maxSectors = 1 << 54
	maxExtents = math.MaxUint32
)

// Decode reads a text, as it is on disk (the NUL at its end may be missing) or
// in a backup file. Errors are of kind errs.Corrupt, or errs.Unsupported for
// a text that says it is something else.
func Decode(text []byte) (*volume.Group, error) {
	nodes, err := config.Parse(bytes.TrimRight(text, "\x00"))
	if err != nil {
		return nil, err
	}
	d := &decoder{at: "metadata"}
	vg := &volume.Group{}
	d.outer(vg, nodes)
	if d.err != nil {
		return nil, d.err
	}
	return vg, nil
}

// decoder keeps the first error and where it was.
type decoder struct {
	at  string // the section, for errors
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = errs.E(errs.Corrupt, "read %s: %s", d.at, fmt.Sprintf(format, args...))
	}
}

// entries hands the section's entries to set, which says whether it knows the
// key, and returns those it does not. A key that is known comes once.
func (d *decoder) entries(nodes []config.Node, set func(config.Node) bool) (extra []config.Node) {
	seen := map[string]bool{}
	after := ""
	for _, n := range nodes {
		if d.err != nil {
			return nil
		}
		if !set(n) {
			n.After = after
			extra = append(extra, n)
			continue
		}
		if seen[n.Key] {
			d.fail("%s stands there twice", n.Key)
		}
		seen[n.Key] = true
		after = n.Key
	}
	return extra
}

// need fails unless all the keys were seen: unset tells what is missing.
func (d *decoder) need(key string, present bool) {
	if !present {
		d.fail("%s is missing", key)
	}
}

// outer reads the entries around the group's section.
func (d *decoder) outer(vg *volume.Group, nodes []config.Node) {
	var group *config.Node
	isText := false
	set := func(n config.Node) bool {
		switch n.Key {
		case "contents":
			isText = true
			if got := d.text(n); got != contents && d.err == nil {
				d.err = errs.E(errs.Unsupported, "read metadata: contents are %q (want %q)", got, contents)
			}
			vg.Program = n.Above
		case "version":
			if got := d.number(n, math.MaxInt64); got != textVersion && d.err == nil {
				d.err = errs.E(errs.Unsupported, "read metadata: version %d (want %d)", got, textVersion)
			}
		case "description":
			vg.Description = d.text(n)
		case "creation_host":
			vg.CreationHost = d.text(n)
			vg.HostNote = n.Remark
		case "creation_time":
			vg.CreationTime = d.integer(n)
			vg.TimeNote = n.Remark
		default:
			return false
		}
		return true
	}
	isGroup := func(n config.Node) bool { return n.Section }
	if i := slices.IndexFunc(nodes, isGroup); i >= 0 {
		group = &nodes[i]
		nodes = slices.Concat(nodes[:i:i], nodes[i+1:])
	}
	vg.Outer = d.entries(nodes, set)
	d.need(`contents = "`+contents+`"`, isText)
	switch {
	case d.err != nil:
	case group == nil:
		d.fail("there is no volume group")
	case slices.ContainsFunc(nodes, isGroup):
		d.fail("more than one volume group")
	default:
		d.group(vg, *group)
	}
}

// group reads the group's section.
func (d *decoder) group(vg *volume.Group, section config.Node) {
	vg.Name = d.name(section.Key)
	d.at = "volume group " + section.Key
	set := func(n config.Node) bool {
		switch n.Key {
		case "id":
			vg.ID = d.uuid(n)
		case "seqno":
			vg.Seqno = d.number(n, math.MaxUint32)
		case "format":
			vg.Format = d.text(n)
		case "status":
			vg.Status = d.words(n)
		case "flags":
			vg.Flags = d.words(n)
		case "tags":
			vg.Tags = d.words(n)
		case "system_id":
			vg.SystemID = d.text(n)
		case "lock_type":
			vg.LockType = d.text(n)
		case "extent_size":
			vg.ExtentSize = d.sectors(n)
		case "max_lv":
			vg.MaxLV = d.number(n, math.MaxUint32)
		case "max_pv":
			vg.MaxPV = d.number(n, math.MaxUint32)
		case "allocation_policy":
			vg.Allocation = d.text(n)
		case "profile":
			vg.Profile = d.text(n)
		case "metadata_copies":
			vg.MetadataCopies = d.number(n, math.MaxUint32)
		case "physical_volumes":
			d.physicalVolumes(vg, n)
		case "logical_volumes":
			d.logicalVolumes(vg, n)
		default:
			return false
		}
		return true
	}
	vg.Extra = d.entries(section.Children, set)
	d.need("id", vg.ID != "")
	d.need("seqno", vg.Seqno != 0)
	d.need("status", vg.Status != nil)
	d.need("extent_size", vg.ExtentSize != 0)
	if hidesWrite(vg) {
		vg.Status, vg.Flags = showWrite(vg.Status, vg.Flags)
		for _, lv := range vg.LVs {
			lv.Status, lv.Flags = showWrite(lv.Status, lv.Flags)
		}
	}
}

// showWrite moves what hideWrite hid back to where LVM2 has it, after READ.
func showWrite(status, flags []string) (_, _ []string) {
	at := slices.Index(flags, writeLocked)
	if at < 0 || slices.Contains(status, "WRITE") {
		return status, flags
	}
	read := slices.Index(status, "READ")
	return slices.Insert(status, read+1, "WRITE"), slices.Delete(flags, at, at+1)
}

// physicalVolumes reads all PVs, whose names are unique.
func (d *decoder) physicalVolumes(vg *volume.Group, section config.Node) {
	at := d.at
	d.children(section, func(n config.Node) {
		d.at = at + ": physical volume " + n.Key
		vg.PVs = append(vg.PVs, d.physicalVolume(n))
	})
	d.at = at
}

func (d *decoder) physicalVolume(section config.Node) *volume.PV {
	pv := &volume.PV{Key: d.name(section.Key)}
	set := func(n config.Node) bool {
		switch n.Key {
		case "id":
			pv.ID = d.uuid(n)
		case "device":
			pv.Device = d.text(n)
		case "device_id_type":
			pv.DeviceIDType = d.text(n)
		case "device_id":
			pv.DeviceID = d.text(n)
		case "status":
			pv.Status = d.words(n)
		case "flags":
			pv.Flags = d.words(n)
		case "tags":
			pv.Tags = d.words(n)
		case "dev_size":
			pv.DevSize = d.sectors(n)
		case "pe_start":
			pv.PEStart = d.sectors(n)
		case "pe_count":
			pv.PECount = d.extents(n)
		case "ba_start":
			pv.BAStart = d.sectors(n)
		case "ba_size":
			pv.BASize = d.sectors(n)
		default:
			return false
		}
		return true
	}
	pv.Extra = d.entries(section.Children, set)
	d.need("id", pv.ID != "")
	d.need("status", pv.Status != nil)
	return pv
}

// children calls each for the sections within a section that holds nothing
// else, and no two of the same name.
func (d *decoder) children(section config.Node, each func(config.Node)) {
	if !section.Section {
		d.fail("%s is not a section", section.Key)
	}
	seen := make(map[string]bool, len(section.Children))
	for _, n := range section.Children {
		switch {
		case d.err != nil:
			return
		case !n.Section:
			d.fail("%s in %s is not a section", n.Key, section.Key)
		case seen[n.Key]:
			d.fail("%s stands twice in %s", n.Key, section.Key)
		default:
			seen[n.Key] = true
			each(n)
		}
	}
}
