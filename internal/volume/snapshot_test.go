package volume

import (
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
)

func snapshot(t testing.TB, g *Group, origin, name string, size Size) *Group {
	t.Helper()
	return must(t)(g.CreateSnapshot(SnapshotSpec{Origin: origin, Name: name, Size: size}, testStamp()))
}

// TestSnapshotSizes holds what lvm2 2.03.16 did under a real kernel: a group of
// 8 KiB extents with an origin of 1000 KiB, and one of 4 MiB extents with 40 MiB.
func TestSnapshotSizes(t *testing.T) {
	const kib = 1 << 10
	small := testGroup(t, 1)
	small.ExtentSize, small.PVs[0].PECount = 16, 8064
	small = must(t)(small.CreateLV(LVSpec{Name: "base", Size: bytes(1000 * kib)}, testStamp()))
	large := must(t)(testGroup(t, 15, 15, 15).CreateLV(LVSpec{Name: "base", Size: extents(10)}, testStamp()))
	full := must(t)(large.CreateLV(LVSpec{Name: "x", Size: extents(30)}, testStamp()))
	for _, c := range []struct {
		g       *Group
		size    Size
		chunk   Sectors
		advised int64 // bytes
		want    int64 // KiB
		notes   string
		err     string
	}{
		{g: small, size: bytes(8 * kib), err: "Snapshot volume cannot be smaller than 3 chunks (2 extents, 12.00 KiB)."},
		{g: small, size: bytes(12 * kib), want: 16, notes: "Rounding up size to full physical extent 16.00 KiB"},
		{g: small, size: pct(100, OfOrigin), want: 1008},
		{g: small, size: pct(50, OfOrigin), want: 512},
		{g: small, size: pct(1, OfOrigin), want: 24},
		{g: small, size: pct(10, OfOrigin), chunk: 128, want: 256},
		{g: small, size: bytes(80 * kib), chunk: 128, err: "Snapshot volume cannot be smaller than 3 chunks (24 extents, 192.00 KiB)."},
		{g: small, size: bytes(192 * kib), chunk: 128, want: 192},
		{g: small, size: bytes(300 * 1024 * kib), chunk: 128, want: 1152, notes: "Reducing COW size 300.00 MiB down to maximum usable size 1.12 MiB."},
		{g: large, size: pct(50, OfOrigin), want: 24 * kib},
		{g: large, size: pct(100, OfOrigin), want: 44 * kib},
		{g: large, size: pct(1, OfOrigin), want: 8 * kib},
		{g: large, size: pct(200, OfOrigin), want: 44 * kib, notes: "Reducing COW size 84.00 MiB down to maximum usable size 44.00 MiB."},
		{g: large, size: bytes(100 * 1024 * kib), want: 44 * kib, notes: "Reducing COW size 100.00 MiB down to maximum usable size 44.00 MiB."},
		{g: large, size: bytes(4 * 1024 * kib), want: 4 * kib},
		{g: large, size: pct(100, OfVG), want: 44 * kib, notes: "Reducing 100%VG to remaining free space 140.00 MiB in VG.|Reducing COW size 140.00 MiB down to maximum usable size 44.00 MiB."},
		// lvm2 wants a size; these are cowl's own defaults.
		{g: large, want: 44 * kib, notes: "No size given: 44.00 MiB of COW space, which cannot overflow."},
		{g: full, want: 8 * kib, notes: "No size given: 8.00 MiB of COW space, half of what is free."},
		{g: large, advised: 9 << 20, want: 12 * kib, notes: "No size given: 12.00 MiB of COW space with chunks of 4.00 KiB, as was seen."},
		{g: large, advised: 1, chunk: 1024, want: 4 * kib, notes: "No size given: 4.00 MiB of COW space with chunks of 512.00 KiB, as was seen."},
		{g: large, advised: 1 << 40, want: 44 * kib, notes: "No size given: 44.00 MiB of COW space with chunks of 4.00 KiB, as was seen."},
		{g: large, advised: 1 << 40, size: bytes(8 * 1024 * kib), want: 8 * kib},
		{g: full, advised: 9 << 20, want: 8 * kib, notes: "No size given: 8.00 MiB of COW space, half of what is free; 12.00 MiB as was seen."},
	} {
		spec := SnapshotSpec{Origin: "base", Name: "s", Size: c.size, ChunkSize: c.chunk}
		if c.advised > 0 {
			spec.Advised = &AdvisedCow{Bytes: c.advised, Why: "as was seen"}
		}
		change, err := c.g.CreateSnapshot(spec, testStamp())
		if c.err != "" {
			wantErr(t, err, errs.Conflict, c.err)
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c.size, err)
			continue
		}
		got := c.g.ExtentBytes(change.Group.LV("s").Extents()) / kib
		if got != c.want || strings.Join(change.Notes, "|") != c.notes {
			t.Errorf("%+v chunks of %d: %d KiB with the notes %q; want %d KiB with %q", c.size, c.chunk, got, change.Notes, c.want, c.notes)
		}
	}
}

