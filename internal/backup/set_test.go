package backup

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/localstore"
	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// repository makes a repository in a directory of its own, and opens it.
func repository(t *testing.T) (*repo.Repo, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	st, err := localstore.New(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	store := repo.Store{Storage: st, Name: "repo:" + dir}
	if err := repo.Init(ctx, store, "secret", repo.Options{KDF: repo.PBKDF2}); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(ctx, store, "secret", repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(ctx) })
	return r, dir
}

// Backups of several volumes are each what its volume was when all of the
// snapshots were taken, and say what they share.
func TestRunAll(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	names := []string{"root", "home", "log"}
	frozen := map[string][]byte{}
	for i, name := range names {
		frozen[name] = content(t, g.volumeOf(name, int64(i+1)*mib, uint64(i)).dev)
	}
	g.created = func() error { // all of it is written to before anything is read
		for _, name := range names {
			scatter(t, g.vols[name].dev, 99, 10)
		}
		return nil
	}
	r, err := RunAll(ctx, []Volumes{{g, names}}, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Backups) != 3 || r.Instant == "" || r.VolumeBytes != 6*mib || !slices.Equal(r.Volumes, names) || r.SnapshotFill == nil {
		t.Errorf("report %+v", r)
	}
	for _, b := range r.Backups {
		image, err := os.ReadFile(b.Image)
		if err != nil || !bytes.Equal(image, frozen[b.LV]) {
			t.Errorf("the image of %s is not what it was at the instant (%v)", b.LV, err)
		}
		m, _, err := readManifest(b.Image)
		if err != nil || m.Instant == nil || m.Instant.ID != r.Instant || !slices.Equal(m.Instant.Volumes, names) {
			t.Errorf("%s: instant %+v, %v", b.LV, m.Instant, err)
		}
	}
	if left := g.snapshots(); len(left) > 0 {
		t.Errorf("snapshots left: %q", left)
	}
	listed, err := ListDir(dir)
	if err != nil || len(listed) != 3 || listed[0].Instant != r.Instant {
		t.Errorf("list %+v, %v", listed, err)
	}
}

// The same into a repository, under one lock.
func TestRunRepositoryAll(t *testing.T) {
	g := newGroup(t)
	store, _ := repository(t)
	names := []string{"root", "home"}
	frozen := map[string][]byte{}
	for i, name := range names {
		frozen[name] = content(t, g.volumeOf(name, mib, uint64(i)).dev)
	}
	g.created = func() error {
		for _, name := range names {
			scatter(t, g.vols[name].dev, 99, 10)
		}
		return nil
	}
	r, err := RunRepositoryAll(ctx, []Volumes{{g, names}}, RepositoryOptions{Repo: store})
	if err != nil {
		t.Fatal(err)
	}
	all, err := store.List(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d backups, %v", len(all), err)
	}
	for _, b := range all {
		image, rec, err := store.Image(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, image), frozen[b.LV]) {
			t.Errorf("the image of %s is not what it was at the instant", b.LV)
		}
		if b.Instant != r.Instant || rec.Instant == nil || rec.Instant.ID != r.Instant || !slices.Equal(rec.Instant.Volumes, names) {
			t.Errorf("%s: %q, %+v, want %s", b.LV, b.Instant, rec.Instant, r.Instant)
		}
	}
	if locks, err := store.Locks(ctx); err != nil || len(locks) > 0 {
		t.Errorf("locks %v, %v", locks, err)
	}
}

// One volume that fails takes nothing with it: at any operation, the others
// have good backups, and no snapshot is left.
func TestOneOfSeveralFails(t *testing.T) {
	for n := int64(1); ; n++ {
		g, dir := newGroup(t), t.TempDir()
		for i, name := range []string{"a", "b", "c"} {
			g.volumeOf(name, 2*mib, uint64(i))
		}
		fault := &nth{n: n, err: syscall.EIO}
		g.wrap = func(_ string, d block.Device) block.Device {
			return &hooked{d, func(op string, _ int64) error { return fault.hit(op) }}
		}
		r, err := RunAll(ctx, []Volumes{{g, []string{"a", "b", "c"}}}, Options{Dir: dir})
		if !fault.fired() {
			if err != nil || n < 10 {
				t.Fatalf("after %d operations without a fault: %v", n-1, err)
			}
			return
		}
		if err == nil || r == nil || len(r.Backups) != 2 || len(r.Failed) != 1 {
			t.Fatalf("fault %d: %+v, %v", n, r, err)
		}
		if want := "backup of vg-0/" + r.Failed[0].LV + ": "; !strings.Contains(err.Error(), want) {
			t.Errorf("fault %d: the error does not say %q: %v", n, want, err)
		}
		if got := files(t, dir); len(got) != 6 {
			t.Errorf("fault %d: files %q", n, got)
		}
		for _, b := range r.Backups {
			if _, err := Verify(ctx, b.Image, Reporter{}); err != nil {
				t.Errorf("fault %d: %v", n, err)
			}
		}
		if left := g.snapshots(); len(left) > 0 {
			t.Errorf("fault %d: snapshots left: %q", n, left)
		}
	}
}

