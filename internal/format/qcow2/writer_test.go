package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/mem"
	reader "cowl/internal/block/qcow2"
	"cowl/internal/judge"
)

// clusters returns bytes with every kind of cluster: zero, random, compressible, and
// mixtures of these.
func clusters(rng *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for off := 0; off < size; {
		n := min(1+rng.IntN(5*ClusterBytes), size-off)
		switch rng.IntN(3) {
		case 0:
			for i := off; i < off+n; i++ {
				b[i] = byte(rng.Uint32())
			}
		case 1:
			copy(b[off:off+n], bytes.Repeat([]byte("a volume, and again "), n/20+1))
		}
		off += n
	}
	return b
}

// image writes b as an image.
func image(t testing.TB, b []byte, how Compression) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, int64(len(b)), how)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEncoder(how)
	if err != nil {
		t.Fatal(err)
	}
	for no := 0; no*ClusterBytes < len(b); no++ {
		cluster := b[no*ClusterBytes : min((no+1)*ClusterBytes, len(b))]
		if len(bytes.Trim(cluster, "\x00")) == 0 {
			continue
		}
		data, packed, err := e.Encode(nil, cluster)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Put(int64(no), data, packed); err != nil {
			t.Fatal(err)
		}
	}
	head, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return append(head, out.Bytes()...)
}

// qemu runs one of qemu's programs, whose word on an image is the last.
func qemu(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// judged has qemu check an image and compare it with what it should hold.
func judged(t testing.TB, dir string, img, want []byte) {
	t.Helper()
	path, raw := filepath.Join(dir, "image.qcow2"), filepath.Join(dir, "raw")
	for p, b := range map[string][]byte{path: img, raw: want} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	qemu(t, "check", "-f", "qcow2", path)
	qemu(t, "compare", "-f", "qcow2", "-F", "raw", path, raw)
}

func TestImages(t *testing.T) {
	judge.Need(t, "qemu-img")
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	sizes := []int{512, 4096, ClusterBytes, ClusterBytes + 512, 3<<20 - 512, 12 << 20}
	for _, how := range []Compression{None, Zlib, Zstd} {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s/%d", how, size), func(t *testing.T) {
				want := clusters(rng, size)
				img := image(t, want, how)
				d, err := reader.Open(mem.New(int64(len(img))), nil)
				if err == nil {
					t.Fatal("zeroes are no image")
				}
				m := mem.New(int64(len(img)))
				if _, err := m.WriteAt(img, 0); err != nil {
					t.Fatal(err)
				}
				if d, err = reader.Open(m, nil); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, size)
				if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("read back otherwise (%v)", err)
				}
				judged(t, dir, img, want)
			})
		}
	}
}

// Clusters that compress alternate with such that do not: padding between them
// must not eat what compression gains.
func TestMixedClustersWasteLittle(t *testing.T) {
	judge.Need(t, "qemu-img")
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 16<<20)
	for off := 0; off < len(b); off += ClusterBytes {
		part := b[off : off+ClusterBytes]
		if off/ClusterBytes%2 == 0 {
			part = part[:ClusterBytes/2] // half of it random: compresses to a half
		}
		for i := range part {
			part[i] = byte(rng.Uint32())
		}
	}
	img := image(t, b, Zlib)
	if least := len(b) * 3 / 4; len(img) > least+least/20 {
		t.Errorf("the image has %d bytes, %d would do", len(img), least)
	}
	judged(t, t.TempDir(), img, b)
}

