package manager

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/parttable"
	"cowl/internal/metastore"
)

// signature is what tells that a device is not empty: the magic bytes of a file
// system, an encrypted volume, an image format.
type signature struct {
	kind   string // blkid's name for it
	offset int64
	magic  string
}

// signatures are looked for in this order. FAT and NTFS come first because
// their boot sectors look like partition tables.
var signatures = []signature{
	{"ntfs", 3, "NTFS    "},
	{"exfat", 3, "EXFAT   "},
	{"vfat", 54, "FAT12   "},
	{"vfat", 54, "FAT16   "},
	{"vfat", 82, "FAT32   "},
	{"ext", 1080, "\x53\xef"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 65600, "_BHRfS_M"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"squashfs", 0, "hsqs"},
	{"iso9660", 32769, "CD001"},
	{"swap", 4086, "SWAPSPACE2"},
	{"swap", 8182, "SWAPSPACE2"},
	{"swap", 16374, "SWAPSPACE2"},
	{"swap", 65526, "SWAPSPACE2"},
	{"crypto_LUKS", 0, "LUKS\xba\xbe"},
	{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"},
	{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9"},
	{"DM_snapshot_cow", 0, "SnAp"},
	{"qcow2", 0, "QFI\xfb"},
	{"vmdk", 0, "KDMV"},
	{"vhdx", 0, "vhdxfile"},
}

// probeBytes is how far the signatures reach.
const probeBytes = 66 << 10

// probe returns the signatures on a device, and whether it has partitions.
func probe(dev block.Device) (found []signature, partitioned bool, err error) {
	head := make([]byte, min(probeBytes, dev.Size()))
	if _, err := dev.ReadAt(head, 0); err != nil {
		return nil, false, err
	}
	boot := false
	for _, s := range signatures {
		end := s.offset + int64(len(s.magic))
		if end > int64(len(head)) || string(head[s.offset:end]) != s.magic {
			continue
		}
		if s.kind == "ext" {
			s.kind = extKind(head)
		}
		boot = boot || s.offset < 512 && head[510] == 0x55
		found = append(found, s)
	}
	if boot {
		return found, false, nil
	}
	table, partitioned, err := probeTable(dev)
	return append(found, table...), partitioned, err
}

// Kind names what a device holds, as blkid does ("xfs", "qcow2",
// "LVM2_member"), "" where that is nothing that is known, and tells whether it
// has partitions.
func Kind(dev block.Device) (kind string, partitioned bool, err error) {
	if _, err := metastore.ReadPV(metastore.Source{Dev: dev}); err == nil {
		return "LVM2_member", false, nil
	}
	found, partitioned, err := probe(dev)
	if len(found) > 0 {
		kind = found[0].kind
	}
	return kind, partitioned, err
}

// probeTable looks for a partition table. One without partitions is a mere
// signature.
func probeTable(dev block.Device) ([]signature, bool, error) {
	parts, err := parttable.Read(dev, dev.Size())
	switch {
	case errs.Is(err, errs.NotFound):
		return nil, false, nil
	case err != nil && !errs.Is(err, errs.Corrupt):
		return nil, false, err
	case len(parts) > 0:
		return nil, true, nil
	}
	found := []signature{{"dos", 510, "\x55\xaa"}}
	gpt := make([]byte, 8)
	if dev.Size() >= 1024 {
		if _, err := dev.ReadAt(gpt, 512); err != nil {
			return nil, false, err
		}
	}
	if bytes.Equal(gpt, []byte("EFI PART")) {
		found = append(found, signature{"gpt", 512, "EFI PART"})
	}
	return found, false, nil
}

// extKind tells ext2, ext3 and ext4 apart by their features.
func extKind(head []byte) string {
	super := head[1024:]
	compatible := binary.LittleEndian.Uint32(super[0x5c:])
	incompatible := binary.LittleEndian.Uint32(super[0x60:])
	switch {
	case incompatible&^0x16 != 0: // more than filetype, recover and meta_bg
		return "ext4"
	case compatible&0x4 != 0: // has a journal
		return "ext3"
	}
	return "ext2"
}

// wipeSignatures makes sure that nothing is lost that somebody wants to keep:
// what is on the device is wiped if whoever asks agrees. The answer to a
// question that nobody can be asked is no.
func wipeSignatures(src metastore.Source, o PVCreate) ([]string, error) {
	found, partitioned, err := probe(src.Dev)
	if err != nil {
		return nil, fmt.Errorf("look for signatures on %s: %w", src.Path, err)
	}
	if partitioned {
		return nil, errs.WithHint(errs.E(errs.Conflict, "Cannot use %s: device is partitioned", src.Path),
			"Name a partition, as in %s, or remove the partition table.", partitionName(src.Path, 1))
	}
	var notes []string
	for i, s := range found {
		yes, err := o.ask("WARNING: %s signature detected on %s at offset %d. Wipe it?", s.kind, src.Path, s.offset)
		if err != nil {
			return notes, err
		}
		if !yes {
			return notes, errs.WithHint(errs.E(errs.Conflict, "Aborted wiping of %s.\n%d existing signature left on the device.", s.kind, len(found)-i),
				"--yes wipes it.")
		}
		if _, err := src.Dev.WriteAt(make([]byte, len(s.magic)), s.offset); err != nil {
			return notes, fmt.Errorf("wipe %s signature on %s: %w", s.kind, src.Path, err)
		}
		notes = append(notes, fmt.Sprintf("Wiping %s signature on %s.", s.kind, src.Path))
	}
	if len(notes) == 0 {
		return nil, nil
	}
	return notes, src.Dev.Flush()
}

// Signature names what a device holds, as blkid would (ext4, xfs, LUKS): the
// first signature that is found, "partitions" for a partition table, and ""
// for what is not recognised.
func Signature(dev block.Device) (string, error) {
	found, partitioned, err := probe(dev)
	switch {
	case err != nil:
		return "", err
	case len(found) > 0:
		return found[0].kind, nil
	case partitioned:
		return "partitions", nil
	}
	return "", nil
}
