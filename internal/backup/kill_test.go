//go:build linux || darwin || freebsd || netbsd || openbsd

package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/localstore"
	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/freeze"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// The environment by which the test binary is a backup that is killed.
const (
	killDir = "COWL_TEST_KILL_DIR"
	killAt  = "COWL_TEST_KILL_AT"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if freeze.Guard(os.Args[1:]) {
		return
	}
	if dir := os.Getenv(killDir); dir != "" {
		at, _ := strconv.ParseInt(os.Getenv(killAt), 10, 64)
		if err := backUpUntilKilled(dir, at); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fuse kills the process before or behind the n-th thing that a backup asks
// its group or its store to do, and keeps a log of them.
type fuse struct {
	n     atomic.Int64
	at    int64 // 0: never
	trace *os.File
}

// around burns twice, before and behind the operation.
func (f *fuse) around(what string, do func() error) error {
	f.burn(what)
	err := do()
	f.burn(what + " done")
	return err
}

func (f *fuse) burn(what string) {
	n := f.n.Add(1)
	fmt.Fprintf(f.trace, "%d %s\n", n, what)
	if n == f.at {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it arrives
	}
}

// fusedGroup is a group with a fuse around everything that a backup asks of it.
type fusedGroup struct {
	manager.Group
	*fuse
}

func (g fusedGroup) CreateSnapshots(ctx context.Context, specs []volume.SnapshotSpec) (r *manager.Result, err error) {
	err = g.around("create snapshot", func() error { r, err = g.Group.CreateSnapshots(ctx, specs); return err })
	return r, err
}

func (g fusedGroup) Open(ctx context.Context, name string, readOnly bool) (d block.Device, err error) {
	err = g.around("open", func() error { d, err = g.Group.Open(ctx, name, readOnly); return err })
	return d, err
}

func (g fusedGroup) Changed(ctx context.Context, name string) (c *manager.Changes, err error) {
	err = g.around("changed", func() error { c, err = g.Group.Changed(ctx, name); return err })
	return c, err
}

func (g fusedGroup) ChangeTags(ctx context.Context, name string, add, remove []string) (r *manager.Result, err error) {
	err = g.around("change tags", func() error { r, err = g.Group.ChangeTags(ctx, name, add, remove); return err })
	return r, err
}

func (g fusedGroup) RemoveLVs(ctx context.Context, names []string) (r *manager.Result, err error) {
	err = g.around("remove snapshot", func() error { r, err = g.Group.RemoveLVs(ctx, names); return err })
	return r, err
}

// fusedStore is a store with a fuse around what changes it.
type fusedStore struct {
	blob.Storage
	*fuse
}

func (s fusedStore) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, o blob.PutOptions) error {
	return s.around("put "+string(id), func() error { return s.Storage.PutBlob(ctx, id, data, o) })
}

func (s fusedStore) DeleteBlob(ctx context.Context, id blob.ID) error {
	return s.around("delete "+string(id), func() error { return s.Storage.DeleteBlob(ctx, id) })
}

// scene is a group in a file and a repository beside it.
type scene struct{ dir string }

func (s scene) image() string { return filepath.Join(s.dir, "disk.img") }
func (s scene) trace() string { return filepath.Join(s.dir, "trace") }

func (s scene) host() *manager.Host {
	return manager.NewHost(manager.HostOptions{Devices: []string{s.image()}, StateDir: filepath.Join(s.dir, "state"), Program: "test"})
}

func (s scene) store(create bool) (repo.Store, error) {
	st, err := localstore.New(filepath.Join(s.dir, "repo"), create)
	return repo.Store{Storage: st}, err
}

// backUp backs the scene's volume up, with a fuse in between if there is one.
func (s scene) backUp(f *fuse) (*RepositoryReport, error) {
	g, err := s.host().OpenLocal(context.Background(), "vg")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	st, err := s.store(false)
	if err != nil {
		return nil, err
	}
	var group manager.Group = g
	if f != nil {
		group = fusedGroup{g, f}
		st.Storage = fusedStore{st.Storage, f}
	}
	r, err := repo.Open(context.Background(), st, "secret", repo.Options{})
	if err != nil {
		return nil, err
	}
	defer r.Close(context.Background())
	return RunRepository(context.Background(), group, RepositoryOptions{LV: "v", Repo: r, Tool: "test"})
}

// backUpUntilKilled is what the test binary does as a process of its own.
func backUpUntilKilled(dir string, at int64) error {
	s := scene{dir}
	trace, err := os.OpenFile(s.trace(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = s.backUp(&fuse{at: at, trace: trace})
	return err
}

// sceneBytes is how large the volume is.
const sceneBytes = 4 * mib

// newScene makes a group with a volume that is half full of noise.
func newScene(t *testing.T) scene {
	t.Helper()
	s := scene{t.TempDir()}
	for _, err := range []error{
		os.WriteFile(s.image(), nil, 0o600), os.Truncate(s.image(), 40*mib), os.Mkdir(filepath.Join(s.dir, "repo"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.host().CreateGroup(ctx, volume.GroupSpec{Name: "vg", ExtentSize: 128}, []string{s.image()}, manager.PVCreate{}); err != nil {
		t.Fatal(err)
	}
	s.with(t, func(g manager.Group) {
		if _, err := g.CreateLV(ctx, volume.LVSpec{Name: "v", Size: volume.Size{Bytes: sceneBytes}}); err != nil {
			t.Fatal(err)
		}
	})
	st, err := s.store(true)
	if err == nil {
		err = repo.Init(ctx, st, "secret", repo.Options{KDF: repo.PBKDF2})
	}
	if err != nil {
		t.Fatal(err)
	}
	s.change(t, 1)
	return s
}

// with opens the group: nobody holds it any more.
func (s scene) with(t *testing.T, f func(manager.Group)) {
	t.Helper()
	g, err := s.host().OpenLocal(ctx, "vg")
	if err != nil {
		t.Fatal(err)
	}
	f(g)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

// change writes noise over half of the volume.
func (s scene) change(t *testing.T, seed byte) {
	t.Helper()
	s.with(t, func(g manager.Group) {
		d, err := g.Open(ctx, "v", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(noise(seed, sceneBytes/2), int64(seed)*64<<10); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Flush(), d.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// copy makes a scene like this one.
func (s scene) copy(t *testing.T) scene {
	t.Helper()
	c := scene{filepath.Join(t.TempDir(), "scene")}
	if out, err := exec.Command("cp", "-r", "--sparse=always", s.dir, c.dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return c
}

// kill backs up in a process of its own, which is killed at its n-th operation,
// and returns what it was at: all of it, for n = 0.
func (s scene) kill(t *testing.T, n int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+s.dir, killAt+"="+strconv.Itoa(n))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if killed != (n > 0) || !killed && err != nil {
		t.Fatalf("killed at %d: %v\n%s", n, err, out)
	}
	text, err := os.ReadFile(s.trace())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// Whenever a backup is killed: what is on the list is whole, what it left
// behind is known and can be removed, and the next one succeeds.
func TestKilledBackups(t *testing.T) {
	start := newScene(t)
	t.Run("the first", func(t *testing.T) { killAll(t, start) })
	if _, err := start.backUp(nil); err != nil {
		t.Fatal(err)
	}
	start.change(t, 9)
	t.Run("an increment", func(t *testing.T) { killAll(t, start) })
}

func killAll(t *testing.T, start scene) {
	all := start.copy(t).kill(t, 0)
	known := [][]byte{start.content(t)}
	for _, b := range start.backups(t) {
		known = append(known, b.content)
	}
	stride, first := 1, 1
	if !blocktest.Long() { // another part of them each time
		stride = 1 + len(all)/3
		first = 1 + int(time.Now().UnixNano()%int64(stride))
	}
	seen := 0
	for n := first; n <= len(all); n += stride {
		s := start.copy(t)
		trace := s.kill(t, n)
		if len(trace) < n {
			t.Fatalf("killed at %d, and the trace has %d lines", n, len(trace))
		}
		left := s.afterKill(t, trace, known)
		seen += left
		if t.Failed() {
			t.Fatalf("killed at %s\nall:\n%s", trace[n-1], strings.Join(all, "\n"))
		}
		os.RemoveAll(s.dir)
	}
	if blocktest.Long() && seen == 0 {
		t.Error("no kill left a snapshot behind: what is there to clean up?")
	}
	t.Logf("%d of %d moments, %d snapshots left behind", (len(all)-first)/stride+1, len(all), seen)
}

// afterKill checks the promises, and returns how many snapshots were left over.
// known is what the volume holds, first, and what earlier backups have.
func (s scene) afterKill(t *testing.T, trace []string, known [][]byte) (left int) {
	t.Helper()
	for _, b := range s.backups(t) {
		if !slices.ContainsFunc(known, func(k []byte) bool { return bytes.Equal(k, b.content) }) {
			t.Errorf("backup %s is on the list, and is of nothing that the volume ever held", b.id)
		}
	}
	s.with(t, func(g manager.Group) {
		list, err := Cleanup(ctx, g, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			if o.Role != Abandoned && o.Role != Superseded && o.Role != Tracking || o.Removed {
				t.Errorf("a dry run says %+v", o)
			}
		}
	})
	again := s.copy(t) // one is cleaned up first, the other goes on as it is
	s.with(t, func(g manager.Group) {
		list, err := Cleanup(ctx, g, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			if o.Removed {
				left++
			}
		}
		st, err := g.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, snap := range st.Group.Snapshots() {
			if o := ownSnapshot(st.Group, snap.Cow, snap.Origin.Name); o == nil || o.Role != Tracking {
				t.Errorf("after the cleanup there is %s with tags %q", snap.Cow.Name, snap.Cow.Tags)
			}
		}
	})
	for _, s := range []scene{s, again} {
		report, err := s.backUp(nil)
		if err != nil {
			t.Fatalf("the next backup: %v", err)
		}
		list := s.backups(t)
		if got := list[len(list)-1]; got.id != report.Backup || !bytes.Equal(got.content, known[0]) {
			t.Errorf("the next backup is not what the volume holds: %+v", report)
		}
		indexed := false
		for _, line := range trace {
			_, what, _ := strings.Cut(line, " ")
			indexed = indexed || strings.HasPrefix(what, "put x") && strings.HasSuffix(what, " done")
		}
		if indexed && report.Written > sceneBytes/4 {
			t.Errorf("what was stored is stored again: %+v", report.Stats)
		}
		s.with(t, func(g manager.Group) {
			st, err := g.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range OwnSnapshots(st.Group) {
				if o.Role != Tracking && o.Role != Abandoned || o.Role == Tracking && o.LV != report.Snapshot {
					t.Errorf("after the next backup there is %+v", o)
				}
			}
		})
	}
	return left
}

// content returns what the volume holds.
func (s scene) content(t *testing.T) (b []byte) {
	t.Helper()
	s.with(t, func(g manager.Group) {
		d, err := g.Open(ctx, "v", true)
		if err != nil {
			t.Fatal(err)
		}
		b = content(t, d)
		d.Close()
	})
	return b
}

// storedImage is a backup on the list, as it reads.
type storedImage struct {
	id      string
	content []byte
}

// backups reads every backup that is on the list, all of which must be whole.
func (s scene) backups(t *testing.T) []storedImage {
	t.Helper()
	st, err := s.store(false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(ctx, st, "secret", repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(ctx)
	list, err := r.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []storedImage
	for _, b := range list {
		image, _, err := r.Image(ctx, b)
		if err != nil {
			t.Fatalf("backup %s is on the list and cannot be opened: %v", b.ID, err)
		}
		out = append(out, storedImage{b.ID, content(t, image)})
	}
	return out
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}
