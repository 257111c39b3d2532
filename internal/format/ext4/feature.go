package ext4

import (
	"fmt"
	"math/bits"
	"strings"
)

// Features are the bits of one of the superblock's three sets.
type Features uint32

// Compatible features: a system that does not know one may read and write.
const (
	CompatHasJournal   Features = 0x4
	CompatSparseSuper2 Features = 0x200
)

// Incompatible features: a system that does not know one may do nothing.
const (
	IncompatCompression Features = 0x1
	IncompatFiletype    Features = 0x2
	IncompatRecover     Features = 0x4 // the journal has to be replayed
	IncompatJournalDev  Features = 0x8 // no file system, but the journal of one
	IncompatMetaBG      Features = 0x10
	IncompatExtents     Features = 0x40
	Incompat64Bit       Features = 0x80
	IncompatMMP         Features = 0x100
	IncompatFlexBG      Features = 0x200
	IncompatEAInode     Features = 0x400
	IncompatDirdata     Features = 0x1000
	IncompatCsumSeed    Features = 0x2000
	IncompatLargedir    Features = 0x4000
	IncompatInlineData  Features = 0x8000
	IncompatEncrypt     Features = 0x10000
	IncompatCasefold    Features = 0x20000
)

// Features that a system which does not know them may read, but not write.
const (
	ROCompatSparseSuper  Features = 0x1
	ROCompatHugeFile     Features = 0x8
	ROCompatGDTCsum      Features = 0x10
	ROCompatBigalloc     Features = 0x200
	ROCompatMetadataCsum Features = 0x400
	ROCompatProject      Features = 0x2000
)

// Readable are the incompatible features that cowl reads. Encrypted files are
// refused one by one, the rest of such a file system can be read.
const Readable = IncompatFiletype | IncompatRecover | IncompatMetaBG | IncompatExtents | Incompat64Bit | IncompatMMP |
	IncompatFlexBG | IncompatEAInode | IncompatCsumSeed | IncompatLargedir | IncompatInlineData | IncompatEncrypt | IncompatCasefold

// Names of features, as mke2fs and dumpe2fs spell them, by bit.
var (
	compatNames = map[int]string{0: "dir_prealloc", 1: "imagic_inodes", 2: "has_journal", 3: "ext_attr", 4: "resize_inode",
		5: "dir_index", 6: "lazy_bg", 8: "snapshot_bitmap", 9: "sparse_super2", 10: "fast_commit", 11: "stable_inodes", 12: "orphan_file"}
	incompatNames = map[int]string{0: "compression", 1: "filetype", 2: "needs_recovery", 3: "journal_dev", 4: "meta_bg", 6: "extent",
		7: "64bit", 8: "mmp", 9: "flex_bg", 10: "ea_inode", 12: "dirdata", 13: "metadata_csum_seed", 14: "large_dir",
		15: "inline_data", 16: "encrypt", 17: "casefold"}
	roCompatNames = map[int]string{0: "sparse_super", 1: "large_file", 3: "huge_file", 4: "uninit_bg", 5: "dir_nlink", 6: "extra_isize",
		7: "snapshot", 8: "quota", 9: "bigalloc", 10: "metadata_csum", 11: "replica", 12: "read-only", 13: "project",
		14: "shared_blocks", 15: "verity", 16: "orphan_present"}
)

// FeatureNames lists what the superblock's three sets have, as dumpe2fs does.
// A bit without a name is FEATURE_C5, FEATURE_I30 or FEATURE_R31.
func (sb *Superblock) FeatureNames() []string {
	names := setNames(sb.Compat, 'C', compatNames)
	names = append(names, setNames(sb.Incompat, 'I', incompatNames)...)
	return append(names, setNames(sb.ROCompat, 'R', roCompatNames)...)
}

func setNames(set Features, kind byte, names map[int]string) []string {
	var out []string
	for v := uint32(set); v != 0; v &= v - 1 {
		bit := bits.TrailingZeros32(v)
		name, ok := names[bit]
		if !ok {
			name = fmt.Sprintf("FEATURE_%c%d", kind, bit)
		}
		out = append(out, name)
	}
	return out
}

// unreadable names the incompatible features that cowl does not read, "" if
// there are none.
func unreadable(set Features) string {
	return strings.Join(setNames(set&^Readable, 'I', incompatNames), ", ")
}
