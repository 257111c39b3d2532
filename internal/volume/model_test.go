package volume

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"cowl/internal/errs"
)

// model is what a person would keep on paper: how large each volume is, what
// is a snapshot of what, and how many extents there are.
type model struct {
	g      *Group
	pvs    map[string]Extents // by key
	sizes  map[string]Extents
	origin map[string]string // of snapshots
	merge  map[string]string // origin -> snapshot
}

// TestRandomOperations runs random operations and compares the group with the
// model after each: it stays valid, nothing is lost or found twice, and what
// is refused is refused for a reason that the model knows.
func TestRandomOperations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{pvs: map[string]Extents{}, sizes: map[string]Extents{}, origin: map[string]string{}, merge: map[string]string{}}
		counts := rapid.SliceOfN(rapid.Uint64Range(1, 30), 1, 4).Draw(t, "pvs")
		spec := GroupSpec{Name: "vg", ExtentSize: 16}
		for _, n := range counts {
			spec.PVs = append(spec.PVs, PVSpec{ID: testID(), DevSize: 2048 + Sectors(n)*16, PEStart: 2048})
		}
		g, err := NewGroup(spec, testStamp())
		if err != nil {
			t.Fatal(err)
		}
		m.g = g
		for _, pv := range g.PVs {
			m.pvs[pv.Key] = pv.PECount
		}
		t.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"create":   m.create,
			"extend":   m.extend,
			"remove":   m.remove,
			"snapshot": m.snapshot,
			"merge":    m.startMerge,
			"finish":   m.finishMerge,
			"add":      m.addPV,
			"reduce":   m.removePV,
			"mode":     m.setMode,
		})
	})
}

func (m *model) used() (n Extents) {
	for _, s := range m.sizes {
		n += s
	}
	return n
}

func (m *model) free() (n Extents) {
	for _, s := range m.pvs {
		n += s
	}
	return n - m.used()
}

// take replaces the group, after checking that the operation left the old one
// alone.
func (m *model) take(t *rapid.T, before string, c *Change) {
	if now := fmt.Sprintf("%+v", describe(m.g)); now != before {
		t.Fatalf("the operation changed its receiver from\n%s\nto\n%s", before, now)
	}
	m.g = c.Group
}

func describe(g *Group) []string {
	out := []string{fmt.Sprintf("%+v", *g)}
	for _, pv := range g.PVs {
		out = append(out, fmt.Sprintf("%+v", *pv))
	}
	for _, lv := range g.LVs {
		out = append(out, fmt.Sprintf("%+v", *lv))
	}
	return out
}

func (m *model) check(t *rapid.T) {
	if err := Validate(m.g); err != nil {
		t.Fatal(err)
	}
	if m.g.Free() != m.free() || m.g.Size() != m.free()+m.used() {
		t.Fatalf("%d of %d extents are free, the model has %d", m.g.Free(), m.g.Size(), m.free())
	}
	if want := len(m.sizes) + len(m.origin); len(m.g.LVs) != want {
		t.Fatalf("%d LVs, want %d", len(m.g.LVs), want)
	}
	for name, size := range m.sizes {
		lv := m.g.LV(name)
		if lv == nil || lv.Extents() != size {
			t.Fatalf("%s is %+v, want %d extents", name, lv, size)
		}
		s, isCow := m.g.SnapshotOf(lv)
		if origin := m.origin[name]; isCow != (origin != "") || isCow && s.Origin.Name != origin {
			t.Fatalf("%s is a snapshot: %v of %v, want %q", name, isCow, s.Origin, origin)
		}
		merging, _ := m.g.MergingInto(lv)
		if merging.Cow == nil && m.merge[name] != "" || merging.Cow != nil && merging.Cow.Name != m.merge[name] {
			t.Fatalf("%v merges into %s, want %q", merging.Cow, name, m.merge[name])
		}
		if hidden := isCow && m.merge[m.origin[name]] == name; m.g.IsVisible(lv) == hidden {
			t.Fatalf("%s is visible: %v", name, !hidden)
		}
	}
	seen := true
	for _, lv := range m.g.LVs {
		if v := m.g.IsVisible(lv); v && !seen {
			t.Fatalf("%s is visible and behind one that is not", lv.Name)
		} else {
			seen = v
		}
	}
}

func (m *model) pick(t *rapid.T) string {
	var all []string
	for _, lv := range m.g.LVs {
		all = append(all, lv.Name)
	}
	all = append(all, "nosuch")
	return rapid.SampledFrom(all).Draw(t, "lv")
}

