package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// machine is a user's world in a directory: two disk images with a group vg
// on them, and where its daemons run.
type machine struct {
	run    string
	images []string
	host   *manager.Host
}

const lvExtents = 4 // of the volumes, 64 KiB each

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{run: runDir(t)}
	dir := t.TempDir()
	for _, name := range []string{"one.img", "two.img"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 16<<20); err != nil {
			t.Fatal(err)
		}
		m.images = append(m.images, path)
	}
	m.host = newHost(m.images)
	if _, err := m.host.CreateGroup(bg, volume.GroupSpec{Name: "vg", ExtentSize: 128}, m.images, manager.PVCreate{}); err != nil {
		t.Fatal(err)
	}
	return m
}

// newHost sees the given devices and keeps its files beside them.
func newHost(images []string) *manager.Host {
	uid := 1000
	return manager.NewHost(manager.HostOptions{
		Devices: images, StateDir: filepath.Join(filepath.Dir(images[0]), "state"), UID: &uid,
		Getenv: func(string) string { return "" }, Command: "test", Program: "cowl test", Wait: 200 * time.Millisecond,
	})
}

// local opens the group in this process.
func (m *machine) local(t testing.TB) *manager.Local {
	t.Helper()
	g, err := m.host.OpenLocal(bg, "vg")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// volumes makes volumes on disk before there is a daemon.
func (m *machine) volumes(t testing.TB, names ...string) {
	t.Helper()
	g := m.local(t)
	for _, name := range names {
		if _, err := g.CreateLV(bg, volume.LVSpec{Name: name, Size: volume.Size{Extents: lvExtents}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

// serve runs a daemon in this process.
func (m *machine) serve(t testing.TB) (c *Client, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(bg)
	done, out := make(chan struct{}), make(chan error, 1)
	group := m.local(t)
	go func() {
		defer close(done)
		out <- Serve(ctx, group, Options{RunDir: m.run, Group: "vg", Log: testLog(t)})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	until(t, "the daemon answers", func() bool {
		var err error
		c, err = Connect(bg, m.run, "vg")
		return err == nil
	})
	t.Cleanup(func() { c.Close() })
	return c, out
}

func openVolume(t testing.TB, g manager.Group, name string) block.Device {
	t.Helper()
	d, err := g.Open(bg, name, false)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readAll(t testing.TB, g manager.Group, name string) []byte {
	t.Helper()
	d, err := g.Open(bg, name, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return blocktest.ReadAll(t, d)
}

// load writes ever higher numbers all over two volumes, each first to a and
// then to b, so that a snapshot of both at one instant has the same number at
// the same place, or a's is one write ahead at a single place.
type load struct {
	a, b   block.Device
	cancel context.CancelFunc
	wg     sync.WaitGroup
	err    error
	writes int
}

const cell = 4096

func startLoad(t testing.TB, c *Client, seed uint64) *load {
	t.Helper()
	return startLoadOn(openVolume(t, c, "a"), openVolume(t, c, "b"), seed)
}

func startLoadOn(a, b block.Device, seed uint64) *load {
	ctx, cancel := context.WithCancel(bg)
	l := &load{a: a, b: b, cancel: cancel}
	rng := rand.New(rand.NewPCG(seed, 0))
	l.wg.Go(func() {
		for n := uint64(1); ctx.Err() == nil && l.err == nil; n++ {
			l.err = l.step(n, rng)
		}
	})
	return l
}

func (l *load) step(n uint64, rng *rand.Rand) error {
	p := make([]byte, cell)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], n)
	}
	off := rng.Int64N(l.a.Size()/cell) * cell
	for _, d := range []block.Device{l.a, l.b} {
		if _, err := d.WriteAt(p, off); err != nil {
			return fmt.Errorf("write %d: %w", n, err)
		}
	}
	l.writes++
	if n%64 == 0 {
		return l.a.Flush()
	}
	return nil
}

func (l *load) stop(t testing.TB) {
	t.Helper()
	l.cancel()
	l.wg.Wait()
	if l.err != nil {
		t.Error(l.err)
	}
	for _, d := range []block.Device{l.a, l.b} {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// checkInstant compares snapshots of a and b that were taken together.
func checkInstant(a, b []byte) error {
	ahead := 0
	for off := 0; off < len(a); off += cell {
		x, y := a[off:off+cell], b[off:off+cell]
		if !uniform(x) || !uniform(y) {
			return fmt.Errorf("torn write at %d", off)
		}
		if bytes.Equal(x, y) {
			continue
		}
		if binary.LittleEndian.Uint64(x) < binary.LittleEndian.Uint64(y) {
			return fmt.Errorf("at %d b has a write that a lacks", off)
		}
		if ahead++; ahead > 1 {
			return fmt.Errorf("a is more than one write ahead of b")
		}
	}
	return nil
}

func uniform(p []byte) bool {
	for i := 8; i < len(p); i += 8 {
		if !bytes.Equal(p[:8], p[i:i+8]) {
			return false
		}
	}
	return true
}

// A whole day of a group: volumes under load through NBD, snapshots of two of
// them at one instant while they are written, their usage watched, a merge,
// and in the end the group in somebody else's hands.
func TestSnapshotsUnderLoad(t *testing.T) {
	m := newMachine(t)
	m.volumes(t, "a", "b")
	c, ended := m.serve(t)
	zero(t, c, "a", "b")
	l := startLoad(t, c, blocktest.Seed(t))
	rounds := 5
	if blocktest.Long() {
		rounds = 100
	}
	for i := range rounds {
		spec := func(origin string) volume.SnapshotSpec {
			return volume.SnapshotSpec{Origin: origin, Name: "s" + origin, Size: volume.Size{Percent: 100, Of: volume.OfOrigin}, PVs: []volume.PVRange{{PV: m.images[1], Whole: true}}}
		}
		if _, err := c.CreateSnapshots(bg, []volume.SnapshotSpec{spec("a"), spec("b")}); err != nil {
			t.Fatal(err)
		}
		a, b := readAll(t, c, "sa"), readAll(t, c, "sb")
		if err := checkInstant(a, b); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		until(t, "the snapshot's usage grows", func() bool {
			st, err := c.Status(bg)
			return err == nil && st.LVs["sa"].Cow.Allocated > st.LVs["sa"].Cow.Metadata
		})
		if !bytes.Equal(a, readAll(t, c, "sa")) || !bytes.Equal(b, readAll(t, c, "sb")) {
			t.Errorf("round %d: a snapshot changed under load", i)
		}
		if i < rounds-1 {
			if _, err := c.RemoveLVs(bg, []string{"sa", "sb"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	snapshot := readAll(t, c, "sa")
	res, err := c.Merge(bg, volume.MergeSpec{Name: "sa"}) // delayed: the load has a open
	if err != nil || len(res.Notes) == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if st, err := c.Status(bg); err != nil || st.LVs["a"].Merging != "sa" || !st.LVs["sa"].Cow.Delayed {
		t.Errorf("status of a delayed merge: %+v, %v", st, err)
	}
	l.stop(t)
	if l.writes < rounds {
		t.Errorf("only %d writes", l.writes)
	}
	until(t, "the merge is done", func() bool {
		st, err := c.Status(bg)
		return err == nil && st.Group.LV("sa") == nil
	})
	if !bytes.Equal(snapshot, readAll(t, c, "a")) {
		t.Error("the merge did not bring back the snapshot's content")
	}
	last := readAll(t, c, "b")
	if _, err := c.Deactivate(bg); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	g := m.local(t) // at once: the daemon has let go
	defer g.Close()
	if !bytes.Equal(snapshot, readAll(t, g, "a")) || !bytes.Equal(last, readAll(t, g, "b")) {
		t.Error("the volumes changed when the daemon ended")
	}
	t.Logf("%d writes", l.writes)
}

// zero fills volumes with zeroes: the numbers before the first.
func zero(t testing.TB, g manager.Group, names ...string) {
	t.Helper()
	for _, name := range names {
		d := openVolume(t, g, name)
		if err := d.WriteZeroes(0, d.Size()); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Volumes as files, where this system has FUSE.
func TestVolumesAsFiles(t *testing.T) {
	m := newMachine(t)
	m.volumes(t, "a")
	c, _ := m.serve(t)
	st, err := c.Status(bg)
	if err != nil {
		t.Fatal(err)
	}
	path := st.LVs["a"].File
	if path == "" {
		t.Skip("FUSE cannot be used here")
	}
	if want := filepath.Join(m.run, "vg", "a"); path != want {
		t.Errorf("the file is %s, want %s", path, want)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("through the file"), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Deactivate(bg); !errs.Is(err, errs.Busy) {
		t.Errorf("deactivate with the file open: %v", err)
	}
	if _, err := c.CreateSnapshots(bg, []volume.SnapshotSpec{{Origin: "a", Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("later and later!"), 100); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(m.run, "vg", "s"))
	if err != nil || len(got) != lvExtents*64<<10 || string(got[100:116]) != "through the file" {
		t.Errorf("the snapshot's file has %d bytes, %v", len(got), err)
	}
	if _, err := c.RemoveLVs(bg, []string{"s"}); err != nil { // the kernel says late that it is closed
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.run, "vg", "s")); !os.IsNotExist(err) {
		t.Errorf("the removed snapshot's file: %v", err)
	}
	if _, err := c.Deactivate(bg); err != nil {
		t.Fatal(err)
	}
	wantLeft(t, m.run)
}
