package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cowl/internal/backup/repo"
	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
)

// checkedRangeBytes is what a range of a test's image has.
const checkedRangeBytes = 4 * mib

// checkable writes an image of several ranges with a manifest, the third of
// which is a hole, and opens it.
func checkable(t *testing.T) (path string, content []byte, open func() block.Device) {
	t.Helper()
	const size = 3*checkedRangeBytes + mib
	path = filepath.Join(t.TempDir(), "vg-lv.raw")
	content = make([]byte, size)
	for _, at := range []int{0, checkedRangeBytes - 4096, checkedRangeBytes + 2*mib, size - 4096} {
		copy(content[at:], bytes.Repeat([]byte("data "), 800))
	}
	dev, err := file.Create(path, size)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, _, err = copyDevice(ctx, sparse(t, content), size, &fileSink{w: dev}, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	m := &Manifest{Format: manifestFormat, Version: manifestVersion, Image: Image{
		File: filepath.Base(path), Format: Raw, Bytes: size, SHA256: hex.EncodeToString(sum[:]), RangeBytes: checkedRangeBytes,
	}}
	for off := int64(0); off < size; off += checkedRangeBytes {
		hash, err := hashRange(ctx, dev, off, min(checkedRangeBytes, size-off), make([]byte, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		m.Image.Ranges = append(m.Image.Ranges, hash)
	}
	text, err := m.Encode()
	if err == nil {
		err = os.WriteFile(path+manifestSuffix, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, content, func() block.Device {
		dev, checked, err := OpenImage(path, false)
		if err != nil || !checked {
			t.Fatalf("checked: %t, %v", checked, err)
		}
		t.Cleanup(func() { dev.Close() })
		return dev
	}
}

// damage changes a file's bytes at a place.
func damage(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b, off)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An image reads as it was written, where nothing is damaged.
func TestChecked(t *testing.T) {
	_, content, open := checkable(t)
	dev := open()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got := make([]byte, len(content))
			if _, err := dev.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the image reads otherwise (%v)", err)
			}
		})
	}
	wg.Wait()
	var data int64
	for e, err := range dev.Extents(0, dev.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == block.Data {
			data += e.Len
		}
	}
	if data == 0 || data > 8*mib {
		t.Errorf("%d bytes are told to be data", data)
	}
	if _, err := dev.WriteAt([]byte{1}, 0); !errors.Is(err, block.ErrReadOnly) {
		t.Errorf("a write: %v", err)
	}
}

// A bit that flipped, and data that became a hole: of the range that they are in
// nobody is told anything, the others are as they were.
func TestCheckedFindsDamage(t *testing.T) {
	for name, hurt := range map[string]func(t *testing.T, path string){
		"a bit": func(t *testing.T, path string) { damage(t, path, checkedRangeBytes+2*mib+77, []byte{'x'}) },
		"zeroes instead of data": func(t *testing.T, path string) {
			damage(t, path, checkedRangeBytes+2*mib, make([]byte, 4096))
		},
		"data in a hole": func(t *testing.T, path string) { damage(t, path, checkedRangeBytes+3*mib, []byte{1}) },
	} {
		t.Run(name, func(t *testing.T) {
			path, content, open := checkable(t)
			hurt(t, path)
			dev := open()
			for off := int64(0); off < dev.Size(); off += checkedRangeBytes / 2 {
				got := make([]byte, min(4096, dev.Size()-off))
				_, err := dev.ReadAt(got, off)
				var mapErr error
				for _, err := range dev.Extents(off, 4096) {
					mapErr = errors.Join(mapErr, err)
				}
				if bad := off/checkedRangeBytes == 1; bad {
					for _, err := range []error{err, mapErr} {
						if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "bytes 4194304 to 8388607") {
							t.Errorf("at %d: %v", off, err)
						}
					}
				} else if err != nil || mapErr != nil || !bytes.Equal(got, content[off:][:len(got)]) {
					t.Errorf("at %d, beside the damage: %v, %v", off, err, mapErr)
				}
			}
			if _, err := dev.ReadAt(make([]byte, 2), checkedRangeBytes-1); !errs.Is(err, errs.Corrupt) {
				t.Errorf("a read into the damage: %v", err)
			}
		})
	}
}

