//go:build unix

package growth

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
	"testing"
	"time"

	"cowl/internal/block/blocktest"
	"cowl/internal/export/nbd"
	"cowl/internal/judge"
	"cowl/test/asprogram"
)

const size = 32 << 20 // of the volume

func TestMain(m *testing.M) { asprogram.Main(m) }

// site is a directory with an active group vg: a volume data that holds noise,
// with a snapshot snap of 1 MiB.
type site struct {
	t    *testing.T
	dir  string
	cowl string
	old  []byte // what data held at the snapshot's instant
}

// newSite makes the group, with so many MiB free beside volume and snapshot.
func newSite(t *testing.T, free int, onFull string) *site {
	t.Helper()
	judge.Need(t, "fio")
	dir, err := os.MkdirTemp("", "cowl-grow-") // short: sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, cowl: asprogram.Install(t), old: make([]byte, size)}
	t.Cleanup(func() {
		if out, err := s.command("vgchange -an vg").CombinedOutput(); err != nil {
			t.Errorf("vgchange -an: %v\n%s", err, out)
		}
		os.RemoveAll(dir)
	})
	s.image("disk", size>>20+1+free+1) // the last is for the label
	s.run("vgcreate -s 1m vg disk")
	s.run("lvcreate -L 32M -n data vg")
	s.run("vgchange -ay vg")
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for i := range s.old {
		s.old[i] = byte(rng.Uint32())
	}
	d := s.open("data")
	if _, err := d.WriteAt(s.old, 0); err != nil {
		t.Fatal(err)
	}
	d.Close()
	s.run("lvcreate -s -L 1M -n snap --onfull " + onFull + " vg/data")
	return s
}

func (s *site) image(name string, mib int) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, int64(mib)<<20)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) command(args string) *exec.Cmd {
	cmd := exec.Command(s.cowl, strings.Fields(args)...)
	cmd.Dir, cmd.Env = s.dir, asprogram.Environ(s.dir)
	return cmd
}

func (s *site) run(args string) string {
	s.t.Helper()
	cmd := s.command(args)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("cowl %s: %v\n%s", args, err, &talk)
	}
	return strings.TrimSpace(string(out))
}

func (s *site) socket() string { return filepath.Join(s.dir, "run", "vg.nbd") }

func (s *site) open(lv string) *nbd.Device {
	s.t.Helper()
	d, err := nbd.Dial(context.Background(), "unix", s.socket(), lv)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// fio overwrites the whole volume in blocks of a size, in any order.
func (s *site) fio(block string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(judge.Find("fio"), "--name=judge", "--ioengine=nbd",
		fmt.Sprintf("--uri=nbd+unix:///data?socket=%s", s.socket()),
		"--size=32m", "--rw=randwrite", "--bs="+block, "--iodepth=32", "--end_fsync=1")
	cmd.Dir = s.dir
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// lives reports whether the snapshot is valid, and then wants its instant.
func (s *site) lives() bool {
	s.t.Helper()
	attr := s.run("lvs --noheadings -o lv_attr vg/snap")
	if attr[4] == 'I' {
		return false
	}
	d := s.open("snap")
	defer d.Close()
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, s.old) {
		s.t.Errorf("the snapshot does not show its instant: %v", err)
	}
	return true
}

// With free extents no write fails, and the snapshot shows its instant.
func TestGrows(t *testing.T) {
	for _, block := range []string{"4k", "1m"} {
		t.Run(block, func(t *testing.T) {
			s := newSite(t, 40, "invalidate")
			cmd, out := s.fio(block)
			if err := cmd.Run(); err != nil {
				t.Fatalf("fio: %v\n%s", err, out)
			}
			if !s.lives() {
				t.Error("the snapshot is lost")
			}
			t.Log(s.run("lvs --noheadings -o lv_size,data_percent vg/snap"))
		})
	}
}

// When nothing is left, LVM's way loses the snapshot and no write.
func TestFullInvalidates(t *testing.T) {
	s := newSite(t, 4, "invalidate")
	cmd, out := s.fio("4k")
	if err := cmd.Run(); err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	if s.lives() {
		t.Error("the snapshot has room for what there is none for")
	}
}

// Under readonly the client is told, and the snapshot lives.
func TestFullRefuses(t *testing.T) {
	s := newSite(t, 4, "readonly")
	cmd, out := s.fio("4k")
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "No space left on device") {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	if !s.lives() {
		t.Error("the snapshot is lost")
	}
}

// Under hold the client waits, others read, and when the group gets space it
// goes on.
func TestFullHolds(t *testing.T) {
	s := newSite(t, 4, "hold")
	cmd, out := s.fio("4k")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(time.Minute); s.run("lvs --noheadings -o waiting_writes vg/snap --select waiting_writes>0") == ""; {
		select {
		case err := <-ended:
			t.Fatalf("fio has ended: %v\n%s", err, out)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("no write waits")
		}
	}
	if !s.lives() {
		t.Fatal("the snapshot is lost")
	}
	s.image("more", 48)
	s.run("pvcreate more")
	s.run("vgextend vg more")
	if err := <-ended; err != nil {
		t.Fatalf("fio: %v\n%s", err, out)
	}
	if !s.lives() {
		t.Error("the snapshot is lost")
	}
}
