package backup

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cowl/internal/judge"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// The volume of the tests that interrupt a backup is 16 GiB of hole: the hash
// of the whole alone takes long enough to come in between.

// Ctrl-C: the snapshot and the half image are gone, and the exit code says so.
func TestInterrupted(t *testing.T) {
	s := newSite(t, 40*gib)
	s.must("lvcreate -L 16G -n big vg")
	for _, served := range []bool{false, true} {
		if served {
			s.must("vgchange -ay vg")
		}
		cmd := s.command("backup vg/big --to backups -L 64M")
		var talk bytes.Buffer
		cmd.Stderr = &talk
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.partial()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		interrupted := time.Now()
		err := cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 5 || !strings.Contains(talk.String(), "interrupted") {
			t.Errorf("served %v: exit code %d (%v)\n%s", served, code, err, &talk)
		}
		if took := time.Since(interrupted); took > 10*time.Second {
			t.Errorf("served %v: it took %v to end", served, took)
		}
		s.nothingLeft("big")
	}
	s.must("vgchange -an vg")
}

// kill -9: the next run names what was left and how to remove it, the commands
// that it names do that, and the run after is silent.
func TestKilled(t *testing.T) {
	s := newSite(t, 40*gib)
	s.must("lvcreate -L 16G -n big vg")
	s.must("vgchange -ay vg")
	cmd := s.command("backup vg/big --to backups -L 64M")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	partial := s.partial()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got, err := filepath.Glob(s.path("backups/*.raw")); err != nil || len(got) > 0 {
		t.Errorf("a killed backup left what looks like a good one: %q", got)
	}
	var snapshot string
	for _, name := range s.volumes() {
		if strings.HasPrefix(name, "big.backup_") {
			snapshot = name
		}
	}
	if snapshot == "" {
		t.Fatalf("volumes are %q: where is the killed backup's snapshot?", s.volumes())
	}
	if tags := s.must("lvs --noheadings -o lv_tags vg/" + snapshot); !strings.Contains(tags, "cowl.backup") {
		t.Errorf("its tags are %q", tags)
	}
	_, talk, code := s.run("backup -t vg/big --to backups")
	remove := "cowl cleanup vg"
	rm := "rm 'backups/" + filepath.Base(partial) + "'"
	if code != 0 || !strings.Contains(talk, remove) || !strings.Contains(talk, rm) {
		t.Errorf("the next run (exit code %d) does not name %s and %s:\n%s", code, remove, rm, talk)
	}
	s.must(strings.TrimPrefix(remove, "cowl "))
	if err := os.Remove(partial); err != nil {
		t.Fatal(err)
	}
	if _, talk, _ := s.run("backup -t vg/big --to backups"); strings.Contains(talk, "killed") {
		t.Errorf("still:\n%s", talk)
	}
	s.nothingLeft("big")
	s.must("vgchange -an vg")
}

// kill -9 while something rests for the snapshot: it goes on all the same.
func TestKilledAtRest(t *testing.T) {
	judge.NeedFile(t, "/bin/sh")
	s := newSite(t, gib)
	s.must("lvcreate -L 16M -n lv vg")
	log := s.path("log")
	cmd := s.command("backup vg/lv --to backups")
	// The hook's parent is cowl.
	cmd.Args = append(cmd.Args, "--before-snapshot", "echo rests >> "+log+"; kill -9 $PPID",
		"--after-snapshot", `echo "$COWL_STAGE $COWL_RESULT: $COWL_ERROR" >> `+log)
	if err := cmd.Run(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the backup was to be killed: %v", cmd.ProcessState)
	}
	const want = "rests\nafter-snapshot failed: cowl was killed\n"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(log)
		if string(text) == want {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the hooks have written %q (%v)", text, err)
		}
	}
	if got := s.volumes(); len(got) != 1 {
		t.Errorf("volumes are %q", got)
	}
}

