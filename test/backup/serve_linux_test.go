package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/export/nbd"
	"cowl/internal/judge"
)

// served is a "cowl serve BACKUP" at work, and what it said first.
type served struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, log bytes.Buffer
	ended    chan error

	NBD, File, Socket string
	Context           string `json:"changed_context"`
}

// serve starts one and waits until clients can connect.
func (s *site) serve(args string) *served {
	s.t.Helper()
	v := &served{t: s.t, Socket: s.path("b.sock"), ended: make(chan error, 1)}
	v.cmd = s.command("serve --json --socket " + v.Socket + " " + args)
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	v.cmd.Stdout, v.cmd.Stderr = w, &v.log
	if err := v.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	if err := json.NewDecoder(r).Decode(v); err != nil {
		v.cmd.Wait()
		s.t.Fatalf("serve %s: %v\n%s", args, err, v.log.String())
	}
	s.t.Cleanup(func() {
		if v.cmd.ProcessState == nil {
			v.cmd.Process.Kill()
			v.cmd.Wait()
		}
	})
	return v
}

// end ends it, and returns what it logged.
func (v *served) end() string {
	v.t.Helper()
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		v.t.Fatal(err)
	}
	if err := v.cmd.Wait(); err != nil {
		v.t.Errorf("serve ended with %v\n%s", err, v.log.String())
	}
	return v.log.String()
}

func (v *served) dial() block.Device {
	v.t.Helper()
	dev, err := nbd.Dial(context.Background(), "unix", v.Socket, "")
	if err != nil {
		v.t.Fatal(err)
	}
	return dev
}

