package volume

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/config"
)

// testGroup returns a group "vg" with 4 MiB extents and PVs of the given
// numbers of extents.
func testGroup(t testing.TB, pvs ...Extents) *Group {
	t.Helper()
	spec := GroupSpec{Name: "vg"}
	for i, n := range pvs {
		spec.PVs = append(spec.PVs, PVSpec{
			ID: testID(), Device: fmt.Sprintf("/dev/%c", 'a'+i),
			DevSize: 2048 + Sectors(n)*DefaultExtentSize + 100, PEStart: 2048,
		})
	}
	g, err := NewGroup(spec, testStamp())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// must returns the changed group of an operation that has to succeed.
func must(t testing.TB) func(*Change, error) *Group {
	return func(c *Change, err error) *Group {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if err := Validate(c.Group); err != nil {
			t.Fatal(err)
		}
		return c.Group
	}
}

// layout returns an LV's segments as "pv0:3+4 pv1:0+2".
func layout(lv *LV) string {
	var out []string
	for _, s := range lv.Segments {
		switch s.Type {
		case Snapshot:
			out = append(out, fmt.Sprintf("%d of %s in %s", s.Count, s.Origin, s.Store))
		default:
			for _, a := range s.Stripes {
				out = append(out, fmt.Sprintf("%s:%d+%d", a.PV, a.Start, s.AreaLen()))
			}
		}
	}
	return strings.Join(out, " ")
}

func names(g *Group) string {
	var out []string
	for _, lv := range g.LVs {
		out = append(out, lv.Name)
	}
	return strings.Join(out, " ")
}

func wantErr(t testing.TB, err error, kind errs.Kind, text string) {
	t.Helper()
	if err == nil || err.Error() != text || errs.KindOf(err) != kind {
		t.Errorf("error %v of kind %v; want %v: %s", err, errs.KindOf(err), kind, text)
	}
}

func bytes(n int64) Size           { return Size{Bytes: n} }
func extents(n Extents) Size       { return Size{Extents: n} }
func pct(n uint64, of SizeOf) Size { return Size{Percent: n, Of: of} }

func TestNewGroup(t *testing.T) {
	g := testGroup(t, 15, 3)
	if err := Validate(g); err != nil {
		t.Fatal(err)
	}
	if g.PVs[0].PECount != 15 || g.PVs[1].PECount != 3 || g.PVs[1].Key != "pv1" || g.Free() != 18 || g.Size() != 18 {
		t.Errorf("%+v %+v", g.PVs[0], g.PVs[1])
	}
	for size, want := range map[Sectors]string{
		1:           "Physical Extent size must be a power of 2 of at least 1.00 KiB.",
		6:           "Physical Extent size must be a multiple of 128.00 KiB when not a power of 2.",
		192:         "Physical Extent size must be a multiple of 128.00 KiB when not a power of 2.",
		1 << 32:     "Physical extent size must be smaller than 2.00 TiB",
		2:           "",
		48 << 11:    "",
		3 * 128 * 2: "",
	} {
		if err := CheckExtentSize(size); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("extents of %d sectors: %v, want %q", size, err, want)
		}
	}
	for _, c := range []struct {
		spec GroupSpec
		want string
	}{
		{GroupSpec{Name: ""}, "Name is zero length.\nNew volume group name \"\" is invalid."},
		{GroupSpec{Name: "vg", Tags: []string{"a b"}}, `Tag "a b" is invalid: use a-z, A-Z, 0-9 and _ + . - / = ! : & #`},
		{GroupSpec{Name: "vg", PVs: []PVSpec{{ID: testID(), Device: "d", DevSize: 100, PEStart: 200}}}, "Physical volume 'd' cannot be used: its data would start at sector 200 of 100"},
		{GroupSpec{Name: "vg", MaxPV: 1, PVs: []PVSpec{{ID: testID(), DevSize: 9999}, {ID: testID(), Device: "d", DevSize: 9999}}}, "No space for 'd' - volume group 'vg' holds max 1 physical volume(s)."},
	} {
		if _, err := NewGroup(c.spec, testStamp()); err == nil || err.Error() != c.want {
			t.Errorf("%+v: %v, want %q", c.spec, err, c.want)
		}
	}
}

