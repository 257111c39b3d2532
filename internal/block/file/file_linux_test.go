package file_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

// A FIFO without a writer must be refused, not waited for.
func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skipf("no FIFOs here: %v", err)
	}
	if _, err := file.Open(path, file.Options{ReadOnly: true}); !errs.Is(err, errs.Unsupported) {
		t.Errorf("Open of a FIFO: %v", err)
	}
}

// Backups and exports of sparse images live on this.
func TestHolesShow(t *testing.T) {
	d := create(t, 10<<20)
	if !d.Caps().Discard {
		t.Skip("the file system of the temporary directory has no holes")
	}
	const mib = 1 << 20
	p := make([]byte, mib)
	for i := range p {
		p[i] = 1
	}
	for _, at := range []int64{0, 4 * mib, 5 * mib, 9 * mib} {
		if _, err := d.WriteAt(p, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.WriteZeroes(5*mib, mib); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(9*mib, mib); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range d.Extents(mib/2, 9*mib) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d+%d:%d", e.Off/(mib/2), e.Len/(mib/2), e.Kind))
	}
	if want := "1+1:0 2+6:2 8+2:0 10+9:2"; strings.Join(got, " ") != want {
		t.Errorf("extents in half MiB: %v, want %v", got, want)
	}
}

// loop attaches a file to a loop device for the time of the test.
func loop(t *testing.T, path string, blockSize int, more ...string) string {
	t.Helper()
	judge.NeedLoop(t)
	losetup := judge.Find("losetup")
	args := append([]string{"--find", "--show", "--sector-size", strconv.Itoa(blockSize)}, more...)
	out, err := exec.Command(losetup, append(args, path)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

func loopOf(t *testing.T, size int64, blockSize int) string {
	t.Helper()
	d := create(t, size)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return loop(t, d.Path(), blockSize)
}

func TestConformanceOfBlockDevices(t *testing.T) {
	for _, blockSize := range []int{512, 4096} {
		bs := int64(blockSize)
		t.Run(fmt.Sprintf("blocks of %d", bs), func(t *testing.T) {
			blocktest.Run(t, func(t *testing.T, size int64) block.Device {
				d := open(t, loopOf(t, size, blockSize), file.Options{Lock: file.Exclusive})
				if c := d.Caps(); c.BlockSize != blockSize || !c.Discard || !c.Zeroes {
					t.Errorf("capabilities %+v", c)
				}
				return d
			}, blocktest.Options{
				Zeroed: true,
				Steps:  300,
				Sizes:  []int64{3 * bs, 17*4096 + bs, 256 << 10},
				Reopen: reopen,
			})
		})
	}
}

func TestExclusiveBlockDevice(t *testing.T) {
	exclusion(t, loopOf(t, 1<<20, 512))
}

func TestBlockDevicesDoNotGrow(t *testing.T) {
	d := open(t, loopOf(t, 1<<20, 512), file.Options{})
	if err := d.Grow(2 << 20); !errs.Is(err, errs.Unsupported) || d.Size() != 1<<20 {
		t.Errorf("Grow of a block device: %v, size %d", err, d.Size())
	}
}

func TestSharedBlockDevice(t *testing.T) {
	sharing(t, loopOf(t, 1<<20, 512))
}

// Readers may share a file with a loop device that only reads.
func TestSharedBehindLoopDevice(t *testing.T) {
	shared := file.Options{ReadOnly: true, Lock: file.Shared}
	for _, readOnly := range []bool{false, true} {
		d := create(t, 1<<20)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		var args []string
		if readOnly {
			args = []string{"--read-only"}
		}
		dev := loop(t, d.Path(), 512, args...)
		f, err := file.Open(d.Path(), shared)
		if err == nil {
			_ = f.Close()
		}
		switch {
		case readOnly && err != nil:
			t.Errorf("behind a loop device that only reads: %v", err)
		case !readOnly && (!errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), dev)):
			t.Errorf("behind a loop device that writes: %v, want errs.Busy naming %s", err, dev)
		}
	}
}

func TestAllocate(t *testing.T) {
	d := create(t, 8<<20)
	content := []byte("as it was")
	if _, err := d.WriteAt(content, 1<<20); err != nil {
		t.Fatal(err)
	}
	err := d.Allocate(0, 4<<20)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this file system does not allocate in advance")
	}
	if err != nil {
		t.Fatal(err)
	}
	info, err := d.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks*512 < 4<<20 || info.Size() != 8<<20 {
		t.Errorf("%d blocks, %d bytes", blocks, info.Size())
	}
	got := make([]byte, len(content))
	if _, err := d.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, content) {
		t.Errorf("content %q, %v", got, err)
	}
	if err := d.Allocate(8<<20-1, 2); !errs.Is(err, errs.Usage) {
		t.Errorf("behind the end: %v", err)
	}
}

// The kernel may write through a loop device to the file behind it, whatever
// lock the file has; so cowl stays away, by whichever name it is called.
func TestFileBehindLoopDevice(t *testing.T) {
	d := create(t, 1<<20)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	dev := loop(t, d.Path(), 512)
	link := filepath.Join(t.TempDir(), "link.img")
	if err := syscall.Link(d.Path(), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.Path(), link} {
		_, err := file.Open(path, file.Options{Lock: file.Exclusive})
		if !errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), dev) || !strings.Contains(errs.HintOf(err), "losetup -d") {
			t.Errorf("Open(%s) = %v (%s), want errs.Busy naming %s", path, err, errs.HintOf(err), dev)
		}
	}
	open(t, d.Path(), file.Options{ReadOnly: true})
}

// In a full file system a file stays as it was, and what was tried is given
// back.
func TestEnlargeWithoutRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		judge.Absent(t, "only root mounts a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1M", "none", dir).CombinedOutput(); err != nil {
		judge.Absent(t, "cannot mount a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	d, err := file.Create(filepath.Join(dir, "f"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Enlarge(4 << 20); !errs.Is(err, errs.NoSpace) || d.Size() != 4096 {
		t.Errorf("Enlarge to more than there is: %v, size %d", err, d.Size())
	}
	info, err := d.Stat()
	if st := info.Sys().(*syscall.Stat_t); err != nil || info.Size() != 4096 || st.Blocks > 8 {
		t.Errorf("the file has %d bytes in %d sectors, %v", info.Size(), st.Blocks, err)
	}
	if n, err := d.Enlarge(512 << 10); n != 512<<10 || err != nil {
		t.Errorf("Enlarge to what there is: %d, %v", n, err)
	}
}

// A disk is as large as it is, and may have become larger.
func TestEnlargeDisk(t *testing.T) {
	d := open(t, loopOf(t, 1<<20, 512), file.Options{})
	if n, err := d.Enlarge(1 << 20); n != 1<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := d.Enlarge(2 << 20); !errs.Is(err, errs.Unsupported) {
		t.Error(err)
	}
}
