//go:build linux

package fuse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/judge"
)

// judgedSize is that of the devices which other people's programs work on.
const judgedSize = 64 << 20

// judged runs a test on a device in memory and on one in a file.
func judged(t *testing.T, f func(t *testing.T, dev block.Device, path string)) {
	t.Run("mem", func(t *testing.T) {
		dev := mem.New(judgedSize)
		_, dir := serve(t, newShelf().with("vol", dev))
		f(t, dev, filepath.Join(dir, "vol"))
	})
	t.Run("file", func(t *testing.T) {
		dev, err := file.Create(filepath.Join(t.TempDir(), "image"), judgedSize)
		check(t, err)
		t.Cleanup(func() { dev.Close() })
		_, dir := serve(t, newShelf().with("vol", dev))
		f(t, dev, filepath.Join(dir, "vol"))
	})
}

// What it is all for: a file system in a volume, mounted through a loop device,
// holds the files that were put there, and is whole.
func TestMountLoop(t *testing.T) {
	judge.NeedLoop(t)
	judge.Need(t, "mkfs.ext4", "e2fsck", "mount", "umount", "fstrim")
	judged(t, func(t *testing.T, dev block.Device, path string) {
		run(t, "mkfs.ext4", "-q", path)
		run(t, "e2fsck", "-fn", path)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		files := map[string][]byte{}
		for i := range 40 {
			b := make([]byte, rng.IntN(600<<10))
			for j := range b {
				b[j] = byte(rng.Uint32())
			}
			files[fmt.Sprint("file", i)] = b
		}

		mnt := t.TempDir()
		mounted(t, path, mnt, func() {
			for name, b := range files {
				check(t, os.WriteFile(filepath.Join(mnt, name), b, 0o600))
			}
		})
		run(t, "e2fsck", "-fn", path)
		full := allocated(t, dev)

		mounted(t, path, mnt, func() {
			for name, want := range files {
				got, err := os.ReadFile(filepath.Join(mnt, name))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s differs: %v", name, err)
				}
				check(t, os.Remove(filepath.Join(mnt, name)))
			}
			unix.Sync()
			run(t, "fstrim", mnt)
		})
		run(t, "e2fsck", "-fn", path)
		if left := allocated(t, dev); left > full/2 {
			t.Errorf("%d bytes allocated after everything was removed and trimmed, %d before", left, full)
		}
	})
}

// mounted mounts a file, calls f and unmounts it.
func mounted(t *testing.T, path, mnt string, f func()) {
	t.Helper()
	run(t, "mount", "-o", "loop", path, mnt)
	defer run(t, "umount", mnt)
	f()
}

// allocated counts a device's bytes that are not holes.
func allocated(t *testing.T, dev block.Device) (n int64) {
	t.Helper()
	for e, err := range dev.Extents(0, dev.Size()) {
		check(t, err)
		if e.Kind != block.Hole {
			n += e.Len
		}
	}
	return n
}

// fio writes all over the file, 32 requests at a time past all caches with
// flushes between them, and finds each block as it wrote it.
func TestFioVerify(t *testing.T) {
	judge.Need(t, "fio")
	judged(t, func(t *testing.T, dev block.Device, path string) {
		for _, how := range [][]string{
			{"--size=8m", "--rw=randwrite", "--bs=4k", "--direct=1", "--fsync=32"},
			{"--size=16m", "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=1", "--fsync=50"},
			{"--size=32m", "--rw=write", "--bs=1m", "--direct=1"},
		} {
			args := []string{"--name=judge", "--ioengine=libaio", "--filename=" + path, "--iodepth=32",
				"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--output-format=terse"}
			run(t, "fio", append(args, how...)...)
		}
	})
}

// cp finds the holes and keeps them, and qemu reads and writes the file as a
// disk.
func TestCopies(t *testing.T) {
	judge.Need(t, "cp", "cmp", "qemu-img")
	judged(t, func(t *testing.T, dev block.Device, path string) {
		for i := range int64(8) {
			_, err := dev.WriteAt(bytes.Repeat([]byte("data"), 5000), i*(7<<20)+12345)
			check(t, err)
		}
		image := filepath.Join(t.TempDir(), "image")
		run(t, "cp", "--sparse=auto", path, image)
		run(t, "cmp", path, image)
		var st unix.Stat_t
		check(t, unix.Stat(image, &st))
		if st.Blocks*512 > judgedSize/8 {
			t.Errorf("the copy has %d bytes allocated", st.Blocks*512)
		}
		qcow2 := filepath.Join(t.TempDir(), "qcow2")
		run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, qcow2)
		check(t, dev.WriteZeroes(0, judgedSize))
		run(t, "qemu-img", "convert", "-n", "-t", "none", "-f", "qcow2", "-O", "raw", qcow2, path)
		out := run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, image)
		if !strings.Contains(out, "identical") {
			t.Error(out)
		}
		got := make([]byte, judgedSize)
		_, err := dev.ReadAt(got, 0)
		check(t, err)
		if want, err := os.ReadFile(image); err != nil || !slices.Equal(got, want) {
			t.Errorf("the device differs: %v", err)
		}
	})
}
