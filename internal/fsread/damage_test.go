package fsread_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// stored unpacks an image of testdata.
func stored(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "format", "ext4", "testdata", name+".img.gz"))
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

// memory is a device with the content.
func memory(t testing.TB, img []byte) *mem.Device {
	t.Helper()
	d := mem.New(int64(len(img)))
	if _, err := d.WriteAt(img, 0); err != nil {
		t.Fatal(err)
	}
	return d
}

// patient counts reads, and ends the test when there are more than any reader
// of so small an image can need: somebody goes round in circles.
type patient struct {
	block.Device
	t    testing.TB
	left int
}

func (p *patient) ReadAt(b []byte, off int64) (int, error) {
	if p.left--; p.left < 0 {
		p.t.Fatal("the reader does not come to an end")
	}
	return p.Device.ReadAt(b, off)
}

// tour is what was seen on a walk through all that a file system has.
type tour struct {
	items, failures int
	bytes           int64
	notes           bytes.Buffer
}

// everything reads all that there is, and checks what must hold whatever the
// image says.
func everything(t testing.TB, fs *fsread.FS, o fsread.WalkOptions) *tour {
	t.Helper()
	v := &tour{}
	root, err := fs.Lookup("/", true)
	if err != nil {
		t.Fatal(err)
	}
	err = fs.Walk(context.Background(), root, o, func(it *fsread.Item) error {
		v.items++
		err := it.Err
		if err == nil && it.Node != nil {
			err = v.visit(t, fs, it.Node)
		}
		if err != nil {
			v.failures++
			fmt.Fprintf(&v.notes, "%q: %v\n", it.Path, err)
			known(t, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// known makes sure that an error says what is wrong with the image.
func known(t testing.TB, err error) {
	t.Helper()
	if !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Unsupported) {
		t.Errorf("an error of kind %v: %v", errs.KindOf(err), err)
	}
}

func (v *tour) visit(t testing.TB, fs *fsread.FS, n *fsread.Node) error {
	if _, err := fs.Xattrs(n); err != nil {
		return err
	}
	switch n.Mode.Type() {
	case ext4.TypeSymlink:
		_, err := fs.Readlink(n)
		return err
	case ext4.TypeFile:
		return v.content(t, fs, n)
	}
	return nil
}

// content reads a file's extents, which must cover it, and part of its bytes.
func (v *tour) content(t testing.TB, fs *fsread.FS, n *fsread.Node) error {
	f, err := fs.OpenFile(n)
	if err != nil {
		return err
	}
	var at int64
	buf := make([]byte, 4096)
	for e, err := range f.Extents(0, f.Size()) {
		if err != nil {
			return err
		}
		if e.Off != at || e.Len <= 0 || e.End() > f.Size() {
			t.Fatalf("inode %d: extent %+v after byte %d of %d", n.Ino, e, at, f.Size())
		}
		at = e.End()
		if v.bytes > 64<<20 {
			continue
		}
		got, err := f.ReadAt(buf[:min(int64(len(buf)), e.Len)], e.Off)
		v.bytes += e.Len
		if err != nil {
			return err
		}
		if e.Kind != fsread.Data && !bytes.Equal(buf[:got], make([]byte, got)) {
			t.Fatalf("inode %d: %+v is not zero", n.Ino, e)
		}
	}
	if at != f.Size() {
		t.Fatalf("inode %d: extents end at byte %d of %d", n.Ino, at, f.Size())
	}
	return nil
}

// The images as they were recorded hold no damage.
func TestStoredImages(t *testing.T) {
	for _, name := range []string{"ext2-1k", "ext4-plain", "ext4-csum", "dirty-plain", "dirty-csum", "encrypted-4k"} {
		fs, err := fsread.Open(context.Background(), memory(t, stored(t, name)), fsread.Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, order := range []fsread.Order{fsread.ByInode, fsread.ByName} {
			v := everything(t, fs, fsread.WalkOptions{Order: order})
			wanted := 0
			if name == "encrypted-4k" {
				wanted = 1
			}
			if v.failures != wanted || v.items < 150 {
				t.Errorf("%s: %d items, %d failures\n%s", name, v.items, v.failures, &v.notes)
			}
		}
	}
}

// surgeon changes an image where it hurts.
type surgeon struct {
	t   *testing.T
	img []byte
	sb  *ext4.Superblock
}

func operate(t *testing.T, name string) *surgeon {
	t.Helper()
	img := stored(t, name)
	sb, err := ext4.DecodeSuperblock(img[ext4.SuperblockOffset:][:ext4.SuperblockSize])
	if err != nil {
		t.Fatal(err)
	}
	return &surgeon{t, img, sb}
}

func (s *surgeon) open() (*fsread.FS, error) {
	return fsread.Open(context.Background(), &patient{memory(s.t, s.img), s.t, 1 << 20}, fsread.Options{})
}

// inode returns the bytes of the inode at a path, and its number.
func (s *surgeon) inode(path string) ([]byte, ext4.Ino) {
	s.t.Helper()
	fs, err := s.open()
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := fs.Lookup(path, false)
	if err != nil {
		s.t.Fatal(err)
	}
	block, off := s.sb.Location(0)
	d, err := s.sb.DecodeGroup(0, s.img[int(block)*s.sb.BlockSize+off:][:s.sb.DescSize])
	if err != nil {
		s.t.Fatal(err)
	}
	return s.img[int(d.InodeTable)*s.sb.BlockSize+int(n.Ino-1)*s.sb.InodeSize:][:s.sb.InodeSize], n.Ino
}

// block returns a block's bytes.
func (s *surgeon) block(number uint32) []byte {
	return s.img[int(number)*s.sb.BlockSize:][:s.sb.BlockSize]
}

var le = binary.LittleEndian

// What can be wrong with a file system, and what is said of it. Everything
// else on it must still be readable.
func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		image string
		do    func(s *surgeon) (about string)
		want  string
	}{
		"a directory in itself": {"ext4-plain", func(s *surgeon) string {
			entry := bytes.Index(s.img, []byte("\x01\x02b\x00"))
			le.PutUint32(s.img[entry-6:], 2)
			return "a/b"
		}, "has another name already"},
		"an entry without an inode": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/a/b")
			clear(raw)
			return "a/b"
		}, "not in use"},
		"a map of blocks that goes round": {"ext2-1k", func(s *surgeon) string {
			raw, _ := s.inode("/fragments")
			triple := le.Uint32(raw[0x28+56:])
			for i := 0; i < 1024; i += 4 {
				le.PutUint32(s.block(triple)[i:], triple)
			}
			le.PutUint32(raw[0x6c:], 3) // 12 GiB
			return "fragments"
		}, "more blocks than the file system"},
		"a map of empty maps": {"ext2-1k", func(s *surgeon) string {
			raw, _ := s.inode("/fragments")
			triple := le.Uint32(raw[0x28+56:])
			double := le.Uint32(raw[0x28+52:])
			single := le.Uint32(raw[0x28+48:])
			for i := 0; i < 1024; i += 4 {
				le.PutUint32(s.block(triple)[i:], double)
				le.PutUint32(s.block(double)[i:], single)
			}
			clear(s.block(single))
			le.PutUint32(raw[0x6c:], 3)
			return "fragments"
		}, "more blocks than the file system"},
		"a block beyond the end": {"ext2-1k", func(s *surgeon) string {
			raw, _ := s.inode("/size-5000")
			le.PutUint32(raw[0x28+4:], 1<<30)
			return "size-5000"
		}, "at block 1073741824, the file system has 1024"},
		"an extent tree that goes round": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/fragments")
			node := le.Uint32(raw[0x28+12+4:])
			copy(s.block(node), raw[0x28:0x28+24])
			return "fragments"
		}, "extent node of depth"},
		"an extent beyond the end": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/size-20000")
			le.PutUint32(raw[0x28+12+8:], 1020)
			return "size-20000"
		}, "extent of 20 blocks at block 1020, the file system has 1024"},
		"an endless directory": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/many")
			le.PutUint32(raw[4:], 1<<31)
			return "many"
		}, "directory with a hole of"},
		"a directory cut short": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/many")
			le.PutUint32(raw[4:], 1500)
			return "many"
		}, "directory of 1500 bytes"},
		"an entry without an end": {"ext4-plain", func(s *surgeon) string {
			entry := bytes.Index(s.img, []byte("name-7"))
			le.PutUint16(s.img[entry-4:], 0)
			return "many"
		}, "has a length of 0"},
		"a name with a slash": {"ext4-plain", func(s *surgeon) string {
			copy(s.img[bytes.Index(s.img, []byte("name-7")):], "na/e-7")
			return "many"
		}, `has the name "na/e-7`},
		"attributes that overlap the end": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/size-60")
			at := 128 + int(le.Uint16(raw[128:])) + 4
			for le.Uint32(raw[at:]) != 0 && raw[at+1] != 1 {
				at += (16 + int(raw[at]) + 3) &^ 3
			}
			le.PutUint32(raw[at+8:], 0xffff)
			return "size-60"
		}, `attribute "small" has 65535 bytes at byte`},
		"attributes somewhere else": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/size-100")
			le.PutUint32(raw[0x68:], 5)
			return "size-100"
		}, "block 5 holds no attributes"},
		"a size of no file": {"ext4-plain", func(s *surgeon) string {
			raw, _ := s.inode("/size-5000")
			le.PutUint32(raw[0x6c:], 0x7fffffff)
			return "size-5000"
		}, "bytes"},
		"a bit": {"ext4-csum", func(s *surgeon) string {
			raw, _ := s.inode("/size-5000")
			raw[0x10] ^= 1
			return "size-5000"
		}, "bad checksum (want"},
		"a bit of a directory": {"ext4-csum", func(s *surgeon) string {
			s.img[bytes.Index(s.img, []byte("name-7"))] ^= 1
			return "many"
		}, "bad checksum of a directory block"},
	} {
		t.Run(name, func(t *testing.T) {
			s := operate(t, c.image)
			s.t = t
			about := c.do(s)
			fs, err := s.open()
			if err != nil {
				t.Fatal(err)
			}
			v := everything(t, fs, fsread.WalkOptions{})
			if want := fmt.Sprintf("%q: ", about); v.failures == 0 || !strings.Contains(v.notes.String(), want) || !strings.Contains(v.notes.String(), c.want) {
				t.Errorf("%d items, %d failures:\n%swant %s... %s", v.items, v.failures, &v.notes, want, c.want)
			}
			if v.items < 15 {
				t.Errorf("only %d items could be read", v.items)
			}
		})
	}
}

