package manager

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

func TestSettings(t *testing.T) {
	usual := Settings{Growth: volume.Growth{Threshold: 70, Percent: 20, OnFull: volume.OnFullInvalidate, Hold: 10 * time.Minute}}
	with := func(change func(*Settings)) Settings {
		s := usual
		change(&s)
		return s
	}
	for text, want := range map[string]Settings{
		"":                   usual,
		"# nothing is set\n": usual,
		"activation {\n\tsnapshot_autoextend_threshold = 100\n}\n": with(func(s *Settings) { s.Growth.Threshold = 100 }),
		"activation/snapshot_autoextend_percent = 50\n":            with(func(s *Settings) { s.Growth.Percent = 50 }),
		"cowl {\n\tsnapshot_on_full = \"hold\"\n\tsnapshot_hold = \"2h\"\n\tgrow_pv_files = 1\n}\n": with(func(s *Settings) {
			s.Growth.OnFull, s.Growth.Hold, s.GrowFiles = volume.OnFullHold, 2*time.Hour, true
		}),
		"cowl/grow_pv_files=1 cowl/grow_pv_files=0": usual, // the last counts
	} {
		s, warnings, err := parseSettings("f", []byte(text))
		if err != nil || len(warnings) > 0 || s != want {
			t.Errorf("%q: %+v, %q, %v", text, s, warnings, err)
		}
	}
	s, warnings, err := parseSettings("/etc/f", []byte("cowl {\n\n\tsnapshot_on_fool = 1\n}\nlog/verbose=0"))
	if err != nil || s != usual || strings.Join(warnings, "|") !=
		"WARNING: /etc/f line 3: there is no setting cowl/snapshot_on_fool.|WARNING: /etc/f line 5: there is no setting log/verbose." {
		t.Errorf("%+v, %q, %v", s, warnings, err)
	}
	for text, want := range map[string]string{
		"a = 1\nactivation {\n\tsnapshot_autoextend_threshold = 49\n}": "/etc/f line 3: activation/snapshot_autoextend_threshold: \"49\"",
		"activation/snapshot_autoextend_percent = [20]":                "/etc/f line 1: ",
		"activation/snapshot_autoextend_percent = 1.5":                 "/etc/f line 1: ",
		"cowl/snapshot_on_full = \"perhaps\"":                          "use invalidate, hold or readonly",
		"cowl/snapshot_hold = 10":                                      "such as 90s",
		"cowl/grow_pv_files = \"yes\"":                                 "\"yes\" is neither 1 nor 0",
		"cowl {\n":                                                     "/etc/f line 2: the text ends within a section",
	} {
		if _, _, err := parseSettings("/etc/f", []byte(text)); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Where the file is, and that a group is not opened by settings that nobody
// meant.
func TestSettingsFile(t *testing.T) {
	r := newRig(t)
	r.group("vg", r.image("disk", 64*mib))
	path := filepath.Join(r.dir, "state", "cowl", "cowl.conf")
	if got := r.host().configPath(); got != path {
		t.Fatalf("it is %s, want %s", got, path)
	}
	if err := os.WriteFile(path, []byte("cowl/snapshot_hold = \"1m\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := r.open("vg").(*Local)
	if g.growth.Hold != time.Minute {
		t.Errorf("%+v", g.growth)
	}
	r.close(g)
	if err := os.WriteFile(path, []byte("cowl/snapshot_hold = \"1 minute\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := r.host().OpenGroup(ctx, "vg")
	if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), path+" line 1") || errs.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	root := 0
	r.o.UID, r.o.Root = &root, r.dir
	if got := r.host().configPath(); got != filepath.Join(r.dir, "etc/lvm/cowl.conf") {
		t.Errorf("root's is %s", got)
	}
}

// A snapshot without tags outlives all that is written to its origin, and its
// PV's file grows if it may.
func TestGrowthIsOn(t *testing.T) {
	for _, c := range []struct {
		name, config string
		copies       int // of the metadata
		grows, lives bool
	}{
		{"usual", "", 1, false, true},
		{"off", "activation/snapshot_autoextend_threshold=100", 1, false, false},
		{"files", "cowl/grow_pv_files=1", 1, true, true},
		{"files with two metadata areas", "cowl/grow_pv_files=1", 2, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			disk := r.image("disk", 32*mib)
			o := PVCreate{}
			o.Layout.MetadataCopies = &c.copies
			if _, err := r.host().CreateGroup(ctx, volume.GroupSpec{Name: "vg", ExtentSize: 2048}, []string{disk}, o); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(r.host().configPath(), []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			g := r.open("vg")
			defer g.Close()
			r.lv(g, "data", 12)
			if strings.HasPrefix(c.name, "files") { // and nothing is left
				st, _ := g.Status(ctx)
				r.lv(g, "filler", st.Group.Free()-1)
			}
			if _, err := g.Activate(ctx); err != nil {
				t.Fatal(err)
			}
			d, err := g.Open(ctx, "data", false)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			write := func(b byte) {
				t.Helper()
				if _, err := d.WriteAt(bytes.Repeat([]byte{b}, 12*mib), 0); err != nil {
					t.Fatal(err)
				}
			}
			write(1)
			if _, err := g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "data", Name: "s", Size: volume.Size{Extents: 1}}}); err != nil {
				t.Fatal(err)
			}
			write(2)
			st, err := g.Status(ctx)
			if err != nil || st.LVs["s"].Cow.Invalid == c.lives {
				t.Fatalf("%+v, %v", st.LVs["s"].Cow, err)
			}
			info, err := os.Stat(disk)
			if err != nil || info.Size() > 32*mib != c.grows || c.grows && st.PVs[0].Size != info.Size() {
				t.Errorf("the file has %d bytes, the PV %d, %v", info.Size(), st.PVs[0].Size, err)
			}
			if !c.lives {
				return
			}
			s, err := g.Open(ctx, "s", true)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			got := make([]byte, 12*mib)
			if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{1}, len(got))) {
				t.Errorf("the snapshot has changed, %v", err)
			}
		})
	}
}
