package repo

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cowl/internal/judge"
)

// The stock kopia opens the repository, verifies it, lists the backups and
// restores the images, without cowl.
func TestStockKopia(t *testing.T) {
	kopia := judge.Kopia(t)
	dir, home := t.TempDir(), t.TempDir()
	r := made(t, dir)
	dev := volume(t, 40*mib+64<<10)
	first := stored(t, r, Source{Dev: dev}, File{"vg.conf", []byte("vg {}\n")})
	before := bytesOf(t, dev)
	base, _, err := r.Image(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	changed := NewSet(base.Layout().Segments())
	write(t, dev, changed, base.Layout(), 17*mib, noise(7, 100<<10))
	second := stored(t, r, Source{Dev: dev, Base: base, Changed: changed})

	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(kopia, args...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+password, "HOME="+home, "KOPIA_CONFIG_PATH="+home+"/repository.config", "KOPIA_CHECK_FOR_UPDATES=false")
		var talk bytes.Buffer
		cmd.Stderr = &talk
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kopia %v: %v\n%s%s", args, err, out, talk.Bytes())
		}
		return string(out)
	}
	run("repository", "connect", "filesystem", "--path", dir, "--no-persist-credentials", "--disable-file-logging")
	var listed []struct {
		ID     string
		Source struct{ Path string }
	}
	if err := json.Unmarshal([]byte(run("snapshot", "list", "--all", "--json")), &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed) != 2 || listed[0].ID != first.ID || listed[1].ID != second.ID || listed[0].Source.Path != "/dev/vg/lv" {
		t.Errorf("kopia lists %+v", listed)
	}
	run("snapshot", "verify", "--verify-files-percent=100")
	for _, c := range []struct {
		b    *Backup
		want []byte
	}{{first, before}, {second, bytesOf(t, dev)}} {
		to := filepath.Join(t.TempDir(), "out")
		run("snapshot", "restore", c.b.ID, to)
		got, err := os.ReadFile(filepath.Join(to, "vg-lv.raw"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, c.want) {
			t.Errorf("kopia restores something else of %s", c.b.ID)
		}
	}
	// And what the stock kopia does to the repository leaves it ours.
	run("maintenance", "run", "--full", "--safety=none", "--force")
	r = opened(t, dir)
	v, err := r.Verify(ctx, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", v)
	compare(t, r, second, dev)
}