func TestOpenImageRefuses(t *testing.T) {
	path, _, _ := checkable(t)
	refused := func(what string, kind errs.Kind) {
		t.Helper()
		if dev, _, err := OpenImage(path, false); !errs.Is(err, kind) {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				dev.Close()
			}
		}
	}
	accepted := func(what string, unchecked bool) {
		t.Helper()
		dev, checked, err := OpenImage(path, unchecked)
		if err != nil || checked {
			t.Fatalf("%s: checked: %t, %v", what, checked, err)
		}
		dev.Close()
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	refused("an image that is cut off", errs.Corrupt)
	accepted("the same, unchecked", true)
	damage(t, path+manifestSuffix, 10, []byte("!"))
	refused("a manifest that is damaged", errs.Corrupt)
	accepted("the same, unchecked", true)
	if err := os.Remove(path + manifestSuffix); err != nil {
		t.Fatal(err)
	}
	accepted("an image without a manifest", false)
	damage(t, path, 257, []byte("ustar"))
	refused("an archive", errs.Unsupported)
	damage(t, path, 0, []byte("\x1f\x8b"))
	refused("what is compressed", errs.Unsupported)
}

// What differs is marked, whatever holds the two, and what is not marked is the
// same.
func TestAgainst(t *testing.T) {
	const size = 40 * mib
	rng := blocktest.Seed(t)
	old := make([]byte, size)
	for i := 0; i < size; i += 3 * mib {
		copy(old[i:], bytes.Repeat([]byte{byte(rng>>8) | 1}, 200<<10))
	}
	now := bytes.Clone(old)
	for _, at := range []int{5, 7*mib - 3, 12 * mib, size - 1} {
		now[at] ^= 0xff
	}
	clear(now[18*mib : 19*mib])
	longer := append(bytes.Clone(now), make([]byte, mib)...)

	r, _ := repository(t)
	image := func(content []byte) block.Device {
		b, err := r.Store(ctx, repo.Source{Dev: sparse(t, content)}, &repo.Record{Tool: "test", Source: repo.Origin{VG: "vg", LV: "lv", VGUUID: "vg-uuid", LVUUID: "lv-uuid"},
			Snapshot: repo.Snapshot{LV: "s", LVUUID: "snapshot-uuid", Time: time.Now()}, Started: time.Now(),
			Image: repo.ImageInfo{File: "vg-lv.raw"}}, nil, repo.StoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := r.Image(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	tests := []struct {
		name       string
		dev, other block.Device
		a, b       []byte
		most       int64 // that may be marked
	}{
		{"two devices", sparse(t, now), sparse(t, old), now, old, 2 * mib},
		{"one repository", image(now), image(old), now, old, 2 * mib},
		{"a repository and a device", image(now), sparse(t, old), now, old, 2 * mib},
		{"one that has grown", sparse(t, longer), sparse(t, old), longer, old, 3 * mib},
		{"one that has grown, in a repository", image(longer), image(old), longer, old, 3 * mib},
		{"one that was larger", sparse(t, now), sparse(t, longer), now, longer, 2 * mib},
		{"the same", image(now), image(now), now, now, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runs, err := Against(ctx, tt.dev, tt.other)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range [][2]int64{{0, tt.dev.Size()}, {3, 4096}, {7*mib - 4, 2}, {tt.dev.Size() - 1, 1}} {
				at, marked := r[0], int64(0)
				for run, err := range runs(r[0], r[1]) {
					if err != nil || run.Off != at || run.Len <= 0 {
						t.Fatalf("run %+v, %v, expected at %d", run, err, at)
					}
					at += run.Len
					if run.Marked {
						marked += run.Len
					} else if at > int64(len(tt.b)) || !bytes.Equal(tt.a[run.Off:at], tt.b[run.Off:at]) {
						t.Errorf("run %+v differs and is not marked", run)
					}
				}
				if at != r[0]+r[1] || marked > tt.most {
					t.Errorf("range %v ends at %d, %d marked", r, at, marked)
				}
			}
		})
	}
}

// sparse is a device with the content, and holes where that is zero.
func sparse(t *testing.T, content []byte) block.Device {
	t.Helper()
	dev := mem.New(int64(len(content)))
	for from, to := range dataRuns(content) {
		if _, err := dev.WriteAt(content[from:to], int64(from)); err != nil {
			t.Fatal(err)
		}
	}
	return dev
}