func TestPVsComeAndGo(t *testing.T) {
	g := testGroup(t, 4, 4, 4)
	g = must(t)(g.CreateLV(LVSpec{Name: "a", Size: extents(6)}, testStamp()))
	_, err := g.RemovePV("pv0")
	wantErr(t, err, errs.Busy, `Physical volume "/dev/a" still in use`)
	_, err = g.RemovePV("pv7")
	wantErr(t, err, errs.NotFound, `Physical Volume "pv7" not found in Volume Group "vg".`)
	_, err = g.AddPV(PVSpec{ID: g.PVs[0].ID, Device: "/dev/x", DevSize: 99999})
	wantErr(t, err, errs.Exists, "Physical volume '/dev/x' is already in volume group 'vg'")
	g = must(t)(g.RemovePV("pv2"))
	g = must(t)(g.RemoveLV("a"))
	g = must(t)(g.RemovePV("pv0"))
	g = must(t)(g.AddPV(PVSpec{ID: testID(), Device: "/dev/x", DevSize: 99999}))
	if g.PVs[0].Key != "pv1" || g.PVs[1].Key != "pv2" {
		t.Errorf("keys are %s %s", g.PVs[0].Key, g.PVs[1].Key)
	}
	g = must(t)(g.RemovePV("pv1"))
	_, err = g.RemovePV("pv2")
	wantErr(t, err, errs.Conflict, `Can't remove final physical volume "/dev/x" from volume group "vg"`)
	g.Status = []string{"READ", "WRITE"}
	_, err = g.AddPV(PVSpec{ID: testID(), DevSize: 99999})
	wantErr(t, err, errs.Conflict, `Volume group "vg" is not resizeable.`)
}

