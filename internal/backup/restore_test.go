package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// backedUp returns a group with a volume "v" of 3 MiB, its image, and what
// is in it.
func backedUp(t *testing.T, seed uint64) (g *fakeGroup, image string, want []byte) {
	t.Helper()
	g = newGroup(t)
	vol := g.volumeOf("v", 3*mib, seed)
	r, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return g, r.Image, content(t, vol.dev)
}

// target makes a volume full of what must not survive a restore.
func (g *fakeGroup) target(name string, size int64) *fakeLV {
	g.t.Helper()
	dev := mem.New(size)
	if _, err := dev.WriteAt(bytes.Repeat([]byte{0xee}, int(size)), 0); err != nil {
		g.t.Fatal(err)
	}
	return g.add(name, dev)
}

// untouched tells whether target is as target made it.
func untouched(t *testing.T, vol *fakeLV) bool {
	t.Helper()
	return len(bytes.Trim(content(t, vol.dev), "\xee")) == 0
}

func TestRestore(t *testing.T) {
	g, image, want := backedUp(t, seed(t))
	exact, larger := g.target("exact", 3*mib), g.target("larger", 5*mib)
	r, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "exact"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, exact.dev), want) {
		t.Error("the volume does not hold the image")
	}
	if !r.ImageVerified || !r.Verified || r.UntouchedBytes != 0 || len(r.Notes) > 0 {
		t.Errorf("report %+v", r)
	}
	if r, err = Restore(ctx, g, RestoreOptions{Image: image, LV: "larger"}); err != nil {
		t.Fatal(err)
	}
	got := content(t, larger.dev)
	if !bytes.Equal(got[:3*mib], want) || len(bytes.Trim(got[3*mib:], "\xee")) > 0 {
		t.Error("a larger volume does not hold the image and, behind it, what it held before")
	}
	if r.UntouchedBytes != 2*mib {
		t.Errorf("%d bytes reported as untouched", r.UntouchedBytes)
	}
	if exact.opens+larger.opens > 0 {
		t.Error("a target is still open")
	}
}

// The image goes onto its own origin again: the usual case after an accident.
func TestRestoreOverOrigin(t *testing.T) {
	g, image, want := backedUp(t, 5)
	vol := g.vols["v"]
	g.snapshot(volume.SnapshotSpec{Origin: "v", Name: "before", Size: volume.Size{Bytes: 256 << 10}})
	if _, err := vol.dev.WriteAt([]byte("an accident"), 12345); err != nil {
		t.Fatal(err)
	}
	r, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "v"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, vol.dev), want) {
		t.Error("the volume is not what it was")
	}
	notes := strings.Join(r.Notes, "\n")
	if !strings.Contains(notes, "vg-0/before is a snapshot") || !strings.Contains(notes, "vg-0/before has overflowed") {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestRestoreRefuses(t *testing.T) {
	g, image, _ := backedUp(t, 6)
	small, busy, ro, merging := g.target("small", 2*mib), g.target("busy", 4*mib), g.target("ro", 4*mib), g.target("merging", 4*mib)
	holder, err := g.Open(ctx, "busy", true)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	c, err := g.vg.SetReadOnly("ro", true)
	if err != nil {
		t.Fatal(err)
	}
	g.vg = c.Group
	g.snapshot(volume.SnapshotSpec{Origin: "merging", Name: "ms"})
	if c, err = g.vg.StartMerge(volume.MergeSpec{Name: "ms"}); err != nil {
		t.Fatal(err)
	}
	g.vg = c.Group
	for lv, want := range map[string]struct {
		kind errs.Kind
		text string
	}{
		"small":   {errs.NoSpace, "does not fit"},
		"busy":    {errs.Busy, "in use"},
		"ro":      {errs.Conflict, "read-only"},
		"merging": {errs.Conflict, "merged"},
		"nosuch":  {errs.NotFound, "nosuch"},
	} {
		_, err := Restore(ctx, g, RestoreOptions{Image: image, LV: lv, Force: true})
		if !errs.Is(err, want.kind) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v", lv, err)
		}
	}
	for _, vol := range []*fakeLV{small, busy, ro, merging} {
		if !untouched(t, vol) {
			t.Error("a refused target was written to")
		}
	}
}

// Somebody opens the target between the look at it and the first write.
func TestRestoreRace(t *testing.T) {
	g, image, _ := backedUp(t, 6)
	vol := g.target("w", 3*mib)
	g.wrap = func(name string, d block.Device) block.Device { vol.opens++; return d }
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"}); !errs.Is(err, errs.Busy) {
		t.Error(err)
	}
	if !untouched(t, vol) {
		t.Error("a volume in use was written to")
	}
}

