package fsdiff

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/fsread"
)

// stored unpacks an image of package ext4's testdata.
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

// patient counts reads, and ends the test when there are more than a comparison
// of so small images can need: somebody goes round in circles.
type patient struct {
	block.Device
	t    testing.TB
	left int
}

func (p *patient) ReadAt(b []byte, off int64) (int, error) {
	if p.left--; p.left < 0 {
		p.t.Fatal("the comparison does not come to an end")
	}
	return p.Device.ReadAt(b, off)
}

// patched is an image in which bytes were changed. Each record is where (3
// bytes), how many bytes, and these.
func patched(img, patch []byte) []byte {
	img = slices.Clone(img)
	for len(patch) > 4 {
		off, n := int(patch[0])|int(patch[1])<<8|int(patch[2])<<16, min(int(patch[3])%16+1, len(patch)-4)
		if off+n <= len(img) {
			copy(img[off:], patch[4:4+n])
		}
		patch = patch[4+n:]
	}
	return img
}

// open opens an image, nil if it is too damaged for that.
func open(t *testing.T, img []byte) *fsread.FS {
	t.Helper()
	dev := mem.New(int64(len(img)))
	if _, err := dev.WriteAt(img, 0); err != nil {
		t.Fatal(err)
	}
	fs, err := fsread.Open(t.Context(), &patient{dev, t, 1 << 20}, fsread.Options{CacheBytes: 64 << 10})
	if err != nil {
		return nil
	}
	return fs
}

// unequal returns where two images differ, by blocks of 1 KiB.
func unequal(a, b []byte) fsread.Ranges {
	out := fsread.Ranges{}
	for off := 0; off < len(a); off += 1024 {
		if !bytes.Equal(a[off:off+1024], b[off:off+1024]) {
			out = append(out, fsread.Range{Off: int64(off), Len: 1024})
		}
	}
	return out
}

// outcome is what a comparison found, and what it could not read.
func outcome(t *testing.T, a, b *fsread.FS, o Options) (changes []string, unreadable int) {
	t.Helper()
	o.Unreadable = func(err error) error {
		if !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Unsupported) {
			t.Errorf("an error of kind %v: %v", errs.KindOf(err), err)
		}
		unreadable++
		return nil
	}
	err := Diff(context.Background(), a, b, "/", "/", o, func(c *Change) error {
		changes = append(changes, string(c.Kind)+" "+c.From+" "+c.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(changes)
	return changes, unreadable
}

// FuzzPair compares images in which bytes were changed, each in its own way.
// Nothing may panic or go round in circles, and what is known of where they differ
// may save reading, but not change the answer: not even of damaged images.
func FuzzPair(f *testing.F) {
	names := []string{"ext2-1k", "ext4-plain", "ext4-csum", "dirty-plain", "dirty-csum"}
	images := make([][]byte, len(names))
	for i, name := range names {
		images[i] = stored(f, name)
		f.Add(uint8(i), []byte{}, []byte{})
		for off := 1024; off < 1024+0x180; off += 32 { // the superblock
			f.Add(uint8(i), []byte{}, []byte{byte(off), byte(off >> 8), 0, 1, 0xff, 0x7f})
		}
		inodes := 0 // in images without checksums, which would find them out
		for off := 0; off+128 <= len(images[i]) && inodes < 6 && !strings.HasSuffix(name, "csum"); off += 128 {
			if b := images[i][off:]; b[1] != 0x41 && b[1] != 0x81 && b[1] != 0xa1 {
				continue // no inode
			}
			inodes++
			for _, at := range []int{0, 4, 0x20, 0x28, 0x34, 0x68} {
				at += off
				f.Add(uint8(i), []byte{}, []byte{byte(at), byte(at >> 8), byte(at >> 16), 1, 0xf0, 1})
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, patchA, patchB []byte) {
		img := images[int(which)%len(images)]
		imgA, imgB := patched(img, patchA), patched(img, patchB)
		a, b := open(t, imgA), open(t, imgB)
		if a == nil || b == nil {
			return
		}
		known, lacking := outcome(t, a, b, Options{Changed: unequal(imgA, imgB)})
		all, lackingAll := outcome(t, a, b, Options{})
		// What is the same in both, and damaged, only the second has looked at.
		if lacking > lackingAll {
			t.Errorf("%d things could not be read where it is known where to look, %d else", lacking, lackingAll)
		}
		if lackingAll == 0 && !slices.Equal(known, all) {
			t.Errorf("found\n%q\nwhere it is known where to look, else\n%q", known, all)
		}
		if _, n := outcome(t, a, b, Options{Quick: true}); n > lackingAll {
			t.Errorf("%d things could not be read in haste, %d else", n, lackingAll)
		}
	})
}
