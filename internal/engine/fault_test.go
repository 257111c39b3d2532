package engine

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
	"cowl/internal/volume"
)

// A group in which a holds 2 and its snapshot s 1, and b holds 3.
func prepared(t *testing.T) *mem.Device {
	t.Helper()
	dev := mem.New(2 * mib)
	found(t, []block.Device{dev})
	g, err := open([]block.Device{dev})
	if err != nil {
		t.Fatal(err)
	}
	must(t)(g.CreateLV(ctx, lv("a", 2, "")))
	must(t)(g.CreateLV(ctx, lv("b", 2, "")))
	for _, step := range []struct {
		name string
		byte byte
	}{{"a", 1}, {"b", 3}, {"", 0}, {"a", 2}} {
		if step.name == "" {
			must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "s", 4, "")}))
			continue
		}
		d, err := g.Open(ctx, step.name, false)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d, 0, step.byte, 2*extent)
		closeDev(t, d)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	return dev
}

// breakable is something done to the prepared group, every I/O of which is
// made to fail.
type breakable struct {
	name string
	do   func(g *Group) error
	// after returns what volumes there are when it succeeded.
	after []string
	// open says that somebody has a open all the time.
	open bool
	// may lists other bytes than those prepared that volumes may hold
	// afterwards.
	may map[string][]byte
	// small says that b has a snapshot sb with a store that must grow, and what
	// is to happen if it cannot.
	small volume.OnFull
}

// had returns what volumes there were before.
func (b breakable) had() []string {
	if b.small != "" {
		return []string{"a", "b", "s", "sb"}
	}
	return []string{"a", "b", "s"}
}

// overwriteB writes all of b, which has a small snapshot.
func overwriteB(g *Group) error {
	d, err := g.Open(ctx, "b", false)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.WriteAt(bytes.Repeat([]byte{5}, 2*extent), 0); err != nil {
		return err
	}
	return d.Flush()
}

func breakables() []breakable {
	just := func(f func(g *Group) (*Result, error)) func(g *Group) error {
		return func(g *Group) error { _, err := f(g); return err }
	}
	return []breakable{
		{"lvcreate", just(func(g *Group) (*Result, error) { return g.CreateLV(ctx, lv("new", 1, "")) }), []string{"a", "b", "new", "s"}, false, nil, ""},
		{"lvcreate -s", just(func(g *Group) (*Result, error) {
			return g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "sa", 4, ""), snapOf("b", "sb", 4, "")})
		}), []string{"a", "b", "s", "sa", "sb"}, true, nil, ""},
		{"lvremove", just(func(g *Group) (*Result, error) { return g.RemoveLVs(ctx, []string{"s", "b"}) }), []string{"a"}, true, nil, ""},
		{"lvchange", just(func(g *Group) (*Result, error) { return g.SetReadOnly(ctx, "s", true) }), []string{"a", "b", "s"}, false, nil, ""},
		{"lvextend", just(func(g *Group) (*Result, error) {
			return g.ExtendLV(ctx, volume.ExtendSpec{Name: "b", Size: volume.Size{Extents: 4}})
		}), []string{"a", "b", "s"}, false, nil, ""},
		{"vgchange", func(g *Group) error {
			if _, err := g.Deactivate(ctx); err != nil {
				return err
			}
			_, err := g.Activate(ctx)
			return err
		}, []string{"a", "b", "s"}, false, nil, ""},
		{"growth, or overflow", overwriteB, []string{"a", "b", "s", "sb"}, false, map[string][]byte{"b": {5}}, volume.OnFullInvalidate},
		{"growth, or refusal", overwriteB, []string{"a", "b", "s", "sb"}, false, map[string][]byte{"b": {5}}, volume.OnFullReadOnly},
		{"write", func(g *Group) error {
			d, err := g.Open(ctx, "a", false)
			if err != nil {
				return err
			}
			defer d.Close()
			if _, err := d.WriteAt(bytes.Repeat([]byte{5}, extent), extent/2); err != nil {
				return err
			}
			return d.Flush()
		}, []string{"a", "b", "s"}, false, map[string][]byte{"a": {5}}, ""},
		{"write a snapshot", func(g *Group) error {
			d, err := g.Open(ctx, "s", false)
			if err != nil {
				return err
			}
			defer d.Close()
			if _, err := d.WriteAt(bytes.Repeat([]byte{5}, extent), extent/2); err != nil {
				return err
			}
			return d.Flush()
		}, []string{"a", "b", "s"}, false, map[string][]byte{"s": {5}}, ""},
		{"lvconvert --merge", func(g *Group) error {
			if _, err := g.Merge(ctx, volume.MergeSpec{Name: "s"}); err != nil {
				return err
			}
			g.mu.Lock()
			m := g.families["a"].merge
			g.mu.Unlock()
			if m != nil && m.done != nil {
				<-m.done
			}
			if g.Model().LV("s") != nil {
				return fmt.Errorf("the merge has stopped: %+v", g.Status().LVs["s"].Cow)
			}
			return nil
		}, []string{"a", "b"}, false, map[string][]byte{"a": {1}}, ""},
	}
}