// A single flipped bit anywhere in the image is found, named by where it is,
// and keeps the restore from writing a byte.
func TestFlippedImage(t *testing.T) {
	g, image, _ := backedUp(t, 7)
	vol := g.target("w", 3*mib)
	rng := rand.New(rand.NewPCG(seed(t), 0))
	good, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	offsets := []int64{0, 1, 4095, 4096, mib - 1, mib, 3*mib - 1}
	for range 40 {
		offsets = append(offsets, rng.Int64N(3*mib))
	}
	for _, off := range offsets {
		flip(t, image, off, 1<<rng.IntN(8))
		v, err := Verify(ctx, image, Reporter{})
		if !errs.Is(err, errs.Corrupt) || v.Good || len(v.Damage) != 1 || off < v.Damage[0].Off || off >= v.Damage[0].Off+v.Damage[0].Len {
			t.Fatalf("byte %d flipped: %+v, %v", off, v, err)
		}
		if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"}); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), image) {
			t.Fatalf("byte %d flipped: restore says %v", off, err)
		}
		if err := os.WriteFile(image, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int64{"short": 3*mib - 512, "long": 3*mib + 512} {
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"}); !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.NoSpace) {
			t.Errorf("%s image: %v", name, err)
		}
		if _, err := Verify(ctx, image, Reporter{}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s image: %v", name, err)
		}
		if err := os.WriteFile(image, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !untouched(t, vol) {
		t.Error("a damaged image was written")
	}
}

// Any bit of manifest and checksum file.
func TestFlippedSidecars(t *testing.T) {
	g, image, _ := backedUp(t, 8)
	vol := g.target("w", 3*mib)
	for _, path := range []string{image + ".json", image + ".sha256"} {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for off := range good {
			flip(t, path, int64(off), 1<<(off%8))
			if _, err := Verify(ctx, image, Reporter{}); !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Fatalf("byte %d of %s flipped: %v", off, path, err)
			}
			if strings.HasSuffix(path, ".json") && off%16 == 0 {
				if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"}); !errs.Is(err, errs.Corrupt) {
					t.Fatalf("byte %d of %s flipped: restore says %v", off, path, err)
				}
			}
			flip(t, path, int64(off), 1<<(off%8))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(ctx, image, Reporter{}); !errs.Is(err, errs.NotFound) {
			t.Errorf("without %s: %v", path, err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !untouched(t, vol) {
		t.Error("an image with a damaged manifest was written")
	}
}

func flip(t *testing.T, path string, off int64, mask byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= mask
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// Forced, a doubtful image is written as it is, and the volume still compared
// with it.
func TestForce(t *testing.T) {
	g, image, want := backedUp(t, 9)
	vol := g.target("w", 3*mib)
	flip(t, image, 2*mib, 1)
	want[2*mib] ^= 1
	r, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w", Force: true})
	if err != nil || r.ImageVerified || !r.Verified || len(r.Notes) == 0 || !strings.Contains(r.Notes[0], "damaged") {
		t.Fatalf("damaged: %+v, %v", r, err)
	}
	if !bytes.Equal(content(t, vol.dev), want) {
		t.Error("the volume does not hold the image as it is")
	}
	if err := os.Remove(image + ".json"); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"}); !errs.Is(err, errs.NotFound) || !strings.Contains(errs.HintOf(err), "--force") {
		t.Errorf("no manifest: %v (%s)", err, errs.HintOf(err))
	}
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w", Force: true}); err != nil {
		t.Errorf("no manifest, forced: %v", err)
	}
}

// The target fails at its n-th operation: the error says what state it is in.
func TestTargetVolumeFails(t *testing.T) {
	g, image, _ := backedUp(t, 10)
	g.target("w", 3*mib)
	for n := int64(1); ; n++ {
		fault := &nth{n: n, err: syscall.EIO}
		g.wrap = func(_ string, d block.Device) block.Device {
			return &hooked{d, func(op string, _ int64) error { return fault.hit(op) }}
		}
		_, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"})
		if !fault.fired() {
			if err != nil || n < 8 {
				t.Fatalf("after %d operations without a fault: %v", n-1, err)
			}
			return
		}
		// A read fault shows as damage that names it.
		if err == nil || !errors.Is(err, syscall.EIO) && !strings.Contains(err.Error(), syscall.EIO.Error()) || !strings.Contains(errs.HintOf(err), "mixture") {
			t.Errorf("fault %d: %v (%s)", n, err, errs.HintOf(err))
		}
	}
}

// A volume that does not hold what was written to it.
func TestRestoreReadsBack(t *testing.T) {
	g, image, _ := backedUp(t, 11)
	vol := g.target("w", 3*mib)
	g.wrap = func(_ string, d block.Device) block.Device {
		return &hooked{d, func(op string, _ int64) error {
			if op == "flush" {
				_, err := vol.dev.WriteAt([]byte{1, 2, 3, 4}, 12345)
				return err
			}
			return nil
		}}
	}
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w"}); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "read back") {
		t.Error(err)
	}
}

// Restoring into a snapshot fills its store.
func TestRestoreIntoSnapshot(t *testing.T) {
	g, image, want := backedUp(t, 12)
	g.target("w", 3*mib)
	g.snapshot(volume.SnapshotSpec{Origin: "w", Name: "roomy"})
	g.snapshot(volume.SnapshotSpec{Origin: "w", Name: "tight", Size: volume.Size{Bytes: 256 << 10}})
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "roomy"}); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(content(t, g.vols["roomy"].dev), want) || !untouched(t, g.vols["w"]) {
		t.Error("the snapshot does not hold the image, or its origin was written to")
	}
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "tight"}); err == nil {
		t.Error("a restore into a snapshot that overflows must fail")
	}
}