// What keeps a file system from being opened at all.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(s *surgeon)
		kind errs.Kind
		want string
	}{
		"nothing there":    {func(s *surgeon) { clear(s.img[1024:2048]) }, errs.NotFound, "no ext2, ext3 or ext4 here"},
		"too short":        {func(s *surgeon) { s.img = s.img[:1500] }, errs.NotFound, "too few"},
		"cut off":          {func(s *surgeon) { s.img = s.img[:1<<19] }, errs.Corrupt, "cut off"},
		"unknown feature":  {func(s *surgeon) { s.img[1024+0x63] |= 0x40 }, errs.Unsupported, "FEATURE_I30"},
		"inodes that lie":  {func(s *surgeon) { le.PutUint32(s.img[1024:], ^uint32(0)) }, errs.Corrupt, "inodes in"},
		"root is no dir":   {func(s *surgeon) { raw, _ := s.inode("/"); raw[1] = 0x81 }, errs.Corrupt, "root directory"},
		"groups elsewhere": {func(s *surgeon) { clear(s.img[2048:3072]) }, errs.Corrupt, "group 0"},
	} {
		s := operate(t, "ext4-plain")
		c.do(s)
		if _, err := s.open(); !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v: ...%s...", name, err, c.kind, c.want)
		}
	}
}

