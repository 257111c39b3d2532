package manager

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// writesFor is what a volume of 1 GiB teaches that is watched for some seconds:
// a few scattered pages in each.
func writesFor(seconds int) *forecast.Pattern {
	var r forecast.Recorder
	for s := range int64(seconds) {
		for i := range int64(4) {
			r.Touch((4*s+i)*7919%(1<<18)*4096, 4096)
		}
		r.Step()
	}
	return r.Pattern()
}

// What was learnt while a group was open is known when it is opened again, and
// forgotten when there is
// nothing to know.
func TestLearnedIsKept(t *testing.T) {
	r := newRig(t)
	disk := r.image("disk", 64*mib)
	r.group("vg", disk)
	g := r.open("vg").(*Local)
	r.lv(g, "data", 4)
	id, lv := g.engine.Model().ID, g.engine.Model().LV("data").ID
	if err := r.host().Learn(g.engine.Model(), patterns{lv: writesFor(20)}); err != nil {
		t.Fatal(err)
	}
	g.Close() // it learnt nothing itself, and keeps its hands off

	m, err := r.host().Learned(id)
	if err != nil || m[lv] == nil || m[lv].Slots != 20 {
		t.Fatalf("%v, %v", m, err)
	}
	g = r.open("vg").(*Local)
	if p, err := g.Writes(ctx, "data"); err != nil || p.Slots != 20 {
		t.Errorf("the next one knows %v, %v", p, err)
	}
	path, err := r.host().learnedPath(id)
	if err != nil || !strings.HasPrefix(path, filepath.Join(r.dir, "state", "cowl", "writes")) {
		t.Errorf("it is in %s, %v", path, err)
	}
	g.Close()
	if err := r.host().Learn(&volume.Group{ID: id}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("nothing is known, and that is kept")
	}
}

// What somebody else has written into the file costs knowledge and nothing
// else.
func TestLearnedDamaged(t *testing.T) {
	r := newRig(t)
	disk := r.image("disk", 64*mib)
	r.group("vg", disk)
	g := r.open("vg").(*Local)
	r.lv(g, "data", 4)
	id := g.engine.Model().ID
	g.Close()
	path, err := r.host().learnedPath(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "[]", `{"format":"x"}`, `{"format":"cowl-writes","version":1,"group_id":"x"}`, "\xff\xfe"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.host().Learned(id); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), path) || errs.HintOf(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
		g := r.open("vg")
		if p, err := g.Writes(ctx, "data"); err != nil || len(p.Windows) != 0 {
			t.Errorf("%q: %v, %v", text, p, err)
		}
		g.Close()
	}
	if err := os.WriteFile(path, []byte(`{"format":"cowl-writes","version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.host().Learned(id); !errs.Is(err, errs.Unsupported) {
		t.Errorf("a later version: %v", err)
	}
}

// root's knowledge is not among LVM's configuration.
func TestLearnedOfRoot(t *testing.T) {
	r := newRig(t)
	root := 0
	r.o.UID, r.o.Root = &root, r.dir
	if path, err := r.host().learnedPath("x"); err != nil || path != filepath.Join(r.dir, "var/lib/cowl/writes/x") {
		t.Errorf("%s, %v", path, err)
	}
}

// A size that was given stays, and without enough knowledge nothing is
// advised.
func TestAdviseSnapshot(t *testing.T) {
	r := newRig(t)
	r.group("vg", r.image("disk", 2048*mib))
	g := r.open("vg").(*Local)
	defer g.Close()
	r.lv(g, "data", 256)
	hour := writesFor(3600)
	never := []string{"cowl.autoextend_threshold=100"}
	for _, c := range []struct {
		spec  volume.SnapshotSpec
		known *forecast.Pattern
		bytes int64
		chunk volume.Sectors
	}{
		{volume.SnapshotSpec{}, hour, 64 * mib, 8}, // 14,400 pages, 56 MiB, and what they may vary
		{volume.SnapshotSpec{ChunkSize: 64}, hour, 380 * mib, 64},
		{volume.SnapshotSpec{}, writesFor(60), 0, 0},
		{volume.SnapshotSpec{}, &forecast.Pattern{}, 0, 0},
		{volume.SnapshotSpec{Size: volume.Size{Extents: 3}}, hour, 0, 0},
		// Only fair advice is not relied on where it cannot be made up for.
		{volume.SnapshotSpec{Tags: never}, hour, 0, 0},
		{volume.SnapshotSpec{Tags: never}, writesFor(4 * 3600), 64 * mib, 8},
	} {
		c.spec.Origin = "data"
		AdviseSnapshot(g.engine.Model(), &c.spec, c.known, defaults.Growth)
		switch a := c.spec.Advised; {
		case a == nil && c.bytes == 0:
		case a == nil:
			t.Errorf("%+v: nothing is advised", c.spec)
		case a.Bytes < c.bytes-24*mib || a.Bytes > c.bytes || c.spec.ChunkSize != c.chunk:
			t.Errorf("%+v: %d MiB, want %d", c.spec, a.Bytes>>20, c.bytes>>20)
		}
	}
	full := g.engine.Model() // 255 extents of 4 MiB are free
	for _, c := range []struct {
		left volume.Extents
		take bool
	}{{32, true}, {28, false}, {16, false}} {
		filled, err := full.CreateLV(volume.LVSpec{Name: "filler", Size: volume.Size{Extents: full.Free() - c.left}}, r.host().stamp())
		if err != nil {
			t.Fatal(err)
		}
		spec := volume.SnapshotSpec{Origin: "data"}
		AdviseSnapshot(filled.Group, &spec, hour, defaults.Growth)
		if take := spec.Advised != nil; take != c.take {
			t.Errorf("with %d extents left advice for %+v is taken: %v", c.left, spec.Advised, take)
		}
	}
	if err := r.host().Learn(g.engine.Model(), patterns{g.engine.Model().LV("data").ID: hour}); err != nil {
		t.Fatal(err)
	}
	g.Close()
	again := r.open("vg")
	defer again.Close()
	res, err := again.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "data", Name: "snap"}})
	if err != nil || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "for 1h of writes as they were watched for 1h (confidence: fair)") {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 400 * time.Millisecond: "0s", 59600 * time.Millisecond: "1m", 61 * time.Second: "1m1s", time.Hour + time.Second: "1h",
		90 * time.Minute: "1h30m", 25 * time.Hour: "1d1h", 1000 * time.Hour: "41d16h",
	} {
		if got := DurationText(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// The file is an error or patterns that can be used.
func FuzzLearned(f *testing.F) {
	g := &volume.Group{Name: "vg", ID: "SaaGxb-8cof-p9s2-kbwd-jhYQ-Bvti-JXxWuB"}
	text, err := encodeLearned(g, patterns{g.ID: writesFor(20)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"cowl-writes","version":1,"group_id":"SaaGxb-8cof-p9s2-kbwd-jhYQ-Bvti-JXxWuB","volumes":{"x":{}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeLearned(b, g.ID)
		if err != nil {
			return
		}
		again, err := encodeLearned(g, m)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if _, err := decodeLearned(again, g.ID); err != nil {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
	})
}