func (m *model) create(t *rapid.T) {
	n := Extents(rapid.Uint64Range(1, 20).Draw(t, "extents"))
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.CreateLV(LVSpec{Size: Size{Extents: n}, Contiguous: rapid.Bool().Draw(t, "contiguous")}, testStamp())
	if err != nil {
		if !errs.Is(err, errs.NoSpace) {
			t.Fatal(err)
		}
		return
	}
	if n > m.free() {
		t.Fatalf("%d of %d free extents were allocated", n, m.free())
	}
	m.sizes[c.LVs[0]] = n
	m.take(t, before, c)
}

func (m *model) extend(t *rapid.T) {
	name := m.pick(t)
	n := Extents(rapid.Uint64Range(1, 10).Draw(t, "extents"))
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.ExtendLV(ExtendSpec{Name: name, Size: Size{Extents: n}, Relative: true})
	if err != nil {
		return
	}
	grown := c.Group.LV(name).Extents()
	if want := m.sizes[name] + n; grown != want && m.origin[name] == "" || grown > want {
		t.Fatalf("%s has %d extents after +%d of %d", name, grown, n, m.sizes[name])
	}
	m.sizes[name] = grown
	m.take(t, before, c)
}

func (m *model) remove(t *rapid.T) {
	name := m.pick(t)
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.RemoveLV(name)
	merging := m.origin[name] != "" && m.merge[m.origin[name]] == name
	if _, known := m.sizes[name]; (known && !merging) != (err == nil) {
		t.Fatalf("removal of %s (merging: %v): %v", name, merging, err)
	}
	if err != nil {
		return
	}
	for _, gone := range c.LVs {
		delete(m.sizes, gone)
		delete(m.origin, gone)
		delete(m.merge, gone)
	}
	m.take(t, before, c)
}

func (m *model) snapshot(t *rapid.T) {
	name := m.pick(t)
	before := fmt.Sprintf("%+v", describe(m.g))
	size := Size{Extents: Extents(rapid.Uint64Range(0, 6).Draw(t, "extents"))}
	c, err := m.g.CreateSnapshot(SnapshotSpec{Origin: name, Size: size}, testStamp())
	if err != nil {
		return
	}
	if m.origin[name] != "" || m.merge[name] != "" {
		t.Fatalf("a snapshot was taken of %s", name)
	}
	m.origin[c.LVs[0]] = name
	m.sizes[c.LVs[0]] = c.Group.LV(c.LVs[0]).Extents()
	m.take(t, before, c)
}

func (m *model) startMerge(t *rapid.T) {
	name := m.pick(t)
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.StartMerge(MergeSpec{Name: name})
	if may := m.origin[name] != "" && m.merge[m.origin[name]] == ""; may != (err == nil) {
		t.Fatalf("merge of %s: %v", name, err)
	}
	if err == nil {
		m.merge[m.origin[name]] = name
		m.take(t, before, c)
	}
}

func (m *model) finishMerge(t *rapid.T) {
	name := m.pick(t)
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.FinishMerge(name)
	origin := m.origin[name]
	if may := origin != "" && m.merge[origin] == name; may != (err == nil) {
		t.Fatalf("end of the merge of %s: %v", name, err)
	}
	if err == nil {
		delete(m.merge, origin)
		delete(m.origin, name)
		delete(m.sizes, name)
		m.take(t, before, c)
	}
}

func (m *model) addPV(t *rapid.T) {
	if len(m.pvs) > 6 {
		return
	}
	n := Extents(rapid.Uint64Range(0, 20).Draw(t, "extents"))
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.AddPV(PVSpec{ID: testID(), DevSize: 2048 + Sectors(n)*16, PEStart: 2048})
	if err != nil {
		t.Fatal(err)
	}
	m.pvs[c.Group.PVs[len(c.Group.PVs)-1].Key] = n
	m.take(t, before, c)
}

func (m *model) removePV(t *rapid.T) {
	pv := rapid.SampledFrom(m.g.PVs).Draw(t, "pv")
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.RemovePV(pv.Key)
	if may := m.g.PVUsed(pv) == 0 && len(m.pvs) > 1; may != (err == nil) {
		t.Fatalf("removal of %s with %d used extents: %v", pv.Key, m.g.PVUsed(pv), err)
	}
	if err == nil {
		delete(m.pvs, pv.Key)
		m.take(t, before, c)
	}
}

func (m *model) setMode(t *rapid.T) {
	name := m.pick(t)
	before := fmt.Sprintf("%+v", describe(m.g))
	c, err := m.g.SetReadOnly(name, rapid.Bool().Draw(t, "read-only"))
	if err == nil {
		m.take(t, before, c)
	}
}
