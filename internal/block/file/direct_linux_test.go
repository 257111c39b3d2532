package file

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

// Large aligned writes bypass the page cache, all others fill it. Whatever the
// mixture, each read finds the last write.
func TestDirectAndBufferedWritesMix(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "image"), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.direct == nil {
		t.Skip("this file system has no direct I/O")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, d.Size())
	memory := make([]byte, 2<<20+4096)
	skip := -int(uintptr(unsafe.Pointer(&memory[0]))) & 4095
	direct := 0
	for range 300 {
		n := []int{512, 4096, 12345, directBytes, directBytes + 4096, 1 << 20}[rnd.IntN(6)]
		off := rnd.Int64N(d.Size() - int64(n))
		p := memory[1:][:n]
		if rnd.IntN(3) > 0 { // memory and place of a commit
			off, p = off&^4095, memory[skip:][:n]
		}
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		if n >= directBytes && isAligned(p, off) {
			direct++
		}
		if _, err := d.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
		got := make([]byte, min(int64(n)+8192, d.Size()-max(0, off-4096)))
		if _, err := d.ReadAt(got, max(0, off-4096)); err != nil {
			t.Fatal(err)
		}
		if at := max(0, off-4096); !bytes.Equal(got, want[at:at+int64(len(got))]) {
			t.Fatalf("a write of %d bytes at %d reads otherwise", n, off)
		}
	}
	if direct == 0 || d.noDirect.Load() {
		t.Errorf("%d writes could go past the page cache; refused: %v", direct, d.noDirect.Load())
	}
}

// What is read past the page cache is the same at any place and into any memory.
func TestDirectReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	want := make([]byte, 1<<20+512)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, Options{ReadOnly: true, Direct: true})
	if err != nil {
		t.Skipf("this file system has no direct I/O: %v", err)
	}
	defer d.Close()
	for range 300 {
		n := rnd.Int64N(20000)
		off := rnd.Int64N(d.Size() - n + 1)
		got := make([]byte, n+1)[1:]
		if m, err := d.ReadAt(got, off); err != nil || m != int(n) || !bytes.Equal(got, want[off:off+n]) {
			t.Fatalf("%d bytes at %d: %d, %v, equal: %v", n, off, m, err, bytes.Equal(got, want[off:off+n]))
		}
	}
	if n, err := d.ReadAt(make([]byte, 10), d.Size()-5); err == nil {
		t.Errorf("%d bytes across the end, without an error", n)
	}
}