// The daemon dies under a backup: no image, and the snapshot that nobody could
// remove is named with the command that does it.
func TestDaemonKilled(t *testing.T) {
	s := newSite(t, 40*gib)
	s.must("lvcreate -L 16G -n big vg")
	s.must("vgchange -ay vg")
	cmd := s.command("backup vg/big --to backups -L 64M")
	var talk bytes.Buffer
	cmd.Stderr = &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.partial()
	st, err := s.group().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(st.Owner, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	_ = cmd.Wait()
	if took := time.Since(killed); took > 20*time.Second {
		t.Errorf("it took %v to notice", took)
	}
	_, remove, found := strings.Cut(talk.String(), "remove it with: cowl ")
	if code := cmd.ProcessState.ExitCode(); code != 5 || !found {
		t.Fatalf("exit code %d\n%s", code, &talk)
	}
	s.must(strings.TrimSpace(strings.SplitN(remove, "\n", 2)[0]))
	s.nothingLeft("big")
	// The next daemon finds its predecessor's mount, and takes it over.
	s.must("vgchange -ay vg")
	if _, err := os.ReadDir(s.path("run/vg")); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	s.must("vgchange -an vg")
}

// A snapshot that overflows under load fails the backup.
func TestOverflow(t *testing.T) {
	s := newSite(t, 20*gib)
	if err := os.WriteFile(s.path("state/cowl.conf"), []byte("activation/snapshot_autoextend_threshold = 100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("lvcreate -L 16G -n data vg")
	s.must("vgchange -ay vg")
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		dev := s.open("data")
		defer dev.Close()
		rng := rand.New(rand.NewPCG(1, 1))
		b := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := dev.WriteAt(b, rng.Int64N(256*mib)&^4095); err != nil {
				t.Error(err)
				return
			}
			if err := dev.Flush(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	s.fails("backup vg/data --to backups -L 4M", "overflowed")
	close(stop)
	writer.Wait()
	s.nothingLeft("data")
	s.must("vgchange -an vg")
}

// fill writes noise at the beginning of a volume.
func fill(t *testing.T, s *site, lv string, size int64) []byte {
	t.Helper()
	dev := s.open(lv)
	defer dev.Close()
	b := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	if _, err := dev.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Flush(); err != nil {
		t.Fatal(err)
	}
	return b
}

// A full target disk.
func TestFullTarget(t *testing.T) {
	judge.NeedRoot(t)
	judge.Need(t, "mount", "umount")
	s := newSite(t, gib)
	s.must("lvcreate -L 64M -n data vg")
	s.must("vgchange -ay vg")
	fill(t, s, "data", 16*mib)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", s.path("backups")).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", s.path("backups")).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	s.fails("backup vg/data --to backups", "no space left on device")
	s.nothingLeft("data")
	s.must("vgchange -an vg")
}

// Backup and restore of a volume in use, with the program's JSON.
func TestRoundTrip(t *testing.T) {
	s := newSite(t, gib)
	s.must("lvcreate -L 96M -n data vg")
	s.must("vgchange -ay vg")
	want := fill(t, s, "data", 20*mib)
	holder := s.open("data")
	var r struct {
		Image, SHA256 string
		Read          int64 `json:"read_bytes"`
		Stored        int64 `json:"stored_bytes"`
	}
	if err := json.Unmarshal([]byte(s.must("backup vg/data --to backups --json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.Read > 24*mib || r.Stored > 24*mib {
		t.Errorf("20 MiB in a volume of 96: %d bytes read, %d stored", r.Read, r.Stored)
	}
	if _, err := holder.WriteAt(make([]byte, 4*mib), 8*mib); err != nil {
		t.Fatal(err)
	}
	s.fails("restore "+r.Image+" vg/data", "vg/data is in use (1 open)")
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	s.must("restore " + r.Image + " vg/data")
	dev := s.open("data")
	got := make([]byte, 96*mib)
	if _, err := dev.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:20*mib], want) || len(bytes.Trim(got[20*mib:], "\x00")) > 0 {
		t.Error("the volume is not what was backed up")
	}
	s.must("vgchange -an vg")
	// The same into a group that nobody serves.
	s.must("lvcreate -L 100M -n other vg")
	s.must("restore " + r.Image + " vg/other")
	s.must("backup vg/other --to backups")
	if got := s.volumes(); !slices.Equal(got, []string{"data", "other"}) {
		t.Errorf("volumes are %q", got)
	}
}

// A process that reads from the exported file keeps a restore away.
func TestRestoreWhileMounted(t *testing.T) {
	s := mountedSite(t)
	s.must("backup vg/data --to backups")
	s.fails("restore "+s.image("raw")+" vg/data", "in use")
}

// mountedSite has an ext4 on vg/data, mounted on "mnt" through the daemon's
// file and a loop device.
func mountedSite(t *testing.T) *site {
	t.Helper()
	judge.NeedLoop(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "mke2fs", "mount", "umount", "tar")
	s := newSite(t, gib)
	s.must("lvcreate -L 128M -n data vg")
	s.must("vgchange -ay vg")
	tool := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(judge.Find(args[0]), args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	tool("mke2fs", "-q", "-t", "ext4", s.path("run/vg/data"))
	if err := os.Mkdir(s.path("mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	tool("mount", "-o", "loop", s.path("run/vg/data"), s.path("mnt"))
	t.Cleanup(func() {
		tool("umount", s.path("mnt"))
		// The loop device lets go of the file a little later.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			_, talk, code := s.run("vgchange -an vg")
			if code == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("vgchange -an: %s", talk)
				return
			}
		}
	})
	return s
}

// Files of a mounted file system come into the archive as they were when the
// snapshot was taken, with the journal replayed.
func TestTarOfMountedVolume(t *testing.T) {
	s := mountedSite(t)
	mnt := s.path("mnt")
	for name, size := range map[string]int{"a": 10, "b": 100_000, "c": 5 * mib} {
		if err := os.WriteFile(filepath.Join(mnt, name), bytes.Repeat([]byte(name), size), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(mnt, "b"), filepath.Join(mnt, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(mnt, "soft")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(filepath.Join(mnt, "a"), "user.note", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	// On the volume, but not checkpointed: most of it is in the journal only.
	if out, err := exec.Command("sync", "-f", mnt).CombinedOutput(); err != nil {
		t.Fatalf("sync: %v\n%s", err, out)
	}
	out := s.must("backup vg/data --to backups --format tar")
	if !strings.Contains(out, "7 files") { // with "./" and lost+found
		t.Errorf("it says\n%s", out)
	}
	image := s.image("tar")
	compare := exec.Command("tar", "--compare", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", mnt, "-f", image)
	if out, err := compare.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar --compare: %v\n%s", err, out)
	}
	s.must("verify " + image)
	s.fails("restore "+image+" vg/data", "holds files")
	if got := s.volumes(); !slices.Equal(got, []string{"data"}) {
		t.Errorf("volumes are %q", got)
	}
}