// Sizes, notes and refusals are those of lvm2 2.03.16.
func TestCreateLV(t *testing.T) {
	for _, c := range []struct {
		size   Size
		ranges string
		want   string // the layout
		note   string
		err    string
		kind   errs.Kind
	}{
		{size: bytes(8 << 20), want: "pv0:0+2"},
		{size: bytes(5 << 20), want: "pv0:0+2", note: "Rounding up size to full physical extent 8.00 MiB"},
		{size: bytes(512), want: "pv0:0+1", note: "Rounding up size to full physical extent 4.00 MiB"},
		{size: extents(15), want: "pv0:0+15"},
		{size: extents(16), want: "pv0:0+15 pv1:0+1"},
		{size: extents(45), want: "pv0:0+15 pv1:0+15 pv2:0+15"},
		{size: extents(46), err: `Volume group "vg" has insufficient free space (45 extents): 46 required.`, kind: errs.NoSpace},
		{size: bytes(1 << 62), err: `Volume group "vg" has insufficient free space (45 extents): 1099511627776 required.`, kind: errs.NoSpace},
		{size: Size{}, err: "Calculated size of logical volume is 0 extents. Needs to be larger.", kind: errs.NoSpace},
		{size: pct(1, OfVG), err: "Calculated size of logical volume is 0 extents. Needs to be larger.", kind: errs.NoSpace},
		{size: pct(10, OfFree), want: "pv0:0+4"},
		{size: pct(100, OfFree), want: "pv0:0+15 pv1:0+15 pv2:0+15"},
		{size: pct(200, OfVG), want: "pv0:0+15 pv1:0+15 pv2:0+15", note: "Reducing 200%VG to remaining free space 180.00 MiB in VG."},
		{size: pct(1<<63, OfVG), want: "pv0:0+15 pv1:0+15 pv2:0+15", note: "Reducing 9223372036854775808%VG to remaining free space 180.00 MiB in VG."},
		{size: pct(10, OfOrigin), err: "Please express size as %FREE, %PVS or %VG.", kind: errs.Usage},
		{size: pct(10, OfLV), err: "Please express size as %FREE, %PVS or %VG.", kind: errs.Usage},
		{size: pct(100, OfPVs), ranges: "pv1", want: "pv1:0+15"},
		{size: extents(3), ranges: "pv1:8-9:10", want: "pv1:8+3"},
		{size: extents(5), ranges: "pv1:0-2", err: "Insufficient free space: 5 extents needed, but only 3 available", kind: errs.NoSpace},
		{size: extents(5), ranges: "pv1:90-92", err: "PE range error: start extent 90 to end extent 92.", kind: errs.NotFound},
		{size: extents(5), ranges: "pv1:1-4:3-5", err: "Overlapping PE ranges specified (1-4, 3-5) on /dev/b.", kind: errs.Usage},
		{size: extents(5), ranges: "pv9", err: `Physical Volume "pv9" not found in Volume Group "vg".`, kind: errs.NotFound},
	} {
		g := testGroup(t, 15, 15, 15)
		spec := LVSpec{Name: "x", Size: c.size}
		if c.ranges != "" {
			var err error
			if spec.PVs, err = ParsePVRanges(c.ranges); err != nil {
				t.Fatal(err)
			}
		}
		before := fmt.Sprintf("%+v", g)
		change, err := g.CreateLV(spec, testStamp())
		if fmt.Sprintf("%+v", g) != before || len(g.LVs) != 0 {
			t.Errorf("%+v: the receiver changed", c.size)
		}
		if c.err != "" {
			wantErr(t, err, c.kind, c.err)
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		lv := change.Group.LV("x")
		if got := layout(lv); got != c.want || strings.Join(change.Notes, "|") != c.note {
			t.Errorf("%+v: %s with the notes %q", c, got, change.Notes)
		}
		if !slices.Equal(lv.Status, []string{"READ", "WRITE", "VISIBLE"}) || lv.CreationHost != "tester" || lv.CreationTime != 1700000000 || !lv.ID.Valid() {
			t.Errorf("%+v", lv)
		}
	}
}

func TestCreateLVRefuses(t *testing.T) {
	g := must(t)(testGroup(t, 10).CreateLV(LVSpec{Size: extents(1), ReadOnly: true, Tags: []string{"t"}}, testStamp()))
	if lv := g.LVs[0]; lv.Name != "lvol0" || !lv.ReadOnly() || !slices.Equal(lv.Status, []string{"READ", "VISIBLE"}) || lv.Tags[0] != "t" {
		t.Errorf("%+v", lv)
	}
	_, err := g.CreateLV(LVSpec{Name: "lvol0", Size: extents(1)}, testStamp())
	wantErr(t, err, errs.Exists, `Logical Volume "lvol0" already exists in volume group "vg"`)
	_, err = g.CreateLV(LVSpec{Name: "snapshot", Size: extents(1)}, testStamp())
	wantErr(t, err, errs.Usage, `Names starting "snapshot" are reserved. Please choose a different LV name.`)
	_, err = g.CreateLV(LVSpec{Name: strings.Repeat("a-", 60), Size: extents(1)}, testStamp())
	if !errs.Is(err, errs.Usage) {
		t.Errorf("a name too long for device-mapper: %v", err)
	}
	_, err = g.CreateLV(LVSpec{Size: extents(1), Tags: []string{"-x"}}, testStamp())
	if !errs.Is(err, errs.Usage) {
		t.Errorf("a bad tag: %v", err)
	}
	g.MaxLV = 1
	_, err = g.CreateLV(LVSpec{Size: extents(1)}, testStamp())
	wantErr(t, err, errs.Conflict, "Maximum number of logical volumes (1) reached in volume group vg")
	g.MaxLV = 0
	g.PVs[0].Status = nil
	_, err = g.CreateLV(LVSpec{Size: extents(1)}, testStamp())
	wantErr(t, err, errs.NoSpace, "Insufficient free space: 1 extents needed, but only 0 available")
	c, err := g.CreateLV(LVSpec{Size: extents(1), PVs: []PVRange{{PV: "pv0", Whole: true}}}, testStamp())
	wantErr(t, err, errs.NoSpace, "No specified PVs have space available.")
	_ = c
	g.PVs[0].Status = []string{"ALLOCATABLE", "MISSING"}
	_, err = g.CreateLV(LVSpec{Size: extents(1)}, testStamp())
	wantErr(t, err, errs.NoSpace, "Insufficient free space: 1 extents needed, but only 0 available")
}

func TestExtendLV(t *testing.T) {
	g := testGroup(t, 10, 10)
	g = must(t)(g.CreateLV(LVSpec{Name: "a", Size: extents(4)}, testStamp()))
	g = must(t)(g.CreateLV(LVSpec{Name: "b", Size: extents(2)}, testStamp()))
	for _, c := range []struct {
		spec ExtendSpec
		want string
		note string
		err  string
		kind errs.Kind
	}{
		{spec: ExtendSpec{Size: bytes(4 << 20), Relative: true}, want: "pv0:0+4 pv0:6+1", note: "Size of logical volume vg/a changed from 16.00 MiB (4 extents) to 20.00 MiB (5 extents)."},
		{spec: ExtendSpec{Size: bytes(17 << 20)}, want: "pv0:0+4 pv0:6+1", note: "Rounding size to boundary between physical extents: 20.00 MiB.|Size of logical volume vg/a changed from 16.00 MiB (4 extents) to 20.00 MiB (5 extents)."},
		{spec: ExtendSpec{Size: pct(50, OfLV), Relative: true}, want: "pv0:0+4 pv0:6+2", note: "Size of logical volume vg/a changed from 16.00 MiB (4 extents) to 24.00 MiB (6 extents)."},
		{spec: ExtendSpec{Size: pct(100, OfFree), Relative: true}, want: "pv0:0+4 pv0:6+4 pv1:0+10", note: "Size of logical volume vg/a changed from 16.00 MiB (4 extents) to 72.00 MiB (18 extents)."},
		{spec: ExtendSpec{Size: extents(3)}, err: "New size given (3 extents) not larger than existing size (4 extents)", kind: errs.Conflict},
		{spec: ExtendSpec{Size: extents(4)}, err: "New size (4 extents) matches existing size (4 extents).", kind: errs.Conflict},
		{spec: ExtendSpec{Size: extents(15), Relative: true}, err: "Insufficient free space: 15 extents needed, but only 14 available", kind: errs.NoSpace},
		{spec: ExtendSpec{Size: Size{}}, err: "--size may not be zero.", kind: errs.Usage},
		{spec: ExtendSpec{Size: pct(100, OfOrigin)}, err: "Specified LV does not have an origin LV.", kind: errs.Conflict},
		{spec: ExtendSpec{Size: bytes(1 << 62)}, err: "Insufficient free space: 1099511627772 extents needed, but only 14 available", kind: errs.NoSpace},
	} {
		c.spec.Name = "a"
		change, err := g.ExtendLV(c.spec)
		if c.err != "" {
			wantErr(t, err, c.kind, c.err)
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c.spec, err)
			continue
		}
		if got := layout(change.Group.LV("a")); got != c.want || strings.Join(change.Notes, "|") != c.note {
			t.Errorf("%+v: %s with %q", c.spec, got, change.Notes)
		}
	}
	_, err := g.ExtendLV(ExtendSpec{Name: "x", Size: extents(9)})
	wantErr(t, err, errs.NotFound, `Failed to find logical volume "vg/x"`)
}

