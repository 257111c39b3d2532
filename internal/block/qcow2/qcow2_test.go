package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

// content returns bytes with what images store in different ways: random
// ones, ones that compress, zeroes that are written, and holes. The size
// should be a multiple of 512, as qemu rounds others up.
func content(rng *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for off := 0; off < size; {
		n := min(1+rng.IntN(200<<10), size-off)
		switch rng.IntN(3) {
		case 0:
			for i := off; i < off+n; i++ {
				b[i] = byte(rng.Uint32())
			}
		case 1:
			copy(b[off:off+n], bytes.Repeat([]byte("cowl reads qcow2 "), n/17+1))
		}
		off += n
	}
	return b
}

func qemu(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// open opens an image whose backing files are beside it.
func open(t testing.TB, path string) *Device {
	t.Helper()
	d, err := openPath(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d.(*Device)
}

func openPath(path string) (block.Device, error) {
	f, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	d, err := Open(f, func(name, format string) (block.Device, error) {
		path := filepath.Join(filepath.Dir(path), name)
		if format == "raw" {
			return file.Open(path, file.Options{ReadOnly: true})
		}
		return openPath(path)
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// Images as qemu-img makes them, of every kind, read as what went in.
func TestImages(t *testing.T) {
	judge.Need(t, "qemu-img")
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for name, c := range map[string]struct {
		size int
		args []string
	}{
		"version 2":             {3<<20 + 512, []string{"-o", "compat=0.10"}},
		"version 3":             {3<<20 + 512, nil},
		"lazy refcounts":        {1 << 20, []string{"-o", "lazy_refcounts=on"}},
		"small clusters":        {1<<20 + 1536, []string{"-o", "cluster_size=512"}},
		"large clusters":        {5<<20 + 4096, []string{"-o", "cluster_size=2M"}},
		"zlib":                  {3<<20 + 512, []string{"-c"}},
		"zlib, version 2":       {3<<20 + 512, []string{"-c", "-o", "compat=0.10"}},
		"zlib, small clusters":  {1<<20 + 512, []string{"-c", "-o", "cluster_size=512"}},
		"zlib, large clusters":  {5<<20 + 512, []string{"-c", "-o", "cluster_size=2M"}},
		"zstd":                  {3<<20 + 512, []string{"-c", "-o", "compression_type=zstd"}},
		"zstd, large clusters":  {5<<20 + 512, []string{"-c", "-o", "compression_type=zstd,cluster_size=2M"}},
		"zeroes stored as such": {2 << 20, []string{"-S", "0"}},
		"allocated beforehand":  {2 << 20, []string{"-o", "preallocation=metadata"}},
		"one sector":            {512, nil},
	} {
		t.Run(name, func(t *testing.T) {
			want := content(rng, c.size)
			raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
			write(t, raw, want)
			qemu(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, c.args...), raw, image)...)
			d := open(t, image)
			blocktest.RunReadOnly(t, d, want)
			randomReads(t, d, want, rng)
		})
	}
}

// randomReads reads ranges that nothing aligns, from several sides.
func randomReads(t *testing.T, d block.Device, want []byte, rng *rand.Rand) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for range 50 {
				off := rng.IntN(len(want))
				p := make([]byte, min(1+rng.IntN(300<<10), len(want)-off))
				if _, err := d.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("%d bytes at %d: not what was written, or %v", len(p), off, err)
				}
			}
		})
	}
	wg.Wait()
}

// A chain: raw, an image over it, a longer one over that, with zeroes that
// hide what is below, and discards.
func TestBackingFiles(t *testing.T) {
	judge.Need(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	want := content(rng, 1<<20+512)
	write(t, at("raw"), want)
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "raw", at("middle"))
	qemu(t, "qemu-io", "-c", "write -q -P 17 100k 300k", "-c", "write -q -z 500k 200k", at("middle"))
	qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle", at("top"), "2M")
	qemu(t, "qemu-io", "-c", "write -q -P 34 200k 100k", "-c", "write -q -z 64k 64k", "-c", "discard -q 320k 64k", at("top"))
	qemu(t, "qemu-img", "convert", "-O", "raw", at("top"), at("flat")) // qemu's word
	want, err := os.ReadFile(at("flat"))
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, at("top"))
	blocktest.RunReadOnly(t, d, want)
	randomReads(t, d, want, rng)
	depths := map[int]bool{}
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		depths[e.Depth] = true
	}
	if !depths[0] || !depths[1] || !depths[2] {
		t.Errorf("layers %v hold something, want 0, 1 and 2", depths)
	}
}

