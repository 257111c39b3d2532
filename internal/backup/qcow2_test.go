package backup

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/format/qcow2"
	"cowl/internal/judge"
)

// odd returns a device with data of all kinds at places that no cluster begins at.
func odd(t *testing.T, rng *rand.Rand, size int64) *mem.Device {
	t.Helper()
	dev := mem.New(size)
	for range 40 {
		b := make([]byte, 1+rng.IntN(300<<10))
		if rng.IntN(2) == 0 {
			copy(b, bytes.Repeat([]byte("text of a volume. "), len(b)/18+1))
		} else {
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
		}
		if _, err := dev.WriteAt(b, rng.Int64N(size-int64(len(b)))); err != nil {
			t.Fatal(err)
		}
	}
	return dev
}

func runTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A qcow2 image is what qemu takes for one, holds the volume, is described by
// its manifest, and comes back.
func TestQcow2(t *testing.T) {
	judge.Need(t, "qemu-img")
	judge.Need(t, "sha256sum")
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for _, how := range []Compression{"", Zlib, Zstd} {
		for _, size := range []int64{64 << 10, 7*mib + 64<<10, 70 * mib} {
			if size > 64*mib && how != Zstd { // two ranges, once
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", how, size), func(t *testing.T) {
				g, dir := newGroup(t), t.TempDir()
				dev := mem.New(size)
				if size > mib {
					dev = odd(t, rng, size)
				}
				g.add("v", dev)
				want := content(t, dev)
				r, err := Run(ctx, g, Options{LV: "v", Dir: dir, Format: Qcow2, Compress: how})
				if err != nil {
					t.Fatal(err)
				}
				raw := filepath.Join(t.TempDir(), "raw")
				if err := os.WriteFile(raw, want, 0o600); err != nil {
					t.Fatal(err)
				}
				runTool(t, "qemu-img", "check", "-f", "qcow2", r.Image)
				runTool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", r.Image, raw)
				sums := exec.Command("sha256sum", "-c", r.Checksums)
				sums.Dir = dir
				if out, err := sums.CombinedOutput(); err != nil {
					t.Errorf("sha256sum -c: %v\n%s", err, out)
				}
				if _, err := Verify(ctx, r.Image, Reporter{}); err != nil {
					t.Error(err)
				}
				list, err := ListDir(dir)
				if err != nil || len(list) != 1 || list[0].Format != Qcow2 || list[0].Bytes != size || list[0].Fault != "" {
					t.Errorf("listed as %+v (%v)", list, err)
				}
				if size > mib {
					back := g.target("back", size)
					if rr, err := Restore(ctx, g, RestoreOptions{Image: r.Image, LV: "back"}); err != nil || !rr.ImageVerified || rr.ImageBytes != size {
						t.Fatalf("restore: %+v, %v", rr, err)
					}
					if !bytes.Equal(content(t, back.dev), want) {
						t.Error("the volume came back otherwise")
					}
				}
				if d, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: t.TempDir()}); err != nil || !d.Good || d.Bytes != size {
					t.Errorf("drill: %+v, %v", d, err)
				}
			})
		}
	}
}

// Clusters without data have no place in the image, wherever extents begin.
func TestQcow2KeepsHoles(t *testing.T) {
	g := newGroup(t)
	dev := mem.New(1 << 30)
	for _, off := range []int64{0, 100 * mib, 500*mib + 4096, 1<<30 - 4096} {
		if _, err := dev.WriteAt(bytes.Repeat([]byte{1}, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	g.add("v", dev)
	r, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Qcow2})
	if err != nil {
		t.Fatal(err)
	}
	// 4 clusters, 2 second-level tables, header, first level, counts and their table.
	if want := int64(10 * qcow2.ClusterBytes); r.ImageBytes != want {
		t.Errorf("the image has %d bytes, want %d", r.ImageBytes, want)
	}
	if r.ReadBytes > 4*qcow2.ClusterBytes || r.DataBytes != 4*4096 {
		t.Errorf("%d bytes read, %d of data", r.ReadBytes, r.DataBytes)
	}
}

// A target that fails at any operation leaves nothing, whatever the format.
func TestQcow2TargetFails(t *testing.T) {
	g := newGroup(t)
	g.add("v", odd(t, rand.New(rand.NewPCG(1, 1)), 6*mib))
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		fault := &nth{n: n, err: syscall.ENOSPC}
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir, Format: Qcow2, Compress: Zlib, open: func(path string) (outputFile, error) {
			f, err := openPartial(path)
			return &faultyFile{f, fault.hit}, err
		}})
		if !fault.fired() {
			if err != nil || n < 8 {
				t.Fatalf("after %d operations without a fault: %v", n-1, err)
			}
			return
		}
		if !errs.Is(err, errs.NoSpace) {
			t.Errorf("fault %d: error is %v", n, err)
		}
		nothingLeft(t, g, dir)
	}
}