func TestSetReadOnly(t *testing.T) {
	g := must(t)(testGroup(t, 10).CreateLV(LVSpec{Name: "a", Size: extents(1)}, testStamp()))
	_, err := g.SetReadOnly("a", false)
	wantErr(t, err, errs.Conflict, `Logical volume "vg/a" is already writable.`)
	g = must(t)(g.SetReadOnly("a", true))
	_, err = g.SetReadOnly("a", true)
	wantErr(t, err, errs.Conflict, `Logical volume "vg/a" is already read only.`)
	g = must(t)(g.SetReadOnly("a", false))
	if got := g.LV("a").Status; !slices.Equal(got, []string{"READ", "WRITE", "VISIBLE"}) {
		t.Error(got)
	}
}

// LVs of types that cowl does not know keep their extents, whatever their
// segments look like, and nothing is done to them.
func TestForeignLVs(t *testing.T) {
	g := testGroup(t, 10, 10)
	area := func(key string, values ...config.Value) config.Node {
		return config.Node{Key: key, Value: config.Value{Kind: config.Array, Array: values}}
	}
	str := func(s string) config.Value { return config.Value{Kind: config.String, Text: s} }
	num := func(n int64) config.Value { return config.Value{Kind: config.Int, Int: n} }
	g.LVs = []*LV{
		{Name: "mirror", ID: testID(), Status: []string{"READ", "WRITE", "VISIBLE"}, Segments: []Segment{{
			Count: 3, Type: "mirror", Extra: []config.Node{area("mirrors", str("pv0"), num(2), str("pv1"), num(0))},
		}}},
		{Name: "raid", ID: testID(), Status: []string{"READ", "WRITE", "VISIBLE"}, Segments: []Segment{{
			Count: 4, Type: "raid1", Extra: []config.Node{area("raids", str("raid_rmeta_0"), str("raid_rimage_0"))},
		}}},
		{Name: "raid_rmeta_0", ID: testID(), Status: []string{"READ", "WRITE"}, Segments: []Segment{{Count: 1, Type: Striped, Stripes: []Area{{"pv0", 9}}}}},
		{Name: "raid_rimage_0", ID: testID(), Status: []string{"READ", "WRITE"}, Segments: []Segment{{Count: 4, Type: Striped, Stripes: []Area{{"pv1", 6}}}}},
		{Name: "layered", ID: testID(), Status: []string{"READ", "WRITE", "VISIBLE"}, Segments: []Segment{{Count: 4, Type: Striped, Stripes: []Area{{"raid_rimage_0", 0}}}}},
		{Name: "stripes", ID: testID(), Status: []string{"READ", "WRITE", "VISIBLE"}, Segments: []Segment{{Count: 2, Type: Striped, StripeSize: 128, Stripes: []Area{{"pv0", 0}, {"pv1", 4}}}}},
	}
	if err := Validate(g); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.FreeRuns(g.PVs[0]), g.FreeRuns(g.PVs[1])); got != "[{pv0 1 1} {pv0 5 4}] [{pv1 3 1} {pv1 5 1}]" {
		t.Errorf("free runs are %s", got)
	}
	for name, part := range map[string]string{
		"mirror": "has segment type mirror, which cowl does not change.", "raid": "has segment type raid1",
		"layered": "has segment type striped over logical volumes", "raid_rimage_0": "is internal to another volume",
	} {
		_, e1 := g.RemoveLV(name)
		_, e2 := g.ExtendLV(ExtendSpec{Name: name, Size: extents(20)})
		_, e3 := g.CreateSnapshot(SnapshotSpec{Origin: name, Size: extents(1)}, testStamp())
		_, e4 := g.SetReadOnly(name, true)
		for _, err := range []error{e1, e2, e3, e4} {
			if !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", name, err, part)
			}
		}
	}
	_, err := g.ExtendLV(ExtendSpec{Name: "stripes", Size: extents(4)})
	wantErr(t, err, errs.Unsupported, "Logical volume vg/stripes is striped; cowl extends linear volumes only.")
	g = must(t)(g.CreateLV(LVSpec{Name: "all", Size: pct(100, OfFree)}, testStamp()))
	if g.Free() != 0 {
		t.Errorf("%d extents are free", g.Free())
	}
	g = must(t)(g.RemoveLV("stripes"))
	if g.Free() != 2 {
		t.Errorf("%d extents are free, want the stripes' 2", g.Free())
	}
}
