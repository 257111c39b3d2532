package backup

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/judge"
)

// frozenSite is a group whose volumes a and b are ext4s, mounted by loop devices
// over the files that cowl shows of them.
func frozenSite(t *testing.T) (s *site, points map[string]string) {
	t.Helper()
	judge.NeedLoop(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "mke2fs", "mount", "umount", "fsfreeze")
	s = newSite(t, 512*mib)
	t.Cleanup(s.deactivate)
	points = map[string]string{}
	for _, lv := range []string{"a", "b"} {
		s.must("lvcreate -L 32M -n " + lv + " vg")
		points[lv] = s.path("mnt-" + lv)
	}
	s.must("vgchange -ay vg")
	for lv, point := range points {
		if out, err := exec.Command(judge.Find("mke2fs"), "-q", "-t", "ext4", s.path("run/vg/"+lv)).CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v\n%s", err, out)
		}
		s.mountVolume(lv, point)
	}
	return s, points
}

// write puts a file where nothing but a freeze brings it to the volume at once.
func (s *site) write(path, content string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// What was written through a mounted file system and not synced is in a snapshot
// that is taken then, however it is taken, and while others go on writing.
func TestSnapshotsOfMounts(t *testing.T) {
	s, points := frozenSite(t)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	t.Cleanup(func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := os.WriteFile(filepath.Join(points["a"], fmt.Sprint("busy", i%8)), make([]byte, 64<<10), 0o600); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for name, c := range map[string]struct {
		command   string
		volumes   []string
		snapshots []string
	}{
		"lvcreate":  {"lvcreate -s -L 16M -n one vg/a", []string{"a"}, []string{"one"}},
		"snapshot":  {"snapshot vg/a -L 16M -n two", []string{"a"}, []string{"two"}},
		"both":      {"snapshot vg/a vg/b -L 16M -n {lv}-three", []string{"a", "b"}, []string{"a-three", "b-three"}},
		"read only": {"lvcreate -s -L 16M -p r -n four vg/b", []string{"b"}, []string{"four"}},
	} {
		for _, lv := range c.volumes {
			s.write(filepath.Join(points[lv], "just-now"), name)
		}
		out := s.must(c.command)
		for i, lv := range c.volumes {
			if !strings.Contains(out, points[lv]) {
				t.Errorf("%s: does not say that %s was frozen:\n%s", name, points[lv], out)
			}
			if got := s.must("cat vg/" + c.snapshots[i] + ":/just-now"); got != name {
				t.Errorf("%s: snapshot %s has %q, want what was written before: %q", name, c.snapshots[i], got, name)
			}
		}
		for _, snap := range c.snapshots {
			s.must("lvremove -y vg/" + snap)
		}
	}
}

// What does not rest is told about, and there is a snapshot all the same.
func TestSnapshotsWithoutRest(t *testing.T) {
	s, points := frozenSite(t)
	snapshot := func(options string) (r struct {
		Frozen []string
		Notes  []string
	}, talk string) {
		t.Helper()
		out, talk, code := s.run("snapshot vg/a -L 16M -n snap --json " + options)
		if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
			t.Fatalf("exit code %d, %v\n%s%s", code, err, out, talk)
		}
		s.must("lvremove -y vg/snap")
		return r, talk
	}
	if r, talk := snapshot(""); !slices.Equal(r.Frozen, []string{points["a"]}) || talk != "" {
		t.Errorf("%+v\n%s", r, talk)
	}
	if r, talk := snapshot("--no-freeze"); len(r.Frozen) > 0 || talk != "" {
		t.Errorf("with --no-freeze: %+v\n%s", r, talk)
	}
	if out, err := exec.Command("fsfreeze", "--freeze", points["a"]).CombinedOutput(); err != nil {
		t.Fatalf("fsfreeze: %v\n%s", err, out)
	}
	r, talk := snapshot("")
	if out, err := exec.Command("fsfreeze", "--unfreeze", points["a"]).CombinedOutput(); err != nil {
		t.Errorf("what somebody else froze was let go of: %v\n%s", err, out)
	}
	for _, word := range []string{points["a"], "not frozen", "as after a power cut"} {
		if !strings.Contains(talk, word) || len(r.Notes) == 0 || !strings.Contains(r.Notes[0], word) || len(r.Frozen) > 0 {
			t.Errorf("frozen by somebody else: %q is not said: %+v\n%s", word, r, talk)
		}
	}
}

// Hooks come around snapshots as they do around those of a backup.
func TestSnapshotHooks(t *testing.T) {
	judge.NeedFile(t, "/bin/sh")
	s := newSite(t, 256*mib)
	s.must("lvcreate -L 32M -n a vg")
	for name, c := range map[string]struct {
		before, after string
		code          int
		log           string
		volumes       string
	}{
		"in order":     {"true", "true", 0, "before-snapshot vg vg/a ,after-snapshot vg vg/a ok,", "a snap"},
		"before fails": {"exit 3", "true", 5, "before-snapshot vg vg/a ,after-snapshot vg vg/a failed,", "a"},
		"after fails":  {"true", "exit 3", 1, "before-snapshot vg vg/a ,after-snapshot vg vg/a ok,", "a snap"},
	} {
		for _, verb := range []string{"lvcreate -s -L 16M -n snap vg/a", "snapshot -L 16M -n snap vg/a"} {
			log := s.path("log")
			cmd := s.command(verb)
			note := `echo "$COWL_STAGE $COWL_VG $COWL_VOLUMES $COWL_RESULT" >> ` + log + "; "
			cmd.Args = append(cmd.Args, "--before-snapshot", note+c.before, "--after-snapshot", note+c.after)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("%s, %s: exit code %d, want %d\n%s", name, verb, code, c.code, out)
			}
			text, _ := os.ReadFile(log)
			if got := strings.ReplaceAll(string(text), "\n", ","); got != c.log {
				t.Errorf("%s, %s: hooks %q, want %q", name, verb, got, c.log)
			}
			if got := strings.Join(s.volumes(), " "); got != c.volumes {
				t.Errorf("%s, %s: volumes %q, want %q", name, verb, got, c.volumes)
			}
			os.Remove(log)
			s.run("lvremove -y vg/snap")
		}
	}
	s.fails("lvcreate -L 16M -n b --no-freeze vg", "only available with snapshots")
}