// CowMax must hold an exception for every chunk and the area that terminates
// them, and be no larger.
// Snapshots that are taken together share what one would get, alike.
func TestShareFree(t *testing.T) {
	specs := []SnapshotSpec{{}, {Size: Size{Bytes: 1}}, {}, {}}
	ShareFree(specs)
	free := Extents(600)
	for i, s := range specs {
		if !s.Size.IsZero() {
			if s.FreePart != 0 {
				t.Errorf("one with a size takes part: %+v", s)
			}
			continue
		}
		got := free / Extents(s.FreePart)
		if got != 100 {
			t.Errorf("the %d. gets %d of 600 extents", i+1, got)
		}
		free -= got
	}
	one := []SnapshotSpec{{}}
	if ShareFree(one); one[0].FreePart != 2 {
		t.Errorf("a single one gets one %d-th", one[0].FreePart)
	}
}

func TestCowMax(t *testing.T) {
	for _, chunk := range []Sectors{8, 16, 1024} {
		cs := chunk.Bytes()
		per := cs / 16
		for _, chunks := range []int64{1, per - 1, per, per + 1, 2*per - 1, 2 * per, 100 * per} {
			max := CowMax(chunks*cs, chunk)
			// Chunk 0 is the header; areas stand at 1, 1+(per+1), ...; the
			// last exception's chunk, and the area behind a full one, must fit.
			last := 1 + (chunks-1)/per*(per+1) + 1 + (chunks-1)%per
			next := 1 + chunks/per*(per+1)
			if need := max2(last, next) + 1; max != need*cs {
				t.Errorf("an origin of %d chunks of %d bytes: %d chunks, want %d", chunks, cs, max/cs, need)
			}
			if CowMax(chunks*cs-1, chunk) != max {
				t.Errorf("a partial last chunk of %d is not a whole one", chunks)
			}
		}
	}
}

func max2(a, b int64) int64 { return max(a, b) }

