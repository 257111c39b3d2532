package backup

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/fsread/fstree"
	"cowl/internal/judge"
)

// smallFS is a group with a volume "v" that holds an ext4 with a few files, some
// of which do not compress.
func smallFS(t *testing.T) *fakeGroup {
	t.Helper()
	tree := t.TempDir()
	noise := make([]byte, 3*mib)
	rng := rand.NewChaCha8([32]byte{7})
	rng.Read(noise)
	for name, data := range map[string][]byte{"noise": noise, "text": []byte(strings.Repeat("one line of many\n", 50_000)), "empty": nil} {
		if err := os.WriteFile(filepath.Join(tree, name), data, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	image := fstree.Image(t, 16*mib, "-t", "ext4", "-d", tree)
	dev, err := file.Open(image, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	g := newGroup(t)
	g.add("v", dev)
	return g
}

// A compressed archive is what gzip and zstd take for one, holds the archive that
// is made without compression, is described by its manifest, and a damaged byte in
// it is found.
func TestPackedArchive(t *testing.T) {
	judge.Need(t, "tar", "gzip", "zstd", "sha256sum")
	g := smallFS(t)
	plain, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Tar})
	if err != nil {
		t.Fatal(err)
	}
	for how, c := range map[Compression]struct{ ending, tool string }{Gzip: {".tar.gz", "gzip"}, Zstd: {".tar.zst", "zstd"}} {
		t.Run(string(how), func(t *testing.T) {
			dir := t.TempDir()
			r, err := Run(ctx, g, Options{LV: "v", Dir: dir, Format: Tar, Compress: how})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(r.Image, c.ending) || r.Files != plain.Files || r.ReadBytes != plain.ReadBytes || r.ImageBytes >= plain.ImageBytes {
				t.Errorf("report %+v, without compression %+v", r, plain)
			}
			runTool(t, "sh", "-c", c.tool+" -dc '"+r.Image+"' | cmp - '"+plain.Image+"'")
			sums := exec.Command("sha256sum", "-c", r.Checksums)
			sums.Dir = dir
			if out, err := sums.CombinedOutput(); err != nil {
				t.Errorf("sha256sum -c: %v\n%s", err, out)
			}
			list, err := ListDir(dir)
			if err != nil || len(list) != 1 || list[0].Format != Tar || list[0].Bytes != plain.ImageBytes || list[0].Fault != "" {
				t.Errorf("listed as %+v (%v)", list, err)
			}
			if d, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: t.TempDir()}); err != nil || !d.Good {
				t.Errorf("drill: %+v, %v", d, err)
			}
			v, err := Verify(ctx, r.Image, Reporter{})
			if err != nil {
				t.Fatal(err)
			}
			if c := v.Manifest.Image.Content; c == nil || c.SHA256 != plain.SHA256 {
				t.Errorf("the manifest says of the archive %+v, want %s", c, plain.SHA256)
			}
			for _, at := range []int64{0, r.ImageBytes / 2, r.ImageBytes - 1} {
				if err := flipByte(r.Image, at); err != nil {
					t.Fatal(err)
				}
				if _, err := Verify(ctx, r.Image, Reporter{}); !errs.Is(err, errs.Corrupt) {
					t.Errorf("byte %d: %v", at, err)
				}
				if d, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: t.TempDir()}); !errs.Is(err, errs.Corrupt) || d.Good {
					t.Errorf("byte %d: drill: %+v, %v", at, d, err)
				}
				if err := flipByte(r.Image, at); err != nil {
					t.Fatal(err)
				}
			}
			if err := RemoveImage(r.Image); err != nil || len(files(t, dir)) > 0 {
				t.Errorf("removed: %v, %q are left", err, files(t, dir))
			}
		})
	}
}

// What comes out of a compressed archive is compared, not only the file.
func TestPackedArchiveHoldsAnother(t *testing.T) {
	g := smallFS(t)
	r, err := Run(ctx, g, Options{LV: "v", Dir: t.TempDir(), Format: Tar, Compress: Zstd})
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := readManifest(r.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := proveArchive(ctx, r.Image, &m.Image, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	right := *m.Image.Content
	for name, change := range map[string]func(*Content){
		"shorter":   func(c *Content) { c.Bytes++ },
		"longer":    func(c *Content) { c.Bytes-- },
		"otherwise": func(c *Content) { c.Ranges = []string{strings.Repeat("0", 64)} },
	} {
		wrong := right
		change(&wrong)
		m.Image.Content = &wrong
		if err := proveArchive(ctx, r.Image, &m.Image, func(int64) {}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A target or a source that fails at any operation leaves nothing.
func TestPackedArchiveFails(t *testing.T) {
	g := smallFS(t)
	for name, want := range map[string]error{"target": syscall.ENOSPC, "source": syscall.EIO} {
		for n := int64(1); ; n++ {
			dir := t.TempDir()
			fault := &nth{n: n, err: want}
			o := Options{LV: "v", Dir: dir, Format: Tar, Compress: Zstd}
			g.wrap = nil
			if name == "target" {
				o.open = func(path string) (outputFile, error) {
					f, err := openPartial(path)
					return &faultyFile{f, fault.hit}, err
				}
			} else {
				g.wrap = func(_ string, d block.Device) block.Device {
					return &hooked{d, func(op string, _ int64) error { return fault.hit(op) }}
				}
			}
			_, err := Run(ctx, g, o)
			if !fault.fired() {
				if err != nil || n < 5 {
					t.Fatalf("%s: after %d operations without a fault: %v", name, n-1, err)
				}
				break
			}
			if !errors.Is(err, want) {
				t.Errorf("%s: fault %d: error is %v", name, n, err)
			}
			nothingLeft(t, g, dir)
		}
	}
}

// Only what can be read again is written.
func TestCompressionsOfFormats(t *testing.T) {
	g := smallFS(t)
	for format, how := range map[Format]Compression{Raw: Zstd, Tar: Zlib, Qcow2: Gzip} {
		dir := t.TempDir()
		if _, err := Run(ctx, g, Options{LV: "v", Dir: dir, Format: format, Compress: how}); !errs.Is(err, errs.Usage) {
			t.Errorf("%s by %s: %v", format, how, err)
		}
		nothingLeft(t, g, dir)
	}
}
