package ext4

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"cowl/internal/errs"
)

// stored unpacks an image of testdata. Package fsread's tests make them.
func stored(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".img.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	img, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// super decodes an image's superblock.
func super(t testing.TB, img []byte) *Superblock {
	t.Helper()
	sb, err := DecodeSuperblock(img[SuperblockOffset : SuperblockOffset+SuperblockSize])
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// rawInode returns an inode's bytes.
func rawInode(t testing.TB, sb *Superblock, img []byte, ino Ino) []byte {
	t.Helper()
	block, off := sb.Location(uint32(ino-1) / sb.InodesPerGroup)
	d, err := sb.DecodeGroup(0, img[int(block)*sb.BlockSize+off:][:sb.DescSize])
	if err != nil {
		t.Fatal(err)
	}
	at := int(d.InodeTable)*sb.BlockSize + int(ino-1)*sb.InodeSize
	return img[at : at+sb.InodeSize]
}

// Checksums of other kinds than zlib's have known values.
func TestChecksums(t *testing.T) {
	check := []byte("123456789")
	if got := ^CRC32C(fresh, check); got != 0xe3069283 {
		t.Errorf("CRC-32C: %#x", got)
	}
	if got := CRC32BE(fresh, check); got != 0x0376e6e7 { // CRC-32/MPEG-2
		t.Errorf("CRC-32 from the left: %#x", got)
	}
	if got := crc16(0xffff, check); got != 0x4b37 { // CRC-16/MODBUS
		t.Errorf("CRC-16: %#x", got)
	}
	if a, b := crcWord(7, 0x01020304), CRC32C(7, []byte{4, 3, 2, 1}); a != b {
		t.Errorf("of a word: %#x, want %#x", a, b)
	}
}

func TestSuperblock(t *testing.T) {
	sb := super(t, stored(t, "ext4-csum"))
	if sb.BlockSize != 1024 || sb.Blocks != 1024 || sb.InodeSize != 256 || sb.Version() != "ext4" || !sb.MetadataCsum() || sb.Groups() != 1 {
		t.Errorf("%+v", sb)
	}
	if v := super(t, stored(t, "ext2-1k")).Version(); v != "ext2" {
		t.Errorf("ext2 is taken for %s", v)
	}
}

// Every bit of what carries a checksum is covered by it.
func TestEveryBitIsSummed(t *testing.T) {
	img := stored(t, "ext4-csum")
	sb := super(t, img)
	first := img[SuperblockOffset : SuperblockOffset+SuperblockSize]
	flip(t, "superblock", first, func(b []byte) error { _, err := DecodeSuperblock(b); return err }, 0x65*8+2)

	block, off := sb.Location(0)
	flip(t, "group", img[int(block)*sb.BlockSize+off:][:sb.DescSize], func(b []byte) error { _, err := sb.DecodeGroup(0, b); return err })
	flip(t, "inode", rawInode(t, sb, img, RootInode), func(b []byte) error { _, err := sb.DecodeInode(RootInode, b); return err })

	root, err := sb.DecodeInode(RootInode, rawInode(t, sb, img, RootInode))
	if err != nil {
		t.Fatal(err)
	}
	node, err := sb.DecodeExtentNode(root.Block[:], -1, 0, 1<<32)
	if err != nil {
		t.Fatal(err)
	}
	dir := img[int(node.Extent(0).Start)*sb.BlockSize:][:sb.BlockSize]
	flip(t, "directory", dir, func(b []byte) error { return sb.CheckDirBlock(b, root.Seed, false, true) })
	kinds := map[string]int{}
	for n := range sb.Blocks {
		b := img[int(n)*sb.BlockSize:][:sb.BlockSize]
		if le.Uint32(b) == attrMagic {
			kinds["attributes"]++
			flip(t, "attributes", b, func(b []byte) error { _, err := sb.DecodeAttrBlock(b, n); return err })
		}
	}
	if kinds["attributes"] == 0 {
		t.Error("the image has no block of attributes")
	}

	dirty := stored(t, "dirty-csum")
	for off := 0; off < len(dirty); off += 1024 {
		b := dirty[off : off+1024]
		if be.Uint32(b) == journalMagic && be.Uint32(b[4:]) == uint32(JournalSuperV2) {
			flip(t, "journal", b, func(b []byte) error { _, err := DecodeJournal(b, 1024); return err }, 0x2b*8+4)
		}
	}
}

// flip changes each bit in turn, and wants an error. The exceptions are bits
// (byte*8+bit) that say whether there is a checksum at all.
func flip(t *testing.T, what string, b []byte, decode func([]byte) error, except ...int) {
	t.Helper()
	if err := decode(b); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	for i := range len(b) * 8 {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		if err := decode(c); err == nil && !slices.Contains(except, i) {
			t.Errorf("%s: bit %d of byte %#x can change", what, i%8, i/8)
		} else {
			clean(t, err)
		}
	}
}

// Which groups begin with copies of the superblock decides where meta_bg's
// descriptors are.
func TestHasSuper(t *testing.T) {
	sparse := &Superblock{ROCompat: ROCompatSparseSuper}
	var got []uint32
	for g := range uint32(130) {
		if sparse.HasSuper(g) {
			got = append(got, g)
		}
	}
	if want := []uint32{0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125}; !slices.Equal(got, want) {
		t.Errorf("sparse_super: %v", got)
	}
	two := &Superblock{Compat: CompatSparseSuper2, BackupGroups: [2]uint32{1, 9}}
	if !two.HasSuper(0) || !two.HasSuper(9) || two.HasSuper(3) {
		t.Error("sparse_super2")
	}
	if !(&Superblock{}).HasSuper(2) {
		t.Error("without sparse_super every group has one")
	}
}

// The two bits that extend seconds count up from 1901: e2fsck has a table of
// what they mean.
func TestTimes(t *testing.T) {
	for _, c := range []struct {
		seconds, more uint32
		want          string
	}{
		{0x80000000, 0, "1901-12-13T20:45:52Z"},
		{0xffffffff, 0, "1969-12-31T23:59:59Z"},
		{0x7fffffff, 0, "2038-01-19T03:14:07Z"},
		{0x80000000, 1, "2038-01-19T03:14:08Z"},
		{0x7fffffff, 1, "2174-02-25T09:42:23Z"},
		{0x80000000, 2, "2174-02-25T09:42:24Z"},
		{0x7fffffff, 3, "2446-05-10T22:38:55Z"},
		{0, 999_999_999 << 2, "1970-01-01T00:00:00.999999999Z"},
	} {
		if got := stamp(c.seconds, c.more).UTC().Format(time.RFC3339Nano); got != c.want {
			t.Errorf("%#x, %#x: %s, want %s", c.seconds, c.more, got, c.want)
		}
	}
}

func TestDeviceNumbers(t *testing.T) {
	for _, c := range []struct{ old, new, major, minor uint32 }{
		{0x0801, 0, 8, 1}, {0xffff, 0, 255, 255}, {0, 0x10304, 259, 4}, {0, 0x30d10340, 259, 200000},
	} {
		var n Inode
		le.PutUint32(n.Block[:], c.old)
		le.PutUint32(n.Block[4:], c.new)
		if major, minor := n.Device(); major != c.major || minor != c.minor {
			t.Errorf("%#x, %#x: %d:%d, want %d:%d", c.old, c.new, major, minor, c.major, c.minor)
		}
	}
}

// An access control list comes out as the kernel presents it.
func TestACL(t *testing.T) {
	stored := []byte{1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 57, 48, 0, 0, 4, 0, 4, 0, 16, 0, 6, 0, 32, 0, 4, 0}
	want := []byte{2, 0, 0, 0,
		1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 57, 48, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
	got, err := ACLXattr(stored)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]byte{nil, {1}, {2, 0, 0, 0}, stored[:6], stored[:14], {1, 0, 0, 0, 3, 0, 0, 0}} {
		if _, err := ACLXattr(bad); err == nil {
			t.Errorf("%v is taken for a list", bad)
		}
	}
}

// Tags are of six sizes, one of them odd: csum_v2 without 64bit.
func TestTagSizes(t *testing.T) {
	for features, want := range map[Features]int{
		0: 8, Journal64Bit: 12, JournalCsumV2: 10, JournalCsumV2 | Journal64Bit: 14, JournalCsumV3: 16, JournalCsumV3 | Journal64Bit: 16,
	} {
		if got := (&Journal{Incompat: features}).tagSize(); got != want {
			t.Errorf("features %#x: %d bytes, want %d", features, got, want)
		}
	}
}

// What cowl does not read is refused by name.
func TestUnreadableFeatures(t *testing.T) {
	for bit, want := range map[int]string{0: "compression", 12: "dirdata", 25: "FEATURE_I25", 3: "journal_dev"} {
		b := bytes.Clone(stored(t, "ext4-plain")[SuperblockOffset : SuperblockOffset+SuperblockSize])
		le.PutUint32(b[0x60:], le.Uint32(b[0x60:])|1<<bit)
		_, err := DecodeSuperblock(b)
		if !errs.Is(err, errs.Unsupported) || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
