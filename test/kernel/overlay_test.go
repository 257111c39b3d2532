//go:build linux

package kernel

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
	"cowl/internal/errs"
	"cowl/internal/kerneltest"
	"cowl/internal/overlay"
)

// overlays are files that cowl and the kernel write in turn, over one base.
type overlays struct {
	t       *testing.T
	base    string
	content []byte // of the base
	files   []string
	want    [][]byte // what each file shows
}

func newOverlays(t *testing.T, chunks ...int64) *overlays {
	t.Helper()
	dir := t.TempDir()
	o := &overlays{t: t, base: filepath.Join(dir, "base"), content: make([]byte, 6<<20)}
	rng := newRand(t)
	for i := range o.content {
		o.content[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(o.base, o.content, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, chunk := range chunks {
		file := filepath.Join(dir, fmt.Sprintf("cow%d", i))
		if _, err := overlay.Create(file, o.base, overlay.CreateOptions{Chunk: chunk, Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		o.files = append(o.files, file)
		o.want = append(o.want, bytes.Clone(o.content))
	}
	return o
}

// inCowl opens each overlay with cowl, compares it, and lets f change it.
func (o *overlays) inCowl(f func(i int, write func(off int64, p []byte))) {
	o.t.Helper()
	for i, file := range o.files {
		v, err := overlay.Open(file, false)
		if err != nil {
			o.t.Fatal(err)
		}
		if !bytes.Equal(blocktest.ReadAll(o.t, v.Device()), o.want[i]) {
			o.t.Errorf("cowl reads something else in overlay %d", i)
		}
		f(i, func(off int64, p []byte) {
			copy(o.want[i][off:], p)
			if _, err := v.Device().WriteAt(p, off); err != nil {
				o.t.Fatal(err)
			}
		})
		if err := v.Close(); err != nil {
			o.t.Fatal(err)
		}
	}
}

// An overlay is an exception store from its first byte on: dmsetup's snapshot
// target reads and writes what cowl made, and cowl what it left, several times
// to and fro, with the label untouched.
func TestOverlaysInTheKernel(t *testing.T) {
	o := newOverlays(t, 4096, 65536)
	rng := newRand(t)
	var writes [][]kerneltest.Write
	random := func() (off int64, p []byte) {
		off = rng.Int64N(6<<20/512) * 512
		return off, bytes.Repeat([]byte{byte(rng.Uint32())}, int(min((1+rng.Int64N(64))*512, 6<<20-off)))
	}
	vm := kerneltest.Boot(t, append([]string{o.base}, o.files...)...)
	disks := []string{"/dev/vda", "/dev/vdb", "/dev/vdc"}
	for round := range 3 {
		vm.Release(disks...)
		o.inCowl(func(_ int, write func(int64, []byte)) {
			for range 150 {
				write(random())
			}
		})
		writes = make([][]kerneltest.Write, len(o.files))
		for i := range o.files {
			name := fmt.Sprintf("o%d", i)
			vm.Sh(fmt.Sprintf(`dmsetup create %s --table "0 $(blockdev --getsz /dev/vda) snapshot /dev/vda %s P 8"`, name, disks[i+1]))
			if !bytes.Equal(vm.Read("/dev/mapper/"+name, 0, -1), o.want[i]) {
				t.Errorf("round %d: the kernel reads something else in overlay %d", round, i)
			}
			for range 150 {
				off, p := random()
				copy(o.want[i][off:], p)
				writes[i] = append(writes[i], kerneltest.Write{Path: "/dev/mapper/" + name, Off: off, Data: p})
			}
			vm.Write(writes[i]...)
			vm.Sh("dmsetup remove " + name)
		}
	}
	vm.Release(disks...)
	o.inCowl(func(int, func(int64, []byte)) {})
	vm.Off()
	if got, err := os.ReadFile(o.base); err != nil || !bytes.Equal(got, o.content) {
		t.Errorf("the base was written, %v", err)
	}
	for _, file := range o.files {
		if i, err := overlay.Inspect(file); err != nil || i.State != overlay.OK {
			t.Errorf("%+v, %v", i, err)
		}
	}
}

// When the kernel gives a store up it writes the header's chunk anew, without
// the label: cowl then says what happened.
func TestOverlayOverflowsInTheKernel(t *testing.T) {
	o := newOverlays(t)
	file := o.base + ".cow"
	if _, err := overlay.Create(file, o.base, overlay.CreateOptions{Size: 64 << 10, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	vm := kerneltest.Boot(t, o.base, file)
	vm.Sh(`dmsetup create o --table "0 $(blockdev --getsz /dev/vda) snapshot /dev/vda /dev/vdb P 8"`)
	if err := vm.TryWrite(kerneltest.Write{Path: "/dev/mapper/o", Data: make([]byte, 1<<20)}); err == nil {
		t.Error("1 MiB fit into 64 KiB")
	}
	if status := vm.Sh("dmsetup status o"); !strings.Contains(status, "Invalid") {
		t.Errorf("status %q", status)
	}
	vm.Sh("dmsetup remove o")
	vm.Off()
	_, err := overlay.Open(file, false)
	if !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "the kernel could not write it") {
		t.Errorf("opened by cowl: %v", err)
	}
}
