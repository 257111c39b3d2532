package backup

import (
	"os"
	"path/filepath"
	"testing"

	"cowl/internal/errs"
)

// A directory lists its backups, whole and damaged, and nothing else; and one
// that is removed is gone with all that belongs to it.
func TestListDir(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	g.volumeOf("w", mib, 2)
	var images []string
	for _, lv := range []string{"v", "w", "v"} {
		r, err := Run(ctx, g, Options{LV: lv, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, r.Image)
	}
	for name, text := range map[string]string{"notes.txt": "x", "other.raw": "x", "gone.raw.json": "{}", ".hidden.raw.partial": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := ListDir(dir)
	if err != nil || len(all) != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, l := range all {
		if l.Fault != "" || l.VG != "vg-0" || l.Bytes != mib || l.Format != Raw || l.LVUUID == "" {
			t.Errorf("%+v", l)
		}
	}
	if err := os.WriteFile(images[1]+manifestSuffix, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RemoveImage(images[0]); err != nil {
		t.Fatal(err)
	}
	all, err = ListDir(dir)
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	faults := 0
	for _, l := range all {
		if l.Fault != "" {
			faults++
		}
	}
	if faults != 1 {
		t.Errorf("%d faults", faults)
	}
	if found, err := filepath.Glob(images[0] + "*"); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
	if _, err := ListDir(filepath.Join(dir, "nosuch")); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}