// The representation is LVM2's: see the text of a group that it made.
func TestSnapshotLayout(t *testing.T) {
	g := testGroup(t, 60)
	g = must(t)(g.CreateLV(LVSpec{Name: "base", Size: extents(10)}, testStamp()))
	c, err := g.CreateSnapshot(SnapshotSpec{Origin: "base", Name: "s1", Size: extents(2), ChunkSize: 128, ReadOnly: true, Tags: []string{"t"}}, testStamp())
	g = must(t)(c, err)
	g = snapshot(t, g, "base", "", extents(2))
	g = must(t)(g.CreateLV(LVSpec{Name: "other", Size: extents(1)}, testStamp()))
	g = snapshot(t, g, "base", "s3", extents(2))
	if got := names(g); got != "base s1 lvol0 other s3 snapshot0 snapshot1 snapshot2" {
		t.Errorf("the order is %s", got)
	}
	cow, holder := g.LV("s1"), g.LV("snapshot0")
	if !slices.Equal(cow.Status, []string{"READ"}) || !slices.Equal(cow.Tags, []string{"t"}) {
		t.Errorf("%+v", cow)
	}
	if got := g.LV("lvol0").Status; !slices.Equal(got, []string{"READ", "WRITE"}) {
		t.Errorf("status %v", got)
	}
	if !slices.Equal(holder.Status, []string{"READ", "WRITE", "VISIBLE"}) || len(holder.Tags) != 0 || holder.ID == cow.ID || holder.CreationTime == 0 {
		t.Errorf("%+v", holder)
	}
	if s := holder.Segments[0]; s.Start != 0 || s.Count != 10 || s.ChunkSize != 128 || s.Origin != "base" || s.Store != "s1" || s.Merging {
		t.Errorf("%+v", s)
	}
	if got := g.LV("snapshot1").Segments[0].ChunkSize; got != DefaultChunk {
		t.Errorf("default chunk of %d sectors", got)
	}

	var visible, of []string
	for _, lv := range g.Visible() {
		visible = append(visible, lv.Name)
	}
	for _, s := range g.SnapshotsOf(g.LV("base")) {
		of = append(of, s.Cow.Name)
	}
	if strings.Join(visible, " ") != "base s1 lvol0 other s3" || strings.Join(of, " ") != "s1 lvol0 s3" {
		t.Errorf("visible %v, snapshots of base %v", visible, of)
	}
	for name, want := range map[string][3]bool{"base": {true, false, true}, "s1": {false, true, true}, "other": {false, false, true}, "snapshot0": {false, false, false}} {
		lv := g.LV(name)
		if got := [3]bool{g.IsOrigin(lv), g.IsCow(lv), g.IsVisible(lv)}; got != want {
			t.Errorf("%s is origin, store, visible: %v, want %v", name, got, want)
		}
	}
	if s, ok := g.SnapshotOf(g.LV("s3")); !ok || s.Origin.Name != "base" || s.Holder.Name != "snapshot2" || s.Size() != 10 || g.LVSize(s.Cow) != 2*DefaultExtentSize {
		t.Errorf("SnapshotOf: %+v %v", s, ok)
	}
	if _, err := g.FindLV("snapshot0"); !errs.Is(err, errs.NotFound) {
		t.Errorf("an internal volume is found: %v", err)
	}

	g = must(t)(g.RemoveLV("lvol0"))
	g = snapshot(t, g, "base", "s4", extents(2))
	if g.LV("snapshot3") == nil {
		t.Errorf("the next number is not one more than the highest: %s", names(g))
	}
	c, err = g.RemoveLV("base")
	g = must(t)(c, err)
	if strings.Join(c.LVs, " ") != "s1 s3 s4 base" || names(g) != "other" || g.Free() != 59 {
		t.Errorf("removed %v, left %s with %d free", c.LVs, names(g), g.Free())
	}
}

func TestSnapshotRefuses(t *testing.T) {
	g := must(t)(testGroup(t, 60).CreateLV(LVSpec{Name: "base", Size: extents(10)}, testStamp()))
	g = snapshot(t, g, "base", "s", extents(2))
	for _, c := range []struct {
		spec SnapshotSpec
		kind errs.Kind
		text string
	}{
		{SnapshotSpec{Origin: "nosuch"}, errs.NotFound, "Snapshot origin LV nosuch not found in Volume group vg."},
		{SnapshotSpec{Origin: "snapshot0"}, errs.NotFound, "Snapshot origin LV snapshot0 not found in Volume group vg."},
		{SnapshotSpec{Origin: "s"}, errs.Unsupported, "Snapshots of snapshots are not supported."},
		{SnapshotSpec{Origin: "base", Name: "base"}, errs.Exists, `Logical Volume "base" already exists in volume group "vg"`},
		{SnapshotSpec{Origin: "base", Name: "pvmove0"}, errs.Usage, `Names starting "pvmove" are reserved. Please choose a different LV name.`},
		{SnapshotSpec{Origin: "base", ChunkSize: 4}, errs.Usage, "Chunk size must be a power of 2 in the range 4K to 512K."},
		{SnapshotSpec{Origin: "base", ChunkSize: 24}, errs.Usage, "Chunk size must be a power of 2 in the range 4K to 512K."},
		{SnapshotSpec{Origin: "base", Size: pct(5, OfLV)}, errs.Usage, "Please express size as %FREE, %ORIGIN, %PVS or %VG."},
	} {
		if c.spec.Size.IsZero() {
			c.spec.Size = extents(2)
		}
		_, err := g.CreateSnapshot(c.spec, testStamp())
		wantErr(t, err, c.kind, c.text)
	}
	full := must(t)(g.CreateLV(LVSpec{Name: "rest", Size: pct(100, OfFree)}, testStamp()))
	_, err := full.CreateSnapshot(SnapshotSpec{Origin: "base", Size: pct(100, OfOrigin)}, testStamp())
	wantErr(t, err, errs.NoSpace, "Insufficient suitable allocatable extents found for logical volume lvol0.")
	_, err = full.CreateSnapshot(SnapshotSpec{Origin: "base", Size: extents(2)}, testStamp())
	wantErr(t, err, errs.NoSpace, `Volume group "vg" has insufficient free space (0 extents): 2 required.`)
	_, err = full.CreateSnapshot(SnapshotSpec{Origin: "base"}, testStamp())
	if !errs.Is(err, errs.NoSpace) {
		t.Errorf("the default size of a snapshot in a full group: %v", err)
	}
}