// judged runs a judge and returns what it says.
func judged(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(judge.Find(name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// writeOnWire sends a WRITE as no well-behaved client of a read-only export
// does, and returns the server's error number.
func writeOnWire(t *testing.T, socket string) uint32 {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	be := binary.BigEndian
	exchange := func(say []byte, n int) []byte {
		if _, err := c.Write(say); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, n)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	exchange(nil, 18)
	// EXPORT_NAME of the default export; size, flags and 124 zeroes come back.
	hello := be.AppendUint32(be.AppendUint32(append([]byte{0, 0, 0, 1}, "IHAVEOPT"...), 1), 0)
	if flags := be.Uint16(exchange(hello, 8+2+124)[8:]); flags&2 == 0 {
		t.Errorf("transmission flags %#x do not say that the export is read-only", flags)
	}
	write := be.AppendUint32(nil, 0x25609513)
	write = append(write, 0, 0, 0, 1)          // WRITE
	write = append(write, make([]byte, 16)...) // cookie, offset
	write = append(be.AppendUint32(write, 4), 'e', 'v', 'i', 'l')
	return be.Uint32(exchange(write, 16)[4:])
}

// fileSystem makes an image of a file system with files in it, and a second
// state of that in which a few blocks differ.
func (s *site) fileSystem() (first, second []byte) {
	s.t.Helper()
	if err := os.MkdirAll(s.path("tree/dir"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{byte(blocktest.Seed(s.t))})
	for _, name := range []string{"tree/one", "tree/dir/two"} {
		b := make([]byte, 3*mib+17)
		rng.Read(b)
		if err := os.WriteFile(s.path(name), b, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	judged(s.t, "mke2fs", "-q", "-t", "ext4", "-d", s.path("tree"), s.path("first.img"), "96M")
	first, err := os.ReadFile(s.path("first.img"))
	if err != nil {
		s.t.Fatal(err)
	}
	second = bytes.Clone(first)
	for _, off := range []int{10 * mib, 40*mib - 1, 80 * mib} {
		copy(second[off:], "changed")
	}
	if err := os.WriteFile(s.path("second.img"), second, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return first, second
}

// stored is a site with both states of a volume backed up into a repository.
func stored(t *testing.T) (s *site, first, second []byte, ids [2]string) {
	t.Helper()
	t.Setenv("COWL_PASSWORD", "secret")
	s = newSite(t, gib)
	first, second = s.fileSystem()
	s.must("lvcreate -L 96M -n data vg")
	s.must("repo init repo:repo --kdf pbkdf2")
	for i, name := range []string{"first.img", "second.img"} {
		s.must("restore --force --in-place " + name + " vg/data")
		var report struct{ Backup string }
		if err := json.Unmarshal([]byte(s.must("backup vg/data --to repo:repo --json")), &report); err != nil {
			t.Fatal(err)
		}
		ids[i] = report.Backup
	}
	return s, first, second, ids
}

// What clients of NBD and the kernel see of a backup in a repository is what
// the volume held, and nobody can change it.
func TestServeStored(t *testing.T) {
	judge.Need(t, "mke2fs", "e2fsck", "nbdinfo", "nbdcopy", "qemu-img", "cmp")
	s, first, second, ids := stored(t)
	v := s.serve("repo:repo::" + ids[1] + " --against repo:repo::" + ids[0])

	judged(t, "nbdcopy", v.NBD, s.path("copy.img"))
	judged(t, "cmp", s.path("copy.img"), s.path("second.img"))
	judged(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", v.NBD, s.path("second.img"))
	judged(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", v.NBD, s.path("copy.qcow2"))
	judged(t, "qemu-img", "compare", "-F", "raw", s.path("copy.qcow2"), s.path("second.img"))

	type run struct{ Offset, Length, Type int64 }
	asked := func(context string) (runs []run) {
		if err := json.Unmarshal([]byte(judged(t, "nbdinfo", "--json", "--map="+context, v.NBD)), &runs); err != nil {
			t.Fatal(err)
		}
		return runs
	}
	var at, dirty, holes int64
	for _, r := range asked(v.Context) {
		if r.Offset != at {
			t.Fatalf("the map goes on at %d after %d", r.Offset, at)
		}
		if at += r.Length; r.Type == 1 {
			dirty += r.Length
		} else if !bytes.Equal(first[r.Offset:at], second[r.Offset:at]) {
			t.Errorf("%d bytes at %d differ and are not marked", r.Length, r.Offset)
		}
	}
	if at != int64(len(second)) || dirty == 0 || dirty > 4*64<<10 {
		t.Errorf("%d bytes of %d are marked", dirty, at)
	}
	for _, r := range asked("base:allocation") {
		if r.Type != 0 {
			holes += r.Length
			if len(bytes.Trim(second[r.Offset:][:r.Length], "\x00")) > 0 {
				t.Errorf("%d bytes at %d are called a hole", r.Length, r.Offset)
			}
		}
	}
	if holes < 64*mib {
		t.Errorf("%d bytes of holes", holes)
	}
	const eperm = 1
	if got := writeOnWire(t, v.Socket); got != eperm {
		t.Errorf("a write is answered with error %d", got)
	}
	if v.File != "" {
		judged(t, "e2fsck", "-fn", v.File)
		judged(t, "cmp", v.File, s.path("second.img"))
		if err := os.WriteFile(v.File, []byte("evil"), 0o600); err == nil {
			t.Error("the file can be written")
		}
		s.readsThroughLoop(v.File)
	}

	// It cannot be forgotten or cleared away meanwhile, both of them.
	before, err := os.ReadFile(s.path("second.img"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		s.warns("forget repo:repo::"+id+" --json", "is kept for now", `"forgotten": []`)
	}
	s.must("repo maintain repo:repo")
	dev := v.dial()
	got := make([]byte, len(before))
	if _, err := dev.ReadAt(got, 0); err != nil || !bytes.Equal(got, before) {
		t.Errorf("after maintenance it reads otherwise (%v)", err)
	}
	dev.Close()
	if log := v.end(); log != "" {
		t.Errorf("it logged\n%s", log)
	}
	s.must("forget repo:repo::" + ids[0])
}

// warns runs a command that ends well, warns, and says what it did not do.
func (s *site) warns(args, warning, out string) {
	s.t.Helper()
	stdout, talk, code := s.run(args)
	if code != 0 || !strings.Contains(talk, warning) || !strings.Contains(stdout, out) {
		s.t.Errorf("cowl %s: exit code %d\n%s%s", args, code, stdout, talk)
	}
}

// readsThroughLoop mounts the file as a person would.
func (s *site) readsThroughLoop(file string) {
	if os.Geteuid() != 0 {
		return
	}
	if err := os.MkdirAll(s.path("mnt"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	judged(s.t, "mount", "-o", "ro,loop", file, s.path("mnt"))
	defer func() {
		judged(s.t, "umount", s.path("mnt"))
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if out, err := exec.Command(judge.Find("losetup"), "-j", file).Output(); err == nil && len(out) == 0 {
				return
			}
		}
	}()
	judged(s.t, "cmp", s.path("tree/dir/two"), s.path("mnt/dir/two"))
}

// A chunk that is damaged is an error, named in the log; all others can be read.
func TestServeDamaged(t *testing.T) {
	s, _, second, ids := stored(t)
	s.damageLargest("repo")
	v := s.serve("--nofiles repo:repo::" + ids[1])
	dev := v.dial()
	good, bad := 0, 0
	for off := int64(0); off < int64(len(second)); off += 64 << 10 {
		got := make([]byte, 64<<10)
		if _, err := dev.ReadAt(got, off); err != nil {
			bad++
		} else if good++; !bytes.Equal(got, second[off:][:len(got)]) {
			t.Fatalf("wrong data at %d", off)
		}
	}
	dev.Close()
	log := v.end()
	if bad == 0 || good == 0 || !strings.Contains(log, "it cannot be read") || !strings.Contains(log, "is damaged or missing") {
		t.Errorf("%d reads failed, %d did not, and the log says\n%s", bad, good, log)
	}
}

// damageLargest flips a bit in the middle of the largest file below a directory.
func (s *site) damageLargest(dir string) {
	s.t.Helper()
	var largest string
	var size int64
	err := filepath.WalkDir(s.path(dir), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if fi, err := d.Info(); err == nil && fi.Size() > size {
			largest, size = path, fi.Size()
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := os.ReadFile(largest)
	if err != nil {
		s.t.Fatal(err)
	}
	b[size/2] ^= 1
	if err := os.Chmod(largest, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(largest, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// An image is served while it is what its manifest says.
func TestServeImage(t *testing.T) {
	judge.Need(t, "mke2fs", "nbdcopy", "cmp")
	s := newSite(t, gib)
	s.fileSystem()
	s.must("lvcreate -L 96M -n data vg")
	s.must("restore --force first.img vg/data")
	s.must("backup vg/data --to backups")
	image := s.image("raw")
	s.must("restore --force second.img vg/data")

	v := s.serve("--nofiles " + image + " --against vg/data")
	judged(t, "nbdcopy", v.NBD, s.path("copy.img"))
	judged(t, "cmp", s.path("copy.img"), s.path("first.img"))
	if out := judged(t, "nbdinfo", "--map="+v.Context, "--totals", v.NBD); !strings.Contains(out, "16384") { // four blocks of 4 KiB
		t.Errorf("what differs from the volume:\n%s", out)
	}
	v.end()

	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, 5*mib); err != nil {
		t.Fatal(err)
	}
	f.Close()
	v = s.serve("--nofiles backups::" + filepath.Base(image))
	dev := v.dial()
	if _, err := dev.ReadAt(make([]byte, 512), 0); err == nil {
		t.Error("a range that is damaged can be read")
	}
	if _, err := dev.ReadAt(make([]byte, 512), 64*mib); err != nil {
		t.Errorf("one that is not: %v", err)
	}
	dev.Close()
	if log := v.end(); !strings.Contains(log, "bytes 0 to 67108863: SHA-256 differs") {
		t.Errorf("the log says\n%s", log)
	}
	v = s.serve("--nofiles --unchecked " + image)
	judged(t, "nbdcopy", v.NBD, s.path("copy.img"))
	judged(t, "cmp", s.path("copy.img"), image)
	v.end()
}