// A volume whose clusters lie far apart has tables only where there is data.
func TestSparse(t *testing.T) {
	judge.Need(t, "qemu-img")
	var out bytes.Buffer
	const size = 16 << 40
	w, err := NewWriter(&out, size, None)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, ClusterBytes)
	for _, no := range []int64{0, l2Entries - 1, l2Entries, 5*l2Entries + 1, size/ClusterBytes - 1} {
		if err := w.Put(no, data, false); err != nil {
			t.Fatal(err)
		}
	}
	head, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.qcow2")
	if err := os.WriteFile(path, append(head, out.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	qemu(t, "check", "-f", "qcow2", path)
	got := qemu(t, "map", "-f", "qcow2", "--output=json", path)
	if n := strings.Count(got, `"data": true`); n != 5 {
		t.Errorf("%d runs of data, want 5:\n%s", n, got)
	}
	if n := out.Len(); n > 2<<20 {
		t.Errorf("%d bytes for five clusters", n)
	}
}

// holes is a file that gets what is written, but for zeroes.
type holes struct {
	f  *os.File
	at int64
}

func (h *holes) Write(b []byte) (int, error) {
	if &b[0] != &zeroes[0] {
		if _, err := h.f.WriteAt(b, h.at); err != nil {
			return 0, err
		}
	}
	h.at += int64(len(b))
	return len(b), nil
}

var zeroes [ClusterBytes]byte

// A file that needs several blocks of counts, which are written as it grows, with
// the end on either side of where a block begins.
func TestBlocksOfCounts(t *testing.T) {
	judge.Need(t, "qemu-img")
	dir := t.TempDir()
	for _, data := range []int64{countsPerBlock - 9, countsPerBlock - 8, countsPerBlock - 7, countsPerBlock - 6, countsPerBlock - 5, countsPerBlock, 2*countsPerBlock + 100} {
		path := filepath.Join(dir, fmt.Sprint(data))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		out := &holes{f, ClusterBytes}
		w, err := NewWriter(out, 8<<30, None)
		if err != nil {
			t.Fatal(err)
		}
		for no := range data {
			if err := w.Put(no, zeroes[:], false); err != nil {
				t.Fatal(err)
			}
		}
		if open := len(w.counts.open); open > 2 {
			t.Errorf("%d blocks are kept in memory", open)
		}
		head, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(head, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(out.at), f.Close()); err != nil {
			t.Fatal(err)
		}
		qemu(t, "check", "-f", "qcow2", path)
	}
}

// A file that takes no more gives its error, and goes on giving it.
func TestErrors(t *testing.T) {
	full := errors.New("full")
	b := clusters(rand.New(rand.NewPCG(3, 4)), 8<<20)
	e, err := NewEncoder(Zlib)
	if err != nil {
		t.Fatal(err)
	}
	for room := 0; ; room += ClusterBytes {
		w, err := NewWriter(&limited{room, full}, int64(len(b)), Zlib)
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		for no := 0; no*ClusterBytes < len(b); no++ {
			data, packed, err := e.Encode(nil, b[no*ClusterBytes:(no+1)*ClusterBytes])
			if err != nil {
				t.Fatal(err)
			}
			failed = w.Put(int64(no), data, packed)
		}
		head, err := w.Finish()
		if err == nil && failed == nil {
			if room == 0 {
				t.Fatal("nothing was written")
			}
			return
		}
		if !errors.Is(err, full) || head != nil {
			t.Fatalf("with room for %d bytes: %v, header %v", room, err, head != nil)
		}
	}
}

type limited struct {
	room int
	err  error
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.room {
		return 0, l.err
	}
	l.room -= len(b)
	return len(b), nil
}

func TestRefused(t *testing.T) {
	for _, size := range []int64{0, -512, 511, 1<<62 + 512} {
		if _, err := NewWriter(nil, size, None); err == nil {
			t.Errorf("an image of %d bytes is written", size)
		}
	}
	if _, err := NewEncoder("lzma"); err == nil {
		t.Error("lzma is written")
	}
}

// The header is what the specification says, byte by byte.
func TestHeader(t *testing.T) {
	head := image(t, bytes.Repeat([]byte{1}, ClusterBytes), Zstd)
	be := binary.BigEndian
	for off, want := range map[int]uint64{8: 0, 24: ClusterBytes, 72: 8, 80: 0, 88: 0} {
		if got := be.Uint64(head[off:]); got != want {
			t.Errorf("at %d: %d, want %d", off, got, want)
		}
	}
	for off, want := range map[int]uint32{0: 0x514649fb, 4: 3, 16: 0, 20: 16, 32: 0, 36: 1, 60: 0, 96: 4, 100: 112, 104: 1 << 24, 112: 0, 116: 0} {
		if got := be.Uint32(head[off:]); got != want {
			t.Errorf("at %d: %d, want %d", off, got, want)
		}
	}
}
