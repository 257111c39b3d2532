package ext4

import (
	"bytes"
	"testing"

	"cowl/internal/errs"
)

// blocksOf adds the blocks of all images that begin in a given way, as seeds.
func blocksOf(f *testing.F, wanted func(b []byte) bool) {
	f.Helper()
	for _, name := range []string{"ext2-1k", "ext4-plain", "ext4-csum", "dirty-plain", "dirty-csum", "fast-commit"} {
		img := stored(f, name)
		for n := 0; n+1024 <= len(img); n += 1024 {
			if b := img[n : n+1024]; wanted(b) {
				f.Add(b)
			}
		}
	}
}

// either decodes by both kinds of superblock: without checksums what was
// changed goes deeper.
func either(f *testing.F, use func(sb *Superblock)) {
	for _, name := range []string{"ext4-plain", "ext4-csum"} {
		use(super(f, stored(f, name)))
	}
}

func clean(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Unsupported) && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Usage) {
		t.Errorf("kind %v: %v", errs.KindOf(err), err)
	}
	return err == nil
}

func FuzzSuperblock(f *testing.F) {
	blocksOf(f, IsExt)
	f.Fuzz(func(t *testing.T, b []byte) {
		sb, err := DecodeSuperblock(b)
		if !clean(t, err) {
			return
		}
		sb.FeatureNames()
		for _, g := range []uint64{0, 1, sb.Groups() / 2, sb.Groups() - 1} {
			block, off := sb.Location(uint32(g))
			if off+sb.DescSize > sb.BlockSize || block == 0 && sb.BlockSize < 2048 {
				t.Errorf("descriptor of group %d at byte %d of block %d", g, off, block)
			}
		}
	})
}

func FuzzGroup(f *testing.F) {
	var all []*Superblock
	either(f, func(sb *Superblock) { all = append(all, sb) })
	blocksOf(f, func(b []byte) bool { return le.Uint32(b) > 0 && le.Uint32(b[8:]) < 64 && le.Uint32(b[8:]) > 0 })
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sb := range all {
			d, err := sb.DecodeGroup(0, b[:min(len(b), sb.DescSize)])
			if clean(t, err) && !sb.Has(d.InodeTable, 1) {
				t.Errorf("%+v", d)
			}
		}
	})
}

func FuzzInode(f *testing.F) {
	var all []*Superblock
	either(f, func(sb *Superblock) { all = append(all, sb) })
	for i, name := range []string{"ext4-plain", "ext4-csum"} {
		for ino := Ino(1); ino < 60; ino++ {
			f.Add(rawInode(f, all[i], stored(f, name), ino))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sb := range all {
			n, err := sb.DecodeInode(12, b)
			if !clean(t, err) {
				continue
			}
			n.Device()
			n.Blocks()
			if n.Attrs != nil {
				attrs, err := sb.DecodeInodeAttrs(n.Attrs)
				clean(t, err)
				checkAttrs(t, attrs)
			}
			if node, err := sb.DecodeExtentNode(n.Block[:], -1, 0, 1<<32); clean(t, err) {
				checkNode(t, sb, node, 0, 1<<32)
			}
		}
	})
}

func FuzzExtents(f *testing.F) {
	var sb *Superblock
	either(f, func(s *Superblock) { sb = s })
	blocksOf(f, func(b []byte) bool { return le.Uint16(b) == extentMagic })
	f.Fuzz(func(t *testing.T, b []byte) {
		clean(t, sb.CheckExtentBlock(b, 7))
		for depth := range 3 {
			if node, err := sb.DecodeExtentNode(b, depth, 10, 1<<20); clean(t, err) {
				checkNode(t, sb, node, 10, 1<<20)
			}
		}
	})
}

// checkNode makes sure that who follows a node's entries moves forward and
// stays in the file system.
func checkNode(t *testing.T, sb *Superblock, n ExtentNode, lo, hi uint64) {
	t.Helper()
	for i := range n.Len() {
		block, length, start := uint64(0), uint64(1), uint64(0)
		if n.Depth == 0 {
			e := n.Extent(i)
			block, length, start = uint64(e.Block), uint64(e.Len), e.Start
		} else {
			e := n.Index(i)
			block, start = uint64(e.Block), e.Node
		}
		if length == 0 || block < lo || block+length > hi || !sb.Has(start, length) {
			t.Fatalf("entry %d: %d blocks at %d, on the device at %d; between %d and %d", i, length, block, start, lo, hi)
		}
		if got := n.Find(block); got != i {
			t.Fatalf("block %d is found in entry %d, not %d", block, got, i)
		}
		lo = block + length
	}
}

