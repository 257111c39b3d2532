//go:build linux

package killed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cowl/internal/daemon"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

// mounted returns the root of a small file system of its own.
func mounted(t *testing.T, kind string) string {
	t.Helper()
	judge.NeedLoop(t)
	dir := t.TempDir()
	at := filepath.Join(dir, "mnt")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"-t", "tmpfs", "-o", "size=48m", "cowl-test", at}
	if kind == "ext4" {
		judge.Need(t, "mke2fs")
		image := filepath.Join(dir, "image")
		if out, err := exec.Command(judge.Find("mke2fs"), "-q", "-t", "ext4", "-m", "0", image, "48m").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		args = []string{"-o", "loop", image, at}
	}
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		judge.Absent(t, "mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	return at
}

// fill leaves so many bytes free in a file system, and returns the file that
// takes the rest.
func fill(t *testing.T, dir string, leave int64) string {
	t.Helper()
	syscall.Sync() // what is allocated late is
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-leave); err != nil {
		t.Fatal(err)
	}
	return path
}

// overwrite writes all blocks of a volume, with a flush now and then, and returns
// what it wrote and the first error.
func overwrite(t *testing.T, c *daemon.Client, lv string, seed uint64) ([]byte, error) {
	t.Helper()
	d, err := c.Open(context.Background(), lv, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var all []byte
	for no := range d.Size() / blockSize {
		b := stamped(no, seed)
		all = append(all, b...)
		if _, err := d.WriteAt(b, no*blockSize); err != nil {
			return all, err
		}
		if no%64 == 63 {
			if err := d.Flush(); err != nil {
				return all, err
			}
		}
	}
	return all, d.Flush()
}

// The file of a PV is sparse, and its file system is full. A snapshot that finds
// no room is lost, and says why; its origin, which has its place, goes on, and
// what was flushed is there also behind a kill.
func TestFullFileSystem(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			where := mounted(t, kind)
			s := newSite(t, where)
			c := s.serve()
			for _, lv := range []string{"data", "sparse"} {
				s.must("lvcreate", "-L", fmt.Sprint(size/mib), "-n", lv, "vg")
			}
			if _, err := overwrite(t, c, "data", 1); err != nil {
				t.Fatal(err)
			}
			s.must("lvcreate", "-s", "-l", "100%ORIGIN", "-n", "snap", "vg/data")
			s.must("lvcreate", "-s", "-l", "100%ORIGIN", "-n", "other", "vg/sparse")
			filler := fill(t, where, 2*mib)

			want, err := overwrite(t, c, "data", 2)
			if err != nil {
				t.Fatalf("the origin has all its room: %v", err)
			}
			lost := func() {
				t.Helper()
				if out := s.must("lvs", "--noheadings", "-o", "lv_attr,lv_snapshot_invalid", "vg/snap"); !strings.Contains(out, "snapshot invalid") || !strings.Contains(out, "swi-I") {
					t.Errorf("lvs says %q", out)
				}
			}
			lost()
			if out := s.must("lvdisplay", "vg/snap"); !strings.Contains(out, "no space left on device") || !strings.Contains(out, s.disk) {
				t.Errorf("lvdisplay does not say why, and where:\n%s", out)
			}
			if log, err := os.ReadFile(filepath.Join(s.dir, "run", "vg.log")); err != nil || !strings.Contains(string(log), "snapshot is lost") {
				t.Errorf("the daemon's log does not say it: %v\n%s", err, log)
			}
			d, err := c.Open(context.Background(), "snap", true)
			if err == nil {
				_, err = d.ReadAt(make([]byte, 512), 0)
				d.Close()
			}
			if err == nil {
				t.Error("a snapshot that is lost can be read")
			}
			_, err = overwrite(t, c, "sparse", 3)
			if !errs.Is(err, errs.NoSpace) {
				t.Errorf("a volume that has no room: %v", err)
			}
			s.kill(c.PID())
			c = s.serve()
			if !bytes.Equal(read(t, c, "data"), want) {
				t.Error("what was flushed is not there after a kill")
			}
			lost()

			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			for _, lv := range []string{"data", "sparse"} {
				want, err := overwrite(t, c, lv, 4)
				if err != nil || !bytes.Equal(read(t, c, lv), want) {
					t.Errorf("%s with room again: %v", lv, err)
				}
			}
			s.must("lvremove", "-y", "vg/snap")
			s.must("lvremove", "-y", "vg/other")
			s.must("lvcreate", "-s", "-l", "100%ORIGIN", "-n", "snap", "vg/data")
		})
	}
}

// Where a snapshot is to live, its policy holds also when it is the file system
// that is full: the origin's first writes fail, or wait until somebody makes room.
func TestFullFileSystemPolicies(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			where := mounted(t, kind)
			s := newSite(t, where)
			c := s.serve()
			s.must("lvcreate", "-L", fmt.Sprint(size/mib), "-n", "data", "vg")
			before, err := overwrite(t, c, "data", 1)
			if err != nil {
				t.Fatal(err)
			}
			filler := fill(t, where, 3*mib)
			s.must("lvcreate", "-s", "-l", "100%ORIGIN", "--onfull", "readonly", "-n", "snap", "vg/data")
			if _, err := overwrite(t, c, "data", 2); !errs.Is(err, errs.NoSpace) {
				t.Errorf("a first write without room: %v", err)
			}
			lives := func(when string) {
				t.Helper()
				if !bytes.Equal(read(t, c, "snap"), before) {
					t.Errorf("%s: the snapshot has changed", when)
				}
			}
			lives("full")
			if out := s.must("lvdisplay", "vg/snap"); !strings.Contains(out, "no space left on device") || !strings.Contains(out, s.disk) {
				t.Errorf("lvdisplay does not say why, and where:\n%s", out)
			}
			s.kill(c.PID())
			c = s.serve()
			lives("after a kill")
			if _, err := overwrite(t, c, "data", 3); !errs.Is(err, errs.NoSpace) {
				t.Errorf("a first write after a kill: %v", err)
			}

			s.must("lvchange", "--onfull", "hold", "vg/snap")
			type result struct {
				want []byte
				err  error
			}
			done := make(chan result, 1)
			go func() {
				want, err := overwrite(t, c, "data", 4)
				done <- result{want, err}
			}()
			for {
				if out := s.must("lvs", "--noheadings", "-o", "waiting_writes", "vg/snap"); strings.TrimSpace(out) != "0" {
					break
				}
			}
			lives("while a write waits")
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			r := <-done
			if r.err != nil || !bytes.Equal(read(t, c, "data"), r.want) {
				t.Errorf("with room again: %v", r.err)
			}
			lives("with room")
			s.must("lvremove", "-y", "vg/snap")
		})
	}
}