// image returns a small image in memory, to be damaged.
func image(t testing.TB, args ...string) []byte {
	t.Helper()
	judge.Need(t, "qemu-img")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "raw"), content(rand.New(rand.NewPCG(1, 1)), 256<<10))
	qemu(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), filepath.Join(dir, "raw"), filepath.Join(dir, "image"))...)
	b, err := os.ReadFile(filepath.Join(dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inMemory(t testing.TB, b []byte) block.Device {
	t.Helper()
	d := mem.New(int64(len(b)))
	if _, err := d.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRefused(t *testing.T) {
	good := image(t)
	be := binary.BigEndian
	for name, c := range map[string]struct {
		kind errs.Kind
		do   func(b []byte) []byte
	}{
		"nothing":              {errs.Corrupt, func(b []byte) []byte { return nil }},
		"half a header":        {errs.Corrupt, func(b []byte) []byte { return b[:60] }},
		"another magic":        {errs.Corrupt, func(b []byte) []byte { b[0] = 'q'; return b }},
		"version 4":            {errs.Unsupported, func(b []byte) []byte { b[7] = 4; return b }},
		"tiny clusters":        {errs.Corrupt, func(b []byte) []byte { b[23] = 8; return b }},
		"huge clusters":        {errs.Corrupt, func(b []byte) []byte { b[20] = 1; return b }},
		"no bytes":             {errs.Corrupt, func(b []byte) []byte { be.PutUint64(b[24:], 0); return b }},
		"too many bytes":       {errs.Corrupt, func(b []byte) []byte { be.PutUint64(b[24:], 1<<63); return b }},
		"a table for a planet": {errs.Unsupported, func(b []byte) []byte { be.PutUint64(b[24:], 1<<60); return b }},
		"encrypted":            {errs.Unsupported, func(b []byte) []byte { b[35] = 1; return b }},
		"a short table":        {errs.Corrupt, func(b []byte) []byte { be.PutUint32(b[36:], 0); return b }},
		"a table nowhere":      {errs.Corrupt, func(b []byte) []byte { be.PutUint64(b[40:], 1<<40); return b }},
		"marked as corrupt":    {errs.Corrupt, func(b []byte) []byte { b[79] = 2; return b }},
		"data elsewhere":       {errs.Unsupported, func(b []byte) []byte { b[79] = 4; return b }},
		"subclusters":          {errs.Unsupported, func(b []byte) []byte { b[79] = 16; return b }},
		"a newer feature":      {errs.Unsupported, func(b []byte) []byte { b[79] = 32; return b }},
		"compression type 2":   {errs.Unsupported, func(b []byte) []byte { b[79], b[104] = 8, 2; return b }},
		"backed by nothing":    {errs.Corrupt, func(b []byte) []byte { b[15] = 200; return b }},
		"backed by too much":   {errs.Corrupt, func(b []byte) []byte { b[15], b[18] = 200, 255; return b }},
		"backed, nobody asked": {errs.Unsupported, func(b []byte) []byte { b[15], b[19] = 200, 5; return b }},
	} {
		if _, err := Open(inMemory(t, c.do(bytes.Clone(good))), nil); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want kind %v", name, err, c.kind)
		}
	}
}

// Tables that point behind the end, or into nowhere, are errors when they are
// used, and no content.
func TestDamagedTables(t *testing.T) {
	for name, args := range map[string][]string{"plain": nil, "compressed": {"-c"}} {
		good := image(t, args...)
		l1 := binary.BigEndian.Uint64(good[40:])
		l2 := binary.BigEndian.Uint64(good[l1:]) & 0x00fffffffffffe00
		for what, at := range map[string]uint64{"first level": l1, "second level": l2} {
			b := bytes.Clone(good)
			binary.BigEndian.PutUint64(b[at:], 0x40<<56&binary.BigEndian.Uint64(b[at:])|0x00f0_0000_0000_0000)
			d, err := Open(inMemory(t, b), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.ReadAt(make([]byte, 4096), 0); err == nil {
				t.Errorf("%s, %s: no error", name, what)
			}
		}
	}
}

// Any bytes give an error or an image whose every byte can be asked for.
func FuzzOpen(f *testing.F) {
	for _, args := range [][]string{nil, {"-o", "cluster_size=512"}, {"-c"}, {"-c", "-o", "compression_type=zstd,cluster_size=4096"}} {
		b := image(f, args...)
		l1 := binary.BigEndian.Uint64(b[40:])
		l2 := binary.BigEndian.Uint64(b[l1:]) & 0x00fffffffffffe00
		f.Add(b, l1, uint64(0), uint64(1<<62))
		f.Add(b, uint64(24), uint64(1<<40), l2)
		f.Add(b, l2, ^uint64(0), uint64(100))
	}
	f.Fuzz(func(t *testing.T, b []byte, at, value, at2 uint64) {
		if len(b) > 1<<20 {
			return
		}
		b = bytes.Clone(b)
		for _, at := range []uint64{at, at2} {
			if at < uint64(len(b)) && at+8 <= uint64(len(b)) {
				binary.BigEndian.PutUint64(b[at:], value)
			}
		}
		d, err := Open(inMemory(t, b), func(string, string) (block.Device, error) { return mem.New(12345), nil })
		if err != nil {
			return
		}
		size := d.Size()
		for _, off := range []int64{0, size / 2, size - 1} {
			n := min(size-off, 100<<10)
			p := make([]byte, n)
			d.ReadAt(p, off)
			at := off
			for e, err := range d.Extents(off, n) {
				if err != nil {
					break
				}
				if e.Off != at || e.Len <= 0 {
					t.Fatalf("extent %+v at %d", e, at)
				}
				at = e.End()
			}
		}
	})
}