func FuzzDirectory(f *testing.F) {
	var all []*Superblock
	either(f, func(sb *Superblock) { all = append(all, sb) })
	large := *all[0]
	large.BlockSize = MaxBlock
	all = append(all, &large)
	blocksOf(f, func(b []byte) bool { return b[6] == 1 && b[8] == '.' || b[len(b)-5] == direntTail })
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sb := range all {
			if len(b) > 64 {
				clean(t, sb.CheckDirBlock(b[:min(len(b), sb.BlockSize)], 7, true, true))
				clean(t, sb.CheckDirBlock(b[:min(len(b), sb.BlockSize)], 7, true, false))
			}
			for off := 0; off < len(b); {
				d, next, err := sb.NextDirent(b, off)
				if !clean(t, err) {
					break
				}
				if next < off+direntMinimum || next > len(b) || d.Ino != 0 && (len(d.Name) == 0 || bytes.ContainsAny(d.Name, "/\x00")) {
					t.Fatalf("entry at %d: %+v, next at %d", off, d, next)
				}
				d.TypeOf()
				off = next
			}
		}
	})
}

func FuzzAttrs(f *testing.F) {
	var all []*Superblock
	either(f, func(sb *Superblock) { all = append(all, sb) })
	blocksOf(f, func(b []byte) bool { return le.Uint32(b) == attrMagic })
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sb := range all {
			attrs, err := sb.DecodeAttrBlock(b, 99)
			clean(t, err)
			checkAttrs(t, attrs)
			attrs, err = sb.DecodeInodeAttrs(b)
			clean(t, err)
			checkAttrs(t, attrs)
		}
	})
}

func checkAttrs(t *testing.T, attrs []Attr) {
	t.Helper()
	for i := range attrs {
		a := &attrs[i]
		a.FullName()
		if a.Size > MaxAttr || a.Inode == 0 && len(a.Value) != a.Size {
			t.Fatalf("%+v", a)
		}
		if a.IsACL() {
			_, err := ACLXattr(a.Value)
			clean(t, err)
		}
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 57, 48, 0, 0, 4, 0, 4, 0, 16, 0, 6, 0, 32, 0, 4, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := ACLXattr(b); clean(t, err) && (len(out)-4)%8 != 0 {
			t.Errorf("%x became %x", b, out)
		}
	})
}

func FuzzJournal(f *testing.F) {
	blocksOf(f, func(b []byte) bool { return be.Uint32(b) == journalMagic })
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := DecodeJournal(b, 1024)
		if clean(t, err) && (j.Wrap(j.End()) < j.First || j.Wrap(j.End()) >= j.End()) {
			t.Errorf("%+v wraps to %d", j, j.Wrap(j.End()))
		}
		for _, features := range []Features{0, Journal64Bit, JournalCsumV2, JournalCsumV3 | Journal64Bit} {
			j := &Journal{Incompat: features, Blocks: 1024, First: 1, blockSize: 1024}
			if _, _, ok := j.Header(b); !ok {
				continue
			}
			j.CheckTail(b)
			if tags := j.Tags(b); len(tags) > len(b)/8 {
				t.Errorf("%d tags in %d bytes", len(tags), len(b))
			}
			blocks, err := j.Revoked(b)
			if clean(t, err) && len(blocks) > len(b)/4 {
				t.Errorf("%d blocks revoked in %d bytes", len(blocks), len(b))
			}
			j.Commit(b)
		}
	})
}

func FuzzFastCommit(f *testing.F) {
	blocksOf(f, func(b []byte) bool { return le.Uint16(b) == fastHead && le.Uint16(b[2:]) == 8 })
	f.Fuzz(func(t *testing.T, b []byte) {
		s := FastScan{Transaction: 7}
		if s.Block(b) {
			s.Block(b)
		}
	})
}