var heldBefore = map[string]byte{"a": 2, "b": 3, "s": 1}

// Every I/O of every change fails in turn: once, once behind its back (it was
// done, and reported as failed), or from there on. The group must be what it
// was or what it was to be, with the contents that go with it: at once, after
// further use where the disk recovers, and found on disk without a farewell.
func TestEveryIOFails(t *testing.T) {
	dev := prepared(t)
	injected := 0
	for _, b := range breakables() {
		for _, mode := range []struct {
			name string
			rule fault.Rule
		}{
			{"once", fault.Rule{}},
			{"once, but done", fault.Rule{After: true}},
			{"from there on", fault.Rule{Always: true}},
			{"from there on, but done", fault.Rule{Always: true, After: true}},
		} {
			t.Run(b.name+" fails "+mode.name, func(t *testing.T) {
				for n := 1; ; n++ {
					mode.rule.Nth = n
					if !b.fails(t, dev.Clone(), mode.rule) {
						break
					}
					injected++
				}
			})
		}
	}
	t.Logf("%d faults", injected)
}

// fails runs the change with one fault, and reports whether it came to that.
func (b breakable) fails(t *testing.T, dev *mem.Device, rule fault.Rule) bool {
	t.Helper()
	script := fault.New()
	disk := &patient{script.Wrap("pv0", dev)}
	g, err := openWith([]block.Device{disk}, Options{Growth: growing(b.small), Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	must(t)(g.Activate(ctx))
	if b.small != "" {
		must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("b", "sb", 1, "")}))
	}
	at := fmt.Sprintf("fault %d (%+v)", rule.Nth, rule)
	var user block.Device
	if b.open {
		user = opened(t, g, "a")
	}
	script.Add(rule)
	err = b.do(g)
	fired := script.Fired() > 0
	if !fired && err != nil {
		t.Fatalf("%s: without a fault: %v", at, err)
	}
	if s, ok := g.Status().LVs["sb"]; ok && b.small == volume.OnFullReadOnly && strings.HasPrefix(s.Cow.Reason, "it overflowed") {
		t.Errorf("%s: %s", at, s.Cow.Reason)
	}
	if fired {
		crashed := found1(t, dev.Clone())
		// One fault leaves room to take back what failed.
		if names := visible(crashed); err != nil && !rule.Always && !slices.Equal(names, b.had()) && !b.merging(crashed) {
			t.Errorf("%s: %v, and on disk are %q", at, err, names)
		}
		b.check(t, at+", then the power", crashed, err, nil)
	}
	// The disk recovers, and the group is used again.
	disk.Device = dev
	old, flushed := heldBefore["a"], false
	d, oerr := user, error(nil)
	if user == nil {
		d, oerr = g.Open(ctx, "a", false)
	}
	if oerr == nil {
		first := make([]byte, 1)
		d.ReadAt(first, 0)
		old = first[0]
		if _, werr := d.WriteAt(bytes.Repeat([]byte{9}, 4096), 0); werr != nil {
			t.Errorf("%s: write when the disk is well again: %v", at, werr)
		}
		d.Flush() // may report what was acknowledged and lost
		if ferr := d.Flush(); ferr != nil {
			t.Errorf("%s: flush when the disk is well again: %v", at, ferr)
		} else {
			flushed = true
		}
		if user == nil {
			d.Close()
		}
	} else if active(g)["a"] {
		t.Errorf("%s: open when the disk is well again: %v", at, oerr)
	}
	later := map[string][]byte{"a": {9, old}, "sa": {old}}
	crashed := found1(t, dev.Clone())
	if got, err := content(crashed, "a"); flushed && (err != nil || got[0] != 9 || got[4095] != 9) {
		t.Errorf("%s: a flushed write is not on disk: %v", at, err)
	}
	b.check(t, at+", then used, then the power", crashed, err, later)
	rest := volume.LVSpec{Name: "after", Size: volume.Size{Percent: 100, Of: volume.OfFree}}
	if _, cerr := g.CreateLV(ctx, rest); cerr != nil {
		t.Errorf("%s: lvcreate when the disk is well again: %v", at, cerr)
	}
	b.reuse(t, at, g, user)
	g.Close()
	end := found1(t, dev.Clone())
	if end.Model().LV("after") == nil {
		t.Errorf("%s: a change that succeeded is not on disk", at)
	}
	b.check(t, at+", then closed", end, err, later)
	return fired
}