// The order and the marks are those that lvm2 left under a real kernel.
func TestMerge(t *testing.T) {
	g := must(t)(testGroup(t, 60).CreateLV(LVSpec{Name: "base", Size: extents(10)}, testStamp()))
	for _, n := range []string{"s1", "s2", "s3"} {
		g = snapshot(t, g, "base", n, extents(2))
	}
	g = must(t)(g.CreateLV(LVSpec{Name: "other", Size: extents(1)}, testStamp()))
	_, err := g.StartMerge(MergeSpec{Name: "other"})
	wantErr(t, err, errs.Usage, `Logical volume "vg/other" is not a snapshot.`)
	_, err = g.StartMerge(MergeSpec{Name: "nosuch"})
	wantErr(t, err, errs.NotFound, `Failed to find logical volume "vg/nosuch"`)
	_, err = g.FinishMerge("s1")
	wantErr(t, err, errs.Conflict, `Logical volume "vg/s1" is not being merged.`)

	g = must(t)(g.StartMerge(MergeSpec{Name: "s1"}))
	if got := names(g); got != "base s2 s3 other s1 snapshot0 snapshot1 snapshot2" {
		t.Errorf("the order is %s", got)
	}
	h := g.LV("snapshot0")
	if !slices.Equal(h.Status, []string{"READ", "WRITE"}) || !h.Segments[0].Merging || g.IsVisible(g.LV("s1")) || !g.IsVisible(g.LV("s2")) {
		t.Errorf("%+v", h)
	}
	if s, ok := g.MergingInto(g.LV("base")); !ok || s.Cow.Name != "s1" {
		t.Errorf("merging into base: %+v %v", s, ok)
	}
	_, err = g.StartMerge(MergeSpec{Name: "s1"})
	wantErr(t, err, errs.Conflict, "Snapshot vg/s1 is already merging.")
	_, err = g.StartMerge(MergeSpec{Name: "s2"})
	wantErr(t, err, errs.Conflict, "Cannot merge snapshot vg/s2 into the origin vg/base with merging snapshot vg/s1.")
	_, err = g.CreateSnapshot(SnapshotSpec{Origin: "base", Size: extents(2)}, testStamp())
	wantErr(t, err, errs.Conflict, "Snapshots of an origin that has a merging snapshot are not supported.")
	_, err = g.RemoveLV("s1")
	wantErr(t, err, errs.Conflict, "Can't remove merging snapshot logical volume vg/s1.")
	if _, err := g.ExtendLV(ExtendSpec{Name: "s1", Size: extents(5)}); err == nil {
		t.Error("a merging snapshot was extended")
	}
	c, err := g.ExtendLV(ExtendSpec{Name: "s3", Size: extents(100), Relative: true})
	if err != nil || c.Group.LV("s3").Extents() != 11 || c.Notes[0] != "Reached maximum COW size 44.00 MiB (11 extents)." {
		t.Errorf("%v %+v", err, c)
	}
	if c, err := g.RemoveLV("base"); err != nil || strings.Join(c.LVs, " ") != "s1 s2 s3 base" {
		t.Errorf("removal of an origin with a merging snapshot: %v %+v", err, c)
	}
	g = must(t)(g.FinishMerge("s1"))
	if got := names(g); got != "base s2 s3 other snapshot1 snapshot2" {
		t.Errorf("the order is %s", got)
	}
	g = must(t)(g.StartMerge(MergeSpec{Name: "s2"}))
}
