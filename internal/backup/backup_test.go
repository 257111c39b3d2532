package backup

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/judge"
	"cowl/internal/volume"
)

var ctx = context.Background()

const mib = 1 << 20

func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	t.Logf("seed %d", s)
	return s
}

// files lists a directory, hidden files as well.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// nothingLeft is what must hold after any backup that failed.
func nothingLeft(t *testing.T, g *fakeGroup, dir string) {
	t.Helper()
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("files left in the target directory: %q", got)
	}
	if got := g.snapshots(); len(got) > 0 {
		t.Errorf("snapshots left: %q", got)
	}
	for name, v := range g.vols {
		if v.opens != 0 {
			t.Errorf("%s is still open %d times", name, v.opens)
		}
	}
}

// The image must show one instant, however the origin changes meanwhile, and
// come with what proves it.
func TestBackupOfVolumeInUse(t *testing.T) {
	s := seed(t)
	g, dir := newGroup(t), t.TempDir()
	vol := g.volumeOf("root-x", 67*mib, s)
	frozen := content(t, vol.dev)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	var writes atomic.Int64
	g.created = func() error { // the instant has passed: now everything changes
		writer.Go(func() {
			rng := rand.New(rand.NewPCG(s, 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := vol.dev.WriteAt([]byte{1, 2, 3}, rng.Int64N(67*mib-3)); err != nil {
					t.Error(err)
					return
				}
				writes.Add(1)
			}
		})
		for writes.Load() < 10 {
			runtime.Gosched()
		}
		return nil
	}
	r, err := Run(ctx, g, Options{LV: "root-x", Dir: dir, Tool: "cowl test"})
	close(stop)
	writer.Wait()
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(r.Image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, frozen) {
		t.Error("the image is not what the volume held when the snapshot was taken")
	}
	if got := g.snapshots(); len(got) > 0 {
		t.Errorf("snapshots left: %q", got)
	}
	base := filepath.Base(r.Image)
	if !strings.HasPrefix(base, "vg--0-root--x.20") || !strings.HasSuffix(base, "Z.raw") {
		t.Errorf("image is called %s", base)
	}
	if got, want := files(t, dir), []string{base, base + ".json", base + ".sha256"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	m, _, err := readManifest(r.Image)
	if err != nil {
		t.Fatal(err)
	}
	if m.Source.LV != "root-x" || m.Source.LVUUID != g.vg.LV("root-x").ID.String() || m.Source.Bytes != 67*mib ||
		!m.Snapshot.Own || m.Image.Bytes != 67*mib || len(m.Image.Ranges) != 2 || m.Tool != "cowl test" ||
		m.Snapshot.Time.Unix() != 1_700_000_000 {
		t.Errorf("manifest %+v", m)
	}
	if !r.Verified || r.SnapshotFill == nil || *r.SnapshotFill <= 0 || r.SHA256 != m.Image.SHA256 {
		t.Errorf("report %+v", r)
	}
	if v, err := Verify(ctx, r.Image, Reporter{}); err != nil || !v.Good {
		t.Errorf("verify: %+v, %v", v, err)
	}
	judge.Need(t, "sha256sum")
	check := exec.Command("sha256sum", "-c", "--strict", filepath.Base(r.Checksums))
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil || bytes.Count(out, []byte(": OK\n")) != 2 {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
}

// Holes of the volume, and zeroes that somebody wrote, take no space.
func TestImageIsSparse(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	dev := mem.New(256 * mib)
	for _, off := range []int64{0, 256*mib - 4096} {
		if _, err := dev.WriteAt(bytes.Repeat([]byte{9}, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	// Zeroes that are data to the device: more than a whole range of them.
	if err := block.WriteZeroBytes(dev, 50*mib, 85*mib); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt(bytes.Repeat([]byte{9}, 4096), 130*mib); err != nil {
		t.Fatal(err)
	}
	g.add("v", dev)
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(r.Image)
	if err != nil {
		t.Fatal(err)
	}
	if stored := allocated(st); st.Size() != 256*mib || stored > 256<<10 || r.StoredBytes != stored {
		t.Errorf("image has %d bytes and takes %d; the report says %d", st.Size(), stored, r.StoredBytes)
	}
	if r.ReadBytes > 87*mib {
		t.Errorf("%d bytes were read of a volume with 85 MiB that are not holes", r.ReadBytes)
	}
	m, _, err := readManifest(r.Image)
	if err != nil {
		t.Fatal(err)
	}
	if m.Image.DataBytes != 3*4096 {
		t.Errorf("data_bytes %d, want %d", m.Image.DataBytes, 3*4096)
	}
	if m.Image.Ranges[0] == "zero" || m.Image.Ranges[1] != "zero" || m.Image.Ranges[2] == "zero" {
		t.Errorf("ranges %q", m.Image.Ranges)
	}
}

// A snapshot that a person names is backed up as it is, and stays.
func TestBackupOfSnapshot(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	vol := g.volumeOf("v", 8*mib, seed(t))
	g.snapshot(volume.SnapshotSpec{Origin: "v", Name: "mine"})
	want := content(t, vol.dev)
	scatter(t, vol.dev, 1, 5)
	r, err := Run(ctx, g, Options{LV: "mine", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(r.Image); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not the snapshot's content (%v)", err)
	}
	if got := g.snapshots(); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("snapshots are now %q", got)
	}
	if !r.SnapshotKept || r.LV != "mine" {
		t.Errorf("report %+v", r)
	}
}

// Of a group that nobody serves, volumes are active only while they are open.
func TestUnserved(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.unserved = true
	vol := g.volumeOf("v", 2*mib, 1)
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil || r.SnapshotFill == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	want := content(t, vol.dev)
	scatter(t, vol.dev, 2, 3)
	if _, err := Restore(ctx, g, RestoreOptions{Image: r.Image, LV: "v"}); err != nil || !bytes.Equal(content(t, vol.dev), want) {
		t.Error(err)
	}
}

// Two backups within one second must not share a name, and one that finds
// the name of its snapshot taken must not remove the other's.
func TestBackupsAtOnce(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", 2*mib, 1)
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 6 {
		wg.Go(func() {
			_, err := Run(ctx, g, Options{LV: "v", Dir: dir})
			if err == nil {
				good.Add(1)
			} else if !errs.Is(err, errs.Exists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	images, err := filepath.Glob(filepath.Join(dir, "*.raw"))
	if err != nil || len(images) == 0 || int64(len(images)) != good.Load() {
		t.Fatalf("%d good backups, images %q (%v)", good.Load(), images, err)
	}
	for _, image := range images {
		if _, err := Verify(ctx, image, Reporter{}); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, dir); len(got) != 3*len(images) || len(g.snapshots()) > 0 {
		t.Errorf("files %q, snapshots %q", got, g.snapshots())
	}
}

// The same with the second coming when the first has its snapshot.
func TestSnapshotNameTaken(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", 2*mib, 1)
	st, err := g.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first := &source{g: g, vg: st.Group, lv: st.Group.LV("v"), snapshot: "s", own: true, owner: newOwner()}
	second := &source{g: g, vg: st.Group, lv: st.Group.LV("v"), snapshot: "s", own: true, owner: newOwner()}
	if _, err := takeTogether(ctx, []*source{first}, volume.Size{}); err != nil {
		t.Fatal(err)
	}
	if _, err := takeTogether(ctx, []*source{second}, volume.Size{}); !errs.Is(err, errs.Exists) {
		t.Error(err)
	}
	if err := second.release(ctx); err != nil || len(g.snapshots()) != 1 {
		t.Errorf("snapshots %q after the second gave up (%v)", g.snapshots(), err)
	}
	if err := first.release(ctx); err != nil {
		t.Error(err)
	}
	nothingLeft(t, g, dir)
}

// After kill -9 the next run names what was left, and only that.
func TestLeftovers(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	g.volumeOf("v.x", mib, 1)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Skip(err)
	}
	tags := func(host string, pid int) []string {
		return []string{Tag, fmt.Sprintf("%s%s:%d:0", ownerTag, host, pid)}
	}
	for name, tags := range map[string][]string{
		"killed": tags(hostname(), dead.Process.Pid), "running": tags(hostname(), os.Getpid()), "afar": tags("elsewhere", 1), "own": nil,
	} {
		g.snapshot(volume.SnapshotSpec{Origin: "v", Name: name, Tags: tags, Size: volume.Size{Bytes: 128 << 10}})
	}
	g.snapshot(volume.SnapshotSpec{Origin: "v.x", Name: "others", Tags: tags(hostname(), dead.Process.Pid), Size: volume.Size{Bytes: 128 << 10}})
	killed := filepath.Join(dir, ".vg--0-v.20250101T000000Z.raw.partial")
	for _, path := range []string{killed, filepath.Join(dir, ".vg--0-v.x.20250101T000000Z.raw.partial")} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	running, err := openPartial(filepath.Join(dir, ".vg--0-v.20250101T000001Z.raw.partial"))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"vg-0/killed": "cowl cleanup vg-0", "vg-0/running": "is using", "vg-0/afar": "elsewhere", killed: "rm '" + killed + "'",
	}
	for _, n := range r.Notes {
		for subject, says := range want {
			if strings.Contains(n, subject) {
				if !strings.Contains(n, says) {
					t.Errorf("%q does not say %q", n, says)
				}
				delete(want, subject)
			}
		}
		if strings.Contains(n, "vg-0/own") || strings.Contains(n, "others") || strings.Contains(n, "v.x") || strings.Contains(n, "000001Z") {
			t.Errorf("%q is none of a killed backup's", n)
		}
	}
	if len(want) > 0 {
		t.Errorf("no note on %v in %q", want, r.Notes)
	}
}

// A dry run says what it would do, and does nothing.
func TestDryRun(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir, DryRun: true})
	if err != nil || filepath.Dir(r.Image) != dir || r.Snapshot == "" {
		t.Errorf("%+v, %v", r, err)
	}
	nothingLeft(t, g, dir)
	if _, err := Run(ctx, g, Options{LV: "v", Dir: dir + "/no", DryRun: true}); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if r, err = Run(ctx, g, Options{LV: "v", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	vol := g.target("w", mib)
	if _, err := Restore(ctx, g, RestoreOptions{Image: r.Image, LV: "w", DryRun: true}); err != nil || !untouched(t, vol) {
		t.Errorf("a dry restore wrote to the volume (%v)", err)
	}
}

func TestRefused(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    Options
		kind errs.Kind
	}{
		"no such volume":    {Options{LV: "w", Dir: dir}, errs.NotFound},
		"no such directory": {Options{LV: "v", Dir: dir + "/not-mounted"}, errs.NotFound},
		"not a directory":   {Options{LV: "v", Dir: file}, errs.Usage},
		"no such format":    {Options{LV: "v", Dir: dir, Format: "zip"}, errs.Usage},
		"too small":         {Options{LV: "v", Dir: dir, SnapshotSize: volume.Size{Bytes: 1 << 50}}, errs.NoSpace},
	} {
		if _, err := Run(ctx, g, c.o); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := files(t, dir); len(got) != 1 || len(g.snapshots()) > 0 {
		t.Errorf("left: %q, %q", got, g.snapshots())
	}
}

// Memory must not follow the volume's size: a terabyte of little but holes,
// into a file and read back. Only the hash of the whole is left out, which
// takes a quarter of an hour; TestMemoryOfAll has it, on less or, with
// COWL_LONG, on all of it.
func TestTerabyte(t *testing.T) {
	const size = 1 << 40
	dev := mem.New(size)
	scatter(t, dev, seed(t), 40)
	path := filepath.Join(t.TempDir(), "image")
	out, err := openPartial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		t.Skipf("no files of 1 TiB here: %v", err)
	}
	used := heapGrowth(func(look func()) {
		to := &fileSink{w: out}
		f := newFlow(ctx, to, func(int64) { look() })
		f.whole.h = countHash{}
		d, read, err := f.copy(dev, size)
		if err != nil {
			t.Fatal(err)
		}
		if read > 40*300<<10 || to.data.Load() > read {
			t.Errorf("%d bytes were read and %d written", read, to.data.Load())
		}
		image := &Image{Bytes: size, RangeBytes: RangeBytes, Ranges: d.ranges}
		if found, err := checkFile(ctx, path, image, func(int64) { look() }); err != nil || len(found) > 0 {
			t.Errorf("%d ranges differ (%v)", len(found), err)
		}
	})
	t.Logf("heap grew by %.1f MiB", float64(used)/mib)
	if used > heapLimit {
		t.Errorf("heap grew by %d bytes, limit %d", used, heapLimit)
	}
}

// countHash takes the place of a hash that would take too long.
type countHash struct{ hash.Hash }

func (countHash) Write(b []byte) (int, error) { return len(b), nil }
func (countHash) Sum(b []byte) []byte         { return b }

// heapLimit is the buffers, once more for what the collector has not got to,
// and some room.
const heapLimit = 2 * (bufferCount + 16) * bufferBytes

// heapGrowth runs f, which looks often, and returns by how much the heap grew.
func heapGrowth(f func(look func())) int64 {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	before := heap()
	var looks, highest atomic.Int64
	f(func() {
		if looks.Add(1)%64 == 0 {
			highest.Store(max(highest.Load(), heap()))
		}
	})
	return max(highest.Load(), heap()) - before
}

func TestMemoryOfAll(t *testing.T) {
	size, data := int64(512<<20), 400
	if os.Getenv("COWL_LONG") != "" {
		size, data = 1<<40, 4000
	}
	g, dir := newGroup(t), t.TempDir()
	dev := mem.New(size)
	scatter(t, dev, seed(t), data)
	g.add("v", dev)
	used := heapGrowth(func(look func()) {
		if _, err := Run(ctx, g, Options{LV: "v", Dir: dir, Reporter: Reporter{Progress: func(Phase, int64, int64) { look() }}}); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d MiB of volume, heap grew by %.1f MiB", size/mib, float64(used)/mib)
	if used > heapLimit {
		t.Errorf("heap grew by %d bytes, limit %d", used, heapLimit)
	}
}