// reuse fills what was free, and then the origin: nothing of a change that
// failed may still write to extents that it had in mind.
func (b breakable) reuse(t *testing.T, at string, g *Group, user block.Device) {
	t.Helper()
	d := opened(t, g, "after")
	write(t, d, 0, 7, int(d.Size()))
	if user != nil {
		write(t, user, 4096, 9, 2*extent-4096)
		user.Flush()
	}
	expect(t, at+": a volume on extents that were free", d, 0, 7, int(d.Size()))
}

// patient is a disk that can recover.
type patient struct{ block.Device }

// found1 is the group as another start would find it on the disk.
func found1(t *testing.T, dev *mem.Device) *Group {
	t.Helper()
	g, err := open([]block.Device{dev})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// check looks at a group that was found on disk.
func (b breakable) check(t *testing.T, at string, g *Group, err error, later map[string][]byte) {
	t.Helper()
	names := visible(g)
	if !slices.Equal(names, b.after) && (err == nil || !slices.Equal(names, b.had())) && !b.merging(g) {
		t.Errorf("%s: volumes %q behind %v", at, names, err)
	}
	if _, aerr := g.Activate(ctx); aerr != nil {
		t.Errorf("%s: activate: %v", at, aerr)
		return
	}
	for _, name := range names {
		if name == "new" {
			continue
		}
		if problem := b.holds(g, name, later[name]); problem != "" {
			t.Errorf("%s: %s: %s (the change: %v)", at, name, problem, err)
		}
	}
	if cerr := g.Close(); cerr != nil {
		t.Errorf("%s: close: %v", at, cerr)
	}
}

// visible returns the names of the volumes, but for one that was made after
// the fault.
func visible(g *Group) []string {
	var names []string
	for _, lv := range g.Model().Visible() {
		if lv.Name != "after" {
			names = append(names, lv.Name)
		}
	}
	slices.Sort(names)
	return names
}

// merging reports whether a merge has begun and not ended.
func (b breakable) merging(g *Group) bool {
	_, merging := g.Model().MergingInto(g.Model().LV("a"))
	return merging && b.may["a"] != nil
}

func (b breakable) holds(g *Group, name string, also []byte) string {
	got, err := content(g, name)
	if c := g.Status().LVs[name].Cow; c != nil && c.Invalid {
		return "" // its store could not be written: it says so
	}
	if err != nil {
		return err.Error()
	}
	origin := map[string]string{"sa": "a", "sb": "b"}[name]
	if origin == "" {
		origin = name
	}
	allowed := append([]byte{heldBefore[origin]}, b.may[name]...)
	allowed = append(allowed, also...)
	if b.name == "lvextend" && name == "b" {
		got = got[:2*extent]
	}
	for i, c := range got {
		if !slices.Contains(allowed, c) {
			return fmt.Sprintf("byte %d is %d, want one of %d", i, c, allowed)
		}
	}
	return ""
}