// A damaged journal is not passed over in silence, and need not keep anybody
// from the files.
func TestDamagedJournal(t *testing.T) {
	s := operate(t, "dirty-csum")
	at := -1
	for off := 0; off < len(s.img); off += 1024 {
		if b := s.img[off:]; binary.BigEndian.Uint32(b) == 0xc03b3998 && binary.BigEndian.Uint32(b[4:]) == 1 {
			at = off // the last descriptor, which follows the others
		}
	}
	s.img[at+1024+100] ^= 1 // in the first block that it lists
	_, err := s.open()
	if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "bad checksum of its copy of block") {
		t.Errorf("%v", err)
	}
	if _, err := fsread.Open(context.Background(), memory(t, s.img), fsread.Options{NoReplay: true}); err != nil {
		t.Errorf("without replay: %v", err)
	}
}

// Fast commits say what happened to files; until they are replayed they must
// not be forgotten.
func TestFastCommitsAreRefused(t *testing.T) {
	_, err := fsread.Open(context.Background(), memory(t, stored(t, "fast-commit")), fsread.Options{})
	if !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "fast_commit") {
		t.Errorf("%v", err)
	}
}

func TestEncrypted(t *testing.T) {
	fs, err := fsread.Open(context.Background(), memory(t, stored(t, "encrypted-4k")), fsread.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Lookup("/secret/name", true); !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("%v", err)
	}
	if n, err := fs.Lookup("/size-60", true); err != nil {
		t.Error(err)
	} else if _, err := fs.OpenFile(n); err != nil {
		t.Error(err)
	}
}

