//go:build unix

package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	"cowl/test/asprogram"
)

func TestMain(m *testing.M) { asprogram.Main(m) }

// site is a directory in which cowl is run.
type site struct {
	t    *testing.T
	dir  string
	cowl string
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-ovl-") // short: sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &site{t, dir, asprogram.Install(t)}
}

func (s *site) at(name string) string { return filepath.Join(s.dir, name) }

// run runs a program in the site and returns what it printed.
func (s *site) run(argv ...string) string {
	s.t.Helper()
	if argv[0] == "cowl" {
		argv[0] = s.cowl
	} else {
		argv[0] = judge.Find(argv[0])
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = s.dir, asprogram.Environ(s.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// server is a "cowl overlay serve" at work.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    bytes.Buffer
	socket string
	uri    string
}

func (s *site) serve(name string) *server {
	s.t.Helper()
	v := &server{t: s.t, socket: s.at(name + ".sock")}
	v.uri = "nbd+unix:///" + name + "?socket=" + v.socket
	v.cmd = exec.Command(s.cowl, "overlay", "serve", "--nofiles", "--socket", v.socket, name)
	v.cmd.Dir, v.cmd.Env = s.dir, asprogram.Environ(s.dir)
	v.cmd.Stdout, v.cmd.Stderr = &v.out, &v.out
	if err := v.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { v.cmd.Process.Kill(); v.cmd.Wait() })
	v.dial(name).Close()
	return v
}

// dial waits until the server answers.
func (v *server) dial(name string) block.Device {
	v.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		dev, err := nbd.Dial(context.Background(), "unix", v.socket, name)
		if err == nil {
			return dev
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("%v\n%s", err, v.out.String())
		}
	}
}

// end asks the server to end.
func (v *server) end() {
	v.t.Helper()
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		v.t.Fatal(err)
	}
	if err := v.cmd.Wait(); err != nil {
		v.t.Fatalf("%v\n%s", err, v.out.String())
	}
}

// kill kills it.
func (v *server) kill() {
	v.t.Helper()
	if err := v.cmd.Process.Kill(); err != nil {
		v.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := v.cmd.Wait(); !errors.As(err, &exit) {
		v.t.Fatal(err)
	}
}

// image writes random bytes with holes in between.
func (s *site) image(name string, size int64) []byte {
	s.t.Helper()
	rng := rand.New(rand.NewPCG(blocktest.Seed(s.t), 0))
	content := make([]byte, size)
	for off := int64(0); off < size; off += 128 << 10 {
		if rng.IntN(2) == 0 {
			for i := off; i < min(off+128<<10, size); i++ {
				content[i] = byte(rng.Uint32())
			}
		}
	}
	f, err := os.Create(s.at(name))
	if err == nil {
		err = f.Truncate(size)
	}
	for off := int64(0); off < size && err == nil; off += 128 << 10 {
		if part := content[off:min(off+128<<10, size)]; !bytes.Equal(part, make([]byte, len(part))) {
			_, err = f.WriteAt(part, off)
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
	return content
}

// Programs of others read and write overlays over raw and qcow2 images: what
// they read is the image, what they write is there, and the base is as it was.
func TestClients(t *testing.T) {
	judge.Need(t, "qemu-img", "nbdcopy", "fio")
	s := newSite(t)
	base := s.image("base", 16<<20)
	s.image("other", 16<<20)
	s.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "base", "qbase")
	for _, b := range []string{"base", "qbase"} {
		cow := b + ".cow"
		s.run("cowl", "overlay", "create", b, cow)
		v := s.serve(cow)
		s.run("qemu-img", "compare", "-f", "raw", "-F", "raw", v.uri, "base")
		s.run("nbdcopy", v.uri, b+".copy")
		if got, err := os.ReadFile(s.at(b + ".copy")); err != nil || !bytes.Equal(got, base) {
			t.Errorf("nbdcopy from an overlay on %s: not the image's content, %v", b, err)
		}
		s.run("fio", "--name=judge", "--ioengine=nbd", "--uri="+v.uri, "--size=16m", "--rw=randwrite", "--bsrange=512-64k", "--iodepth=16",
			"--fsync=64", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=0", "--output-format=terse")
		s.run("nbdcopy", "--destination-is-zero", "other", v.uri)
		s.run("nbdcopy", "other", v.uri)
		s.run("qemu-img", "compare", "-f", "raw", "-F", "raw", v.uri, "other")
		v.end()
		s.run("qemu-img", "compare", "-F", "raw", b, "base") // untouched
		v = s.serve(cow)
		s.run("qemu-img", "compare", "-f", "raw", "-F", "raw", v.uri, "other")
		v.end()
	}
	s.run("cowl", "overlay", "merge", "-y", "base.cow")
	s.run("qemu-img", "compare", "-f", "raw", "-F", "raw", "base", "other")
}

// Killed again and again while somebody writes: what was flushed is there.
func TestKilled(t *testing.T) {
	s := newSite(t)
	want := s.image("base", 4<<20)
	s.run("cowl", "overlay", "create", "base", "a.cow")
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 1))
	rounds := 4
	if blocktest.Long() {
		rounds = 100
	}
	for round := range rounds {
		v := s.serve("a.cow")
		dev := v.dial("a.cow")
		if got := blocktest.ReadAll(t, dev); !bytes.Equal(got, want) {
			t.Fatalf("round %d: what was flushed is not there", round)
		}
		for range 50 {
			off := rng.Int64N(int64(len(want)))
			p := bytes.Repeat([]byte{byte(rng.Uint32())}, int(min(1+rng.Int64N(100000), int64(len(want))-off)))
			copy(want[off:], p)
			if _, err := dev.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
		v.kill()
		_ = dev.Close()
	}
	if out := s.run("cowl", "overlay", "list"); !strings.Contains(out, " ok\n") {
		t.Error(out)
	}
}

// A merge is killed again and again, and ends.
func TestMergeKilled(t *testing.T) {
	s := newSite(t)
	want := s.image("base", 32<<20)
	s.run("cowl", "overlay", "create", "base", "a.cow")
	v := s.serve("a.cow")
	dev := v.dial("a.cow")
	for off := int64(0); off < int64(len(want)); off += 9000 {
		p := bytes.Repeat([]byte(fmt.Sprintf("%8d", off)), 500)[:min(4000, int64(len(want))-off)]
		copy(want[off:], p)
		if _, err := dev.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(dev.Flush(), dev.Close()); err != nil {
		t.Fatal(err)
	}
	v.end()
	killed := 0
	for wait := time.Millisecond; ; wait = wait * 3 / 2 {
		cmd := exec.Command(s.cowl, "overlay", "merge", "-y", "a.cow")
		cmd.Dir, cmd.Env = s.dir, asprogram.Environ(s.dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(wait, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		if timer.Stop() && err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if err == nil {
			break
		}
		killed++
	}
	t.Logf("killed %d times", killed)
	if got, err := os.ReadFile(s.at("base")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the base is not what the overlay showed, %v", err)
	}
}