func TestRestoreCancelled(t *testing.T) {
	g, image, _ := backedUp(t, 13)
	vol := g.target("w", 3*mib)
	for n := 1; n < 12; n++ {
		c, cancel := context.WithCancel(ctx)
		ops := 0
		_, err := Restore(c, g, RestoreOptions{Image: image, LV: "w", Reporter: Reporter{Progress: func(p Phase, _, _ int64) {
			if p == Verifying || p == Writing { // one goroutine each
				if ops++; ops == n {
					cancel()
				}
			}
		}}})
		if c.Err() != nil && !errors.Is(err, context.Canceled) && !(errors.Is(err, ErrInterrupted) && strings.Contains(errs.HintOf(err), "mixture")) {
			t.Errorf("cancelled at %d: %v", n, err)
		}
		if vol.opens > 0 {
			t.Fatal("the target is still open")
		}
		cancel()
	}
}

// A tar image holds files, and must not be written over a volume.
func TestRestoreOfTar(t *testing.T) {
	g, image, _ := backedUp(t, 14)
	vol := g.target("w", 3*mib)
	m, _, err := readManifest(image)
	if err != nil {
		t.Fatal(err)
	}
	m.Image.Format = Tar
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image+".json", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "w", Force: true}); !errs.Is(err, errs.Unsupported) || !untouched(t, vol) {
		t.Error(err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	m := &Manifest{Format: manifestFormat, Version: manifestVersion, Image: Image{
		File: "x.raw", Format: Raw, Bytes: RangeBytes + 1, RangeBytes: RangeBytes,
		SHA256: strings.Repeat("a", 64), Ranges: []string{zeroRange, strings.Repeat("0", 64)},
	}}
	text, err := m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text[:len(text)-tailLength])
	f.Add([]byte("{}"))
	// The checksum keeps a fuzzer out: it is put under whatever it makes.
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := DecodeManifest(body); err == nil && !bytes.HasSuffix(body, []byte("\"\n}\n")) {
			t.Error("accepted without a checksum")
		}
		m, err := DecodeManifest(sealed(body))
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeManifest(again); err != nil {
			t.Fatalf("does not read its own writing: %v", err)
		}
	})
}

// sealed puts the right checksum under a body.
func sealed(body []byte) []byte {
	h := newRangeHash(1 << 40)
	h.addRun(body, int64(len(body)), false)
	sum := strings.Repeat("0", 64)
	if s := h.sums(); len(s) == 1 {
		sum = s[0]
	}
	return fmt.Appendf(bytes.Clone(body), ",\n  \"checksum\": \"sha256:%s\"\n}\n", sum)
}

func TestManifestLies(t *testing.T) {
	good := Manifest{Format: manifestFormat, Version: manifestVersion, Image: Image{
		File: "x.raw", Format: Raw, Bytes: 3 * mib, RangeBytes: mib,
		SHA256: strings.Repeat("a", 64), Ranges: []string{zeroRange, zeroRange, strings.Repeat("0", 64)},
	}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*Manifest){
		"format":       func(m *Manifest) { m.Format = "cowl manifesto" },
		"version":      func(m *Manifest) { m.Version = 2 },
		"image format": func(m *Manifest) { m.Image.Format = "zip" },
		"size":         func(m *Manifest) { m.Image.Bytes = -1 },
		"range size":   func(m *Manifest) { m.Image.RangeBytes = 0 },
		"fewer ranges": func(m *Manifest) { m.Image.Ranges = m.Image.Ranges[:2] },
		"huge":         func(m *Manifest) { m.Image.Bytes = 1<<63 - 1 },
		"path":         func(m *Manifest) { m.Image.File = "../x.raw" },
		"digest":       func(m *Manifest) { m.Image.SHA256 = strings.Repeat("A", 64) },
		"range digest": func(m *Manifest) { m.Image.Ranges = []string{zeroRange, "", zeroRange} },
	} {
		m := good
		lie(&m)
		text, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeManifest(text); !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Unsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