// Paths are followed as the kernel does, within the image.
func TestLookup(t *testing.T) {
	fs, err := fsread.Open(context.Background(), memory(t, stored(t, "ext4-plain")), fsread.Options{})
	if err != nil {
		t.Fatal(err)
	}
	same := func(path string, follow bool, want string) {
		t.Helper()
		a, err := fs.Lookup(path, follow)
		if err != nil {
			t.Error(err)
			return
		}
		b, err := fs.Lookup(want, false)
		if err != nil || a.Ino != b.Ino {
			t.Errorf("%s is inode %d, not %s (%v)", path, a.Ino, want, err)
		}
	}
	same("", true, "/")
	same("//a/./b/../../a//b/", true, "/a/b")
	same("../../..", true, "/")
	same("/long", true, "/a/b")
	same("/long/c", false, "/a/b/c")
	same("/a/short", true, "/size-60")
	same("/long/..", true, "/a")
	if n, err := fs.Lookup("/long", false); err != nil || n.Mode.Type() != ext4.TypeSymlink {
		t.Errorf("%+v, %v", n, err)
	}
	for path, kind := range map[string]errs.Kind{
		"/nosuch": errs.NotFound, "/a/nosuch/b": errs.NotFound, "/size-60/x": errs.NotFound, "/size-60/": errs.NotFound, "/loop": errs.Conflict,
	} {
		if _, err := fs.Lookup(path, true); !errs.Is(err, kind) || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// FuzzImage changes bytes all over an image. In images without checksums that
// reaches every decoder.
func FuzzImage(f *testing.F) {
	names := []string{"ext2-1k", "ext4-plain", "ext4-csum", "dirty-plain", "dirty-csum", "encrypted-4k", "fast-commit"}
	devs := make([]*mem.Device, len(names))
	for i, name := range names {
		devs[i] = memory(f, stored(f, name))
		f.Add(uint8(i), []byte{})
		for _, seed := range seeds(stored(f, name)) {
			f.Add(uint8(i), seed)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, patch []byte) {
		dev := devs[int(which)%len(devs)].Clone()
		// Each record is where (3 bytes), how many bytes, and these.
		for len(patch) > 4 {
			off, n := int64(patch[0])|int64(patch[1])<<8|int64(patch[2])<<16, min(int(patch[3])%16+1, len(patch)-4)
			if off+int64(n) <= dev.Size() {
				if _, err := dev.WriteAt(patch[4:4+n], off); err != nil {
					t.Fatal(err)
				}
			}
			patch = patch[4+n:]
		}
		fs, err := fsread.Open(t.Context(), &patient{dev, t, 1 << 20}, fsread.Options{CacheBytes: 64 << 10})
		if err != nil {
			if !errs.Is(err, errs.NotFound) {
				known(t, err)
			}
			return
		}
		everything(t, fs, fsread.WalkOptions{})
		if n, err := fs.Lookup("/long/../../a/short", true); err == nil {
			_, _ = fs.OpenFile(n)
		}
	})
}

// seeds change a byte at places that matter: near magic numbers and in the
// first blocks.
func seeds(img []byte) [][]byte {
	var out [][]byte
	add := func(off int, value ...byte) {
		out = append(out, append([]byte{byte(off), byte(off >> 8), byte(off >> 16), byte(len(value) - 1)}, value...))
	}
	for off := 1024; off < 1024+0x180; off += 4 {
		add(off, 0xff, 0xff)
	}
	for off := 0; off+1024 <= len(img) && len(out) < 400; off += 128 {
		b := img[off:]
		switch {
		case b[0] == 0x0a && b[1] == 0xf3, bytes.HasPrefix(b, []byte{0, 0, 2, 0xea}), bytes.HasPrefix(b, []byte{0xc0, 0x3b, 0x39, 0x98}):
			for i := 2; i < 40; i += 2 {
				add(off+i, 0xff, 0x7f)
			}
		case b[1] == 0x41 || b[1] == 0x81 || b[1] == 0xa1: // an inode
			for _, i := range []int{0, 4, 0x1a, 0x20, 0x28, 0x2a, 0x2c, 0x34, 0x58, 0x5c, 0x60, 0x68, 0x6c} {
				add(off+i, 0xf0, 1)
			}
		}
	}
	return out
}
