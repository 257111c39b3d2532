package backup

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/localstore"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

// ext4Volume makes a volume with a file system in it.
func (g *fakeGroup) ext4Volume(name string) {
	g.t.Helper()
	judge.Need(g.t, "mke2fs", "e2fsck")
	dir := g.t.TempDir()
	image, tree := filepath.Join(dir, "image"), filepath.Join(dir, "tree")
	b := make([]byte, 200_000)
	rand.NewChaCha8([32]byte{}).Read(b)
	err := errors.Join(os.Mkdir(tree, 0o755), os.WriteFile(filepath.Join(tree, "noise"), b, 0o644), os.WriteFile(image, nil, 0o600), os.Truncate(image, 4*mib))
	if err != nil {
		g.t.Fatal(err)
	}
	if out, err := exec.Command(judge.Find("mke2fs"), "-q", "-t", "ext4", "-d", tree, image).CombinedOutput(); err != nil {
		g.t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	dev, err := file.Open(image, file.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { dev.Close() })
	g.add(name, dev)
}

// steps are the names of what a drill did, with a mark of how it ended.
func steps(r *DrillReport) (out []string) {
	for _, s := range r.Steps {
		switch {
		case s.Skipped:
			out = append(out, s.Name+"?")
		case s.Good:
			out = append(out, s.Name)
		default:
			out = append(out, s.Name+"!")
		}
	}
	return out
}

// A good backup passes, from either kind of target, and nothing is left of it.
func TestDrill(t *testing.T) {
	g, dir, scratch := newGroup(t), t.TempDir(), t.TempDir()
	g.ext4Volume("v")
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	store, _ := repository(t)
	if _, err := RunRepository(ctx, g, RepositoryOptions{LV: "v", Repo: store, NoTrack: true}); err != nil {
		t.Fatal(err)
	}
	b, err := store.Find(ctx, "latest")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []DrillOptions{{Image: r.Image}, {Image: "stored", Repo: store, Backup: b}} {
		o.Dir = scratch
		v, err := Drill(ctx, o)
		if err != nil || !v.Good || v.FileSystem != "ext4" || v.Bytes != 4*mib || v.LV != "v" {
			t.Fatalf("%+v, %v", v, err)
		}
		if got := steps(v); !slices.Equal(got[len(got)-2:], []string{"restore", "file system"}) {
			t.Errorf("steps %q", got)
		}
		if _, err := os.Stat("/bin/sh"); err == nil {
			o.Command = `test -s "$COWL_IMAGE" && test "$COWL_VOLUMES" = vg-0/v`
			if v, err := Drill(ctx, o); err != nil || !v.Good {
				t.Errorf("%+v, %v", v, err)
			}
			o.Command = "echo this is not what it was; exit 9"
			v, err := Drill(ctx, o)
			if err == nil || v.Good || !strings.Contains(err.Error(), "this is not what it was") || steps(v)[len(v.Steps)-1] != "command!" {
				t.Errorf("%+v, %v", v, err)
			}
		}
	}
	if got := files(t, scratch); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

// A backup of a file system that was damaged already is what the volume was,
// and no good.
func TestDrillOfDamagedFileSystem(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.ext4Volume("v")
	// Descriptors of block groups, bitmaps, and the first of the inodes.
	if err := g.vols["v"].dev.WriteZeroes(2048, 200<<10); err != nil {
		t.Fatal(err)
	}
	if err := g.vols["v"].dev.Flush(); err != nil {
		t.Fatal(err)
	}
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	v, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: t.TempDir()})
	if !errs.Is(err, errs.Corrupt) || v == nil || v.Good || !slices.Contains(steps(v), "file system!") {
		t.Errorf("%+v, %v", v, err)
	}
}

// flipped runs f with a bit of a file flipped.
func flipped(t *testing.T, path string, off int64, f func()) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f()
	b[off] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Any byte that differs in a directory is found, and its file named.
func TestDrillFindsFlippedByte(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	g, dir, scratch := newGroup(t), t.TempDir(), t.TempDir()
	g.volumeOf("v", mib, 1)
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	flips := 0
	for _, path := range []string{r.Image, r.Manifest, r.Checksums} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(30) {
			off := rng.Int64N(st.Size())
			if i == 0 {
				off = st.Size() - 1
			}
			flipped(t, path, off, func() {
				flips++
				v, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: scratch})
				if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), filepath.Base(path)) {
					t.Errorf("byte %d of %s: %v", off, path, err)
				}
				if v == nil || v.Good {
					t.Errorf("byte %d of %s: %+v", off, path, v)
				}
			})
		}
	}
	if v, err := Drill(ctx, DrillOptions{Image: r.Image, Dir: scratch}); err != nil || !v.Good {
		t.Errorf("with every byte as it was: %+v, %v", v, err)
	}
	t.Logf("%d flips", flips)
}

// The same of a repository: what the drill of a backup does not read, the
// verification of the whole does, and names the blob.
func TestFlippedByteInRepository(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	g, scratch := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	store, dir := repository(t)
	if _, err := RunRepository(ctx, g, RepositoryOptions{LV: "v", Repo: store, NoTrack: true}); err != nil {
		t.Fatal(err)
	}
	check := func() error {
		st, err := localstore.New(dir, false)
		if err != nil {
			return err
		}
		r, err := repo.Open(ctx, repo.Store{Storage: st, Name: "r"}, "secret", repo.Options{Reading: true})
		if err != nil {
			_, storeErr := repo.VerifyStore(ctx, repo.Store{Storage: st, Name: "r"}, repo.VerifyOptions{})
			return errors.Join(err, storeErr)
		}
		defer r.Close(ctx)
		if _, err := r.Verify(ctx, repo.VerifyOptions{}); err != nil {
			return err
		}
		b, err := r.Find(ctx, "latest")
		if err != nil {
			return err
		}
		_, err = Drill(ctx, DrillOptions{Image: "latest", Repo: r, Backup: b, Dir: scratch})
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	flips, kinds := 0, map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "kopia.maintenance") {
			return err // kopia rewrites that one; nothing depends on it
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		// A few of them, each of another kind, are quick; all of them take minutes.
		n := 3
		if !blocktest.Long() {
			kind := strings.TrimPrefix(filepath.ToSlash(strings.TrimPrefix(path, dir)), "/")[:1]
			if n = 1; kinds[kind] {
				n = 0
			}
			kinds[kind] = true
		}
		for range n {
			off := rng.Int64N(info.Size())
			flipped(t, path, off, func() {
				flips++
				blob, _, _ := strings.Cut(d.Name(), ".f")
				blob = strings.TrimPrefix(blob, "_")
				err := check()
				if err == nil {
					t.Errorf("byte %d of %s: nothing was found", off, path)
				} else if tail := blob[max(0, len(blob)-8):]; !strings.Contains(err.Error(), tail) {
					t.Errorf("byte %d of %s is not named: %v", off, path, err)
				}
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if flips < 4 {
		t.Errorf("only %d flips", flips)
	}
	t.Logf("%d flips", flips)
}

// Cancelled, a drill leaves nothing.
func TestDrillCancelled(t *testing.T) {
	g, dir, scratch := newGroup(t), t.TempDir(), t.TempDir()
	g.volumeOf("v", 9*mib, 1)
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c, cancel := context.WithCancel(ctx)
	_, err = Drill(c, DrillOptions{Image: r.Image, Dir: scratch, Reporter: Reporter{Progress: func(Phase, int64, int64) { cancel() }}})
	if !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
	if got := files(t, scratch); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}