// So does a source.
func TestQcow2SourceFails(t *testing.T) {
	g := newGroup(t)
	g.add("v", odd(t, rand.New(rand.NewPCG(2, 2)), 20*mib))
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		fault := &nth{n: n, err: syscall.EIO}
		g.wrap = func(_ string, d block.Device) block.Device {
			return &hooked{d, func(op string, _ int64) error { return fault.hit(op) }}
		}
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir, Format: Qcow2, Compress: Zstd})
		if !fault.fired() {
			if err != nil || n < 5 {
				t.Fatalf("after %d operations without a fault: %v", n-1, err)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("fault %d: error is %v", n, err)
		}
		nothingLeft(t, g, dir)
	}
}

// A disk that returns other bytes than were written to it is found out before the
// image has its name: in the header, in tables, in data.
func TestQcow2ReadsBackOtherwise(t *testing.T) {
	g := newGroup(t)
	g.add("v", odd(t, rand.New(rand.NewPCG(3, 3)), 6*mib))
	r, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Qcow2, Compress: Zstd})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 25, 200, qcow2.ClusterBytes, r.ImageBytes / 2, r.ImageBytes - 1, r.ImageBytes - qcow2.ClusterBytes} {
		dir := t.TempDir()
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir, Format: Qcow2, Compress: Zstd, open: func(path string) (outputFile, error) {
			f, err := openPartial(path)
			return &faultyFile{f, func(op string) error {
				if op == "sync" {
					return flipByte(path, at)
				}
				return nil
			}}, err
		}})
		if !errs.Is(err, errs.Corrupt) || !strings.Contains(errs.HintOf(err), "target disk") {
			t.Errorf("byte %d: %v", at, err)
		}
		nothingLeft(t, g, dir)
	}
}

func flipByte(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	return err
}

// A flipped byte anywhere is found by verify, and nothing is overwritten with it.
func TestQcow2Damaged(t *testing.T) {
	g := newGroup(t)
	g.add("v", odd(t, rand.New(rand.NewPCG(4, 4)), 6*mib))
	r, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Qcow2, Compress: Zlib})
	if err != nil {
		t.Fatal(err)
	}
	target := g.target("target", 6*mib)
	for at := int64(0); at < r.ImageBytes; at += r.ImageBytes / 11 {
		if err := flipByte(r.Image, at); err != nil {
			t.Fatal(err)
		}
		if v, err := Verify(ctx, r.Image, Reporter{}); !errs.Is(err, errs.Corrupt) || len(v.Damage) != 1 || v.Damage[0].Off > at || v.Damage[0].Off+v.Damage[0].Len <= at {
			t.Errorf("byte %d flipped: %v", at, err)
		}
		if _, err := Restore(ctx, g, RestoreOptions{Image: r.Image, LV: "target"}); err == nil || !untouched(t, target) {
			t.Errorf("byte %d flipped: restored (%v)", at, err)
		}
		if d, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: t.TempDir()}); at > qcow2.ClusterBytes && at < r.ImageBytes/2 && (err == nil || d.Good) {
			t.Errorf("byte %d flipped: the drill is good", at)
		}
		if err := flipByte(r.Image, at); err != nil {
			t.Fatal(err)
		}
	}
}

// An image of qemu's own, without a manifest, is restored for what it holds and
// not for its bytes; one that is a part of another is not restored at all.
func TestQcow2FromElsewhere(t *testing.T) {
	judge.Need(t, "qemu-img")
	g, dir := newGroup(t), t.TempDir()
	dev := odd(t, rand.New(rand.NewPCG(5, 5)), 6*mib)
	raw, image, part := filepath.Join(dir, "raw"), filepath.Join(dir, "disk.img"), filepath.Join(dir, "part.qcow2")
	if err := os.WriteFile(raw, content(t, dev), 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, "qemu-img", "convert", "-c", "-O", "qcow2", raw, image)
	runTool(t, "qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", image, part)
	target := g.target("target", 6*mib)
	if _, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "target"}); err == nil || !untouched(t, target) {
		t.Errorf("without --force: %v", err)
	}
	if _, err := Restore(ctx, g, RestoreOptions{Image: part, LV: "target", Force: true}); !errs.Is(err, errs.Unsupported) || !strings.Contains(errs.HintOf(err), "qemu-img convert") || !untouched(t, target) {
		t.Errorf("a part: %v", err)
	}
	r, err := Restore(ctx, g, RestoreOptions{Image: image, LV: "target", Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, target.dev), content(t, dev)) || !strings.Contains(strings.Join(r.Notes, "\n"), "read as one") {
		t.Errorf("notes %q", r.Notes)
	}
}
