package metastore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/format/vgtext"
)

// entries lists a directory.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// Before each change the old metadata goes to the archive, after it the new
// one is the backup, and both say in their own words what happened.
func TestBackupAndArchive(t *testing.T) {
	g := newIDs()
	o := testOptions()
	o.BackupDir, o.ArchiveDir = filepath.Join(t.TempDir(), "etc", "backup"), filepath.Join(t.TempDir(), "archive")
	pvs := create(t, g, PVOptions{}, mems(1)...)
	s, err := New(pvs, o)
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, newGroup(t, g, "vg_1", pvs...))
	if got := entries(t, o.ArchiveDir); len(got) != 0 {
		t.Errorf("of a new group there is an archive: %q", got)
	}
	mustChange(t, s, withLV(t, g, s.Group(), "a"))
	mustChange(t, s, withLV(t, g, s.Group(), "b"))

	text, err := os.ReadFile(filepath.Join(o.BackupDir, "vg_1"))
	if err != nil {
		t.Fatal(err)
	}
	saved, err := vgtext.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if saved.Seqno != 3 || saved.LV("b") == nil || saved.Description != "Created *after* executing 'test'" {
		t.Errorf("the backup is\n%s", text)
	}
	files, err := archived(o.ArchiveDir, "vg_1")
	if err != nil || len(files) != 2 {
		t.Fatalf("archive: %v %v", files, err)
	}
	for i, f := range files {
		text, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := vgtext.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if saved.Seqno != uint64(i+1) || saved.Description != "Created *before* executing 'test'" {
			t.Errorf("archive file %d is\n%s", i, text)
		}
		if want := fmt.Sprintf("vg_1_%05d-", i); !strings.HasPrefix(filepath.Base(f.path), want) {
			t.Errorf("archive file %d is %s, want %s...", i, f.path, want)
		}
	}

	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, o.BackupDir); len(got) != 0 {
		t.Errorf("after vgremove the backups are %q", got)
	}
	if got := entries(t, o.ArchiveDir); len(got) != 3 {
		t.Errorf("after vgremove the archive is %q", got)
	}
}

// Without its archive a change does not begin; without its backup it is made
// and says so. Neither leaves half a file.
func TestBackupsThatFail(t *testing.T) {
	g := newIDs()
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dev := mems(1)[0]
	founded(t, g, "vg", create(t, g, PVOptions{}, dev)...)
	f := assembled(t, dev)

	s, err := Open(f, Options{Writer: testWriter, ArchiveDir: blocked})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Precommit(s.Group()); err == nil {
		t.Error("a change went on without its archive")
	}
	if s, err = Open(f, Options{Writer: testWriter, BackupDir: blocked}); err != nil {
		t.Fatal(err)
	}
	if err := change(s, s.Group()); err != nil {
		t.Error(err)
	}
	if w := s.Warnings(); len(w) != 1 || !strings.Contains(w[0], "no backup") {
		t.Errorf("warnings: %q", w)
	}
}

// Old archive files go, except for the last ones; other groups' files and
// people's stay.
func TestArchiveIsPruned(t *testing.T) {
	g := newIDs()
	dir := t.TempDir()
	old := testWriter().Time.Add(-31 * 24 * time.Hour)
	recent := testWriter().Time.Add(-29 * 24 * time.Hour)
	add := func(name string, when time.Time) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		when := old
		if i == 3 {
			when = recent
		}
		add(fmt.Sprintf("vg_%05d-%d.vg", i, i*7), when)
	}
	others := []string{"vg_x_00001-1.vg", "vg_00001.vg", "vg_00001-.vg", "vg_1-1.vg.old", "vg_-1-1.vg", "vg_00001-1", "v_00001-1.vg"}
	for _, name := range others {
		add(name, old)
	}
	dev := mems(1)[0]
	founded(t, g, "vg", create(t, g, PVOptions{}, dev)...)
	s, err := Open(assembled(t, dev), Options{Writer: testWriter, ArchiveDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, s, s.Group())

	files, err := archived(dir, "vg")
	if err != nil {
		t.Fatal(err)
	}
	var kept []int
	for _, f := range files {
		kept = append(kept, f.index)
	}
	if got, want := fmt.Sprint(kept), "[3 11 12 13 14 15 16 17 18 19 20]"; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
