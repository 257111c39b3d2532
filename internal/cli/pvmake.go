package cli

import (
	"context"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// layoutFlags are the options that say how a PV is laid out.
type layoutFlags struct {
	metadataSize, alignment, alignmentShift, bootloader, size option[int64]
	copies, labelSector                                       option[int]
	force                                                     int
}

func newLayoutFlags() layoutFlags {
	count := func(words map[string]int) option[int] { return option[int]{kind: "Number", parse: oneOf(words)} }
	return layoutFlags{
		metadataSize: sizeOption('m'), alignment: sizeOption('k'), alignmentShift: sizeOption('k'),
		bootloader: sizeOption('m'), size: sizeOption('m'),
		copies:      count(map[string]int{"0": 0, "1": 1, "2": 2}),
		labelSector: count(map[string]int{"0": 0, "1": 1, "2": 2, "3": 3}),
	}
}

func (o *layoutFlags) add(f *pflag.FlagSet) {
	flagOf(f, &o.copies, "metadatacopies", "", "how many metadata areas: 0, 1 or 2 (default 1)")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "pvmetadatacopies" { // LVM's longer name for it
			name = "metadatacopies"
		}
		return pflag.NormalizedName(name)
	})
	flagOf(f, &o.metadataSize, "metadatasize", "", "size of each metadata area")
	flagOf(f, &o.alignment, "dataalignment", "", "begin extents at a multiple of this")
	flagOf(f, &o.alignmentShift, "dataalignmentoffset", "", "plus this")
	flagOf(f, &o.bootloader, "bootloaderareasize", "", "leave room for a bootloader")
	flagOf(f, &o.labelSector, "labelsector", "", "put the label into this sector, 0 to 3 (default 1)")
}

func (o *layoutFlags) options() metastore.PVOptions {
	p := metastore.PVOptions{
		MetadataSize: o.metadataSize.value, DataAlignment: o.alignment.value, DataAlignmentShift: o.alignmentShift.value,
		BootloaderAreaSize: o.bootloader.value, Size: o.size.value,
	}
	if o.copies.given {
		p.MetadataCopies = &o.copies.value
	}
	if o.labelSector.given {
		p.LabelSector = &o.labelSector.value
	}
	return p
}

// pvCreate says how PVs are made, asking where that destroys something.
func (a *app) pvCreate(o *layoutFlags) manager.PVCreate {
	return manager.PVCreate{
		Layout: o.options(), Force: o.force,
		Confirm: func(question string) (bool, error) { return a.confirm("%s", question) },
	}
}

// tryPV says under --test whether a device could become a PV, as far as can be
// seen without locking it.
func (a *app) tryPV(ctx context.Context, name string, force int) error {
	inv, err := a.scan(ctx)
	if err != nil {
		return err
	}
	pv, group := inv.PV(name)
	switch {
	case group != nil && force < 2:
		return errs.E(errs.Conflict, "Can't initialize physical volume %q of volume group %q without -ff\n%s: physical volume not initialized.",
			name, group.Meta.Name, name)
	case pv != nil:
		return nil
	}
	if _, err := os.Stat(name); errs.Is(err, errs.NotFound) {
		return noDevice(name, err)
	}
	return nil
}

func noDevice(name string, err error) error {
	if pe, ok := err.(*fs.PathError); ok && !os.IsNotExist(pe) {
		return err
	}
	return errs.E(errs.NotFound, "No device found for %s.", name)
}

// sayResult shows what was done, also in part.
func (a *app) sayResult(r *manager.Result) {
	if r != nil {
		a.tell(r.Notes)
	}
}

// groupFlags are the options of vgcreate that say what the group is like.
type groupFlags struct {
	extentSize   option[int64]
	maxLV, maxPV option[uint64]
	allocation   option[string]
	copies       option[uint64]
	tags         tagsOption
}

func newGroupFlags() groupFlags {
	words := map[string]string{}
	for _, w := range []string{"contiguous", "cling", "normal", "anywhere"} {
		words[w] = w
	}
	words["normal"] = ""
	return groupFlags{
		extentSize: option[int64]{kind: "Size[m|UNIT]", parse: parseExtentSize},
		maxLV:      option[uint64]{kind: "Number", parse: parseCount}, maxPV: option[uint64]{kind: "Number", parse: parseCount},
		allocation: option[string]{kind: "contiguous|cling|normal|anywhere", parse: oneOf(words)},
		copies:     option[uint64]{kind: "Number", parse: parseCount},
	}
}

func (o *groupFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	flagOf(f, &o.extentSize, "physicalextentsize", "s", "size of an extent (default 4m)")
	flagOf(f, &o.maxLV, "maxlogicalvolumes", "l", "most volumes that the group may have (default no limit)")
	flagOf(f, &o.maxPV, "maxphysicalvolumes", "p", "most PVs that the group may have (default no limit)")
	flagOf(f, &o.allocation, "alloc", "", "where extents are taken from")
	flagOf(f, &o.copies, "vgmetadatacopies", "", "how many metadata areas are used (default all)")
	f.Var(&o.tags, "addtag", "add a tag")
}

func (o *groupFlags) spec(name string) volume.GroupSpec {
	return volume.GroupSpec{
		Name: name, ExtentSize: volume.Sectors(o.extentSize.value >> 9), MaxLV: o.maxLV.value, MaxPV: o.maxPV.value,
		Allocation: o.allocation.value, MetadataCopies: o.copies.value, Tags: o.tags,
	}
}