// Cancelled at any operation: what was finished stays, nothing else does.
func TestCancelSeveral(t *testing.T) {
	for n := int64(1); ; n++ {
		g, dir := newGroup(t), t.TempDir()
		for i, name := range []string{"a", "b", "c"} {
			g.volumeOf(name, mib, uint64(i))
		}
		c, cancel := context.WithCancel(ctx)
		var count atomic.Int64
		step := func(string, int64) error {
			if count.Add(1) == n {
				cancel()
			}
			return nil
		}
		g.created = func() error { return step("create", 0) }
		g.wrap = func(_ string, d block.Device) block.Device { return &hooked{d, step} }
		r, err := RunAll(c, []Volumes{{g, []string{"a", "b", "c"}}}, Options{Dir: dir})
		cancel()
		if count.Load() < n {
			if err != nil || n < 10 {
				t.Fatalf("after %d operations: %v", n-1, err)
			}
			return
		}
		good := 0
		if r != nil {
			good = len(r.Backups)
		}
		if got := files(t, dir); len(got) != 3*good || err == nil && good != 3 {
			t.Errorf("cancelled at %d: %d backups (%v), and files %q", n, good, err, got)
		}
		if left := g.snapshots(); len(left) > 0 {
			t.Errorf("cancelled at %d: snapshots left: %q", n, left)
		}
	}
}

// Snapshots cannot be taken: nothing is left of what was prepared.
func TestNoSnapshots(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("a", mib, 1)
	g.volumeOf("b", mib, 2)
	g.created = func() error { return errs.E(errs.NoSpace, "no room") }
	if _, err := RunAll(ctx, []Volumes{{g, []string{"a", "b"}}}, Options{Dir: dir}); !errs.Is(err, errs.NoSpace) || errs.HintOf(err) == "" {
		t.Error(err)
	}
	nothingLeft(t, g, dir)
	if _, err := RunAll(ctx, []Volumes{{g, []string{"a", "nosuch"}}}, Options{Dir: dir}); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if _, err := RunAll(ctx, []Volumes{{g, []string{"a", "a"}}}, Options{Dir: dir}); !errs.Is(err, errs.Usage) {
		t.Error(err)
	}
	nothingLeft(t, g, dir)
}

// Snapshots that a person took are backed up together only if they are known
// to show one instant.
func TestInstantOfSnapshots(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	for _, name := range []string{"a", "b"} {
		g.add(name, mem.New(mib))
		size := volume.Size{Bytes: 128 << 10}
		g.snapshot(volume.SnapshotSpec{Origin: name, Name: name + ".1", Size: size, Tags: []string{InstantTag + "one"}})
		g.snapshot(volume.SnapshotSpec{Origin: name, Name: name + ".2", Size: size})
	}
	for _, mix := range [][]string{{"a", "b.1"}, {"b.1", "a"}, {"a.2", "b.2"}, {"a.1", "b.2"}} {
		_, err := RunAll(ctx, []Volumes{{g, mix}}, Options{Dir: dir})
		if !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "was not taken together") {
			t.Errorf("%q: %v", mix, err)
		}
	}
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("files left: %q", got)
	}
	r, err := RunAll(ctx, []Volumes{{g, []string{"a.1", "b.1"}}}, Options{Dir: dir})
	if err != nil || r.Instant != "one" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := Run(ctx, g, Options{LV: "a.2", Dir: dir}); err != nil || r.Instant != "" {
		t.Errorf("%+v, %v", r, err)
	}
	st, err := g.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if names, skipped := WholeGroup(st); !slices.Equal(names, []string{"a", "b"}) || len(skipped) > 0 {
		t.Errorf("whole group: %q, %q", names, skipped)
	}
}
