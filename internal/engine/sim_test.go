package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
)

// sim runs random operations on a group beside the plain model. Behind every
// single operation on a disk it looks at what a power cut at that moment would
// leave: the disks' possible states are reopened and compared with what the
// model says may be found.
type sim struct {
	t    *testing.T
	rng  *rand.Rand
	disk []*crash.Disk
	log  []string // what was done, for messages

	g    *Group
	open map[string]block.Device // held open by a user

	mu     sync.Mutex // a merge writes beside the main line
	points int
	state  *simState // before what is being done
	next   *simState // after it; nil while nothing is being done
	looks  *looks
	wrong  error // what was first found; a callback of a disk cannot end the test
}

// looks bounds the cost of looking at power cuts.
type looks struct {
	random int     // states of each moment
	odds   float64 // of looking at a moment
	nested float64 // of cutting the power again while a state is recovered from
	states int     // looked at so far
}

// watched is a disk that tells when something has been done on it.
type watched struct {
	*crash.Disk
	done func(op string)
}

func (d *watched) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Disk.WriteAt(p, off)
	d.done(fmt.Sprintf("write %s %d+%d", d.Name(), off, len(p)))
	return n, err
}

func (d *watched) WriteZeroes(off, length int64) error {
	err := d.Disk.WriteZeroes(off, length)
	d.done(fmt.Sprintf("zero %s %d+%d", d.Name(), off, length))
	return err
}

func (d *watched) Discard(off, length int64) error {
	err := d.Disk.Discard(off, length)
	d.done(fmt.Sprintf("discard %s %d+%d", d.Name(), off, length))
	return err
}

func (d *watched) Flush() error {
	err := d.Disk.Flush()
	d.done("flush " + d.Name())
	return err
}

const simExtent = 32 * kib

func newSim(t *testing.T, seed uint64, l *looks) *sim {
	t.Helper()
	w := crash.NewWorld()
	for i := range 2 {
		w.NewDisk(fmt.Sprintf("pv%d", i), 2*mib)
	}
	foundWith(t, w.Disks(), simExtent)
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), disk: w.Reboot(crash.All), looks: l,
		open: map[string]block.Device{}, state: &simState{lvs: map[string]*simLV{}},
	}
	s.start()
	return s
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nafter\n%s", fmt.Sprintf(format, args...), strings.Join(s.log, "\n"))
}

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%3d ", len(s.log)+1)+fmt.Sprintf(format, args...))
}

// start opens and activates the group on the disks.
func (s *sim) start() {
	var devs []block.Device
	for _, d := range s.disk {
		devs = append(devs, &watched{d, s.moment})
	}
	g, err := open(devs)
	if err != nil {
		s.fail("open: %v", err)
	}
	s.g = g
	if _, err := g.Activate(ctx); err != nil {
		s.fail("activate: %v", err)
	}
}

// change does something that alters metadata: until it has returned either
// state may be found, then only the new one.
func (s *sim) change(alter func(next *simState), do func() error) {
	next := s.state.clone()
	alter(next)
	s.mu.Lock()
	s.next = next
	s.mu.Unlock()
	if err := do(); err != nil {
		s.fail("%v", err)
	}
	s.mu.Lock()
	s.state, s.next = next, nil
	s.mu.Unlock()
}

// with alters the model under its lock.
func (s *sim) with(alter func(st *simState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	alter(s.state)
}

// moment is called behind every operation on a disk.
func (s *sim) moment(op string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong != nil || s.rng.Float64() >= s.looks.odds {
		return
	}
	s.points++
	candidates := s.state.candidates()
	if s.next != nil {
		candidates = append(candidates, s.next.candidates()...)
	}
	world := s.disk[0].World()
	for name, disks := range states(world, s.rng, s.looks.random) {
		s.looks.states++
		at := fmt.Sprintf("power cut behind %q, %s", op, name)
		if err := recovered(disks, candidates, s.rng, s.looks); err != nil {
			s.wrong = fmt.Errorf("%s: %w", at, err)
			return
		}
	}
}

// states yields some of the states that a power cut may leave: random ones, and
// one of the extremes.
func states(w *crash.World, rng *rand.Rand, random int) func(yield func(string, []*crash.Disk) bool) {
	return func(yield func(string, []*crash.Disk) bool) {
		if len(w.Unsynced()) == 0 {
			yield("with nothing in the caches", w.Reboot(crash.All))
			return
		}
		type extreme struct {
			name   string
			policy crash.Policy
		}
		var all []extreme
		for name, p := range w.Extremes() {
			all = append(all, extreme{name, p})
		}
		for range random {
			e := all[rng.IntN(len(all))]
			if !yield(e.name, w.Reboot(e.policy)) || !yield("random survivors", w.Reboot(crash.Random(rng))) {
				return
			}
		}
	}
}

// recovered checks what is found on disks after a power cut: one of the
// candidates, and a group that can be used.
func recovered(disks []*crash.Disk, candidates []*simState, rng *rand.Rand, l *looks) error {
	var inner error
	var mu sync.Mutex
	recovering := true
	again := func(op string) { // the power fails again
		mu.Lock()
		defer mu.Unlock()
		if recovering && inner == nil {
			for name, disks := range states(disks[0].World(), rng, 1) {
				l.states++
				if err := recovered(disks, candidates, rng, &looks{}); err != nil && inner == nil {
					inner = fmt.Errorf("cut again behind %q, %s: %w", op, name, err)
				}
			}
		}
	}
	twice := rng.Float64() < l.nested
	var devs []block.Device
	for _, d := range disks {
		if twice {
			devs = append(devs, &watched{d, again})
		} else {
			devs = append(devs, d)
		}
	}
	g, err := open(devs)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer g.Close()
	if _, err := g.Activate(ctx); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	var problems []string
	for _, c := range candidates {
		problem := c.compare(g, true)
		if problem == "" {
			if err := c.settled(g); err != nil {
				return err
			}
			mu.Lock()
			recovering = false
			mu.Unlock()
			if inner != nil {
				return inner
			}
			return c.usable(g)
		}
		problems = append(problems, problem)
	}
	return fmt.Errorf("no state that may be found:\n%s", strings.Join(problems, "\n"))
}

// compare says how a group differs from the state, "" if it does not.
func (st *simState) compare(g *Group, crashed bool) string {
	status := g.Status()
	var want, got []string
	for _, lv := range status.Model.Visible() {
		got = append(got, lv.Name)
	}
	want = st.names(func(lv *simLV) bool { return !lv.merging && !lv.delayed })
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Sprintf("volumes %q, want %q", got, want)
	}
	for _, name := range want {
		if problem := st.lvs[name].check(g, status.LVs[name], crashed); problem != "" {
			return name + ": " + problem
		}
	}
	return ""
}

// check compares one volume.
func (lv *simLV) check(g *Group, status LVStatus, crashed bool) string {
	d, err := g.Open(ctx, lv.name, true)
	if err != nil {
		return err.Error()
	}
	defer d.Close()
	got := make([]byte, d.Size())
	before := lv.isSnapshot() && g.Status().LVs[lv.name].Cow.Invalid
	_, err = d.ReadAt(got, 0)
	// A merge beside it may make it overflow at any moment.
	if lv.isSnapshot() && g.Status().LVs[lv.name].Cow.Invalid {
		switch {
		case before && err == nil:
			return "invalid, and it can be read"
		case !lv.invalid && len(lv.may) <= lv.room:
			return fmt.Sprintf("invalid (%s) with at most %d of %d chunks taken", status.Cow.Reason, len(lv.may), lv.room)
		}
		return ""
	}
	switch {
	case err != nil:
		return err.Error()
	case lv.invalid:
		return "valid again"
	}
	return lv.differs(got, crashed)
}

// settled waits for the merges that go on after a crash.
func (st *simState) settled(g *Group) error {
	merging := st.names(func(lv *simLV) bool {
		c := g.Status().LVs[lv.name].Cow
		return lv.merging && c != nil && !c.Invalid // the store of a delayed one may have been lost
	})
	for _, name := range merging {
		for g.Model().LV(name) != nil {
			g.mu.Lock()
			f := g.families[st.lvs[name].origin]
			var done chan struct{}
			if f != nil && f.merge != nil {
				done = f.merge.done
			}
			g.mu.Unlock()
			if done != nil {
				<-done
			} else if g.Model().LV(name) != nil {
				return fmt.Errorf("nobody merges %s", name)
			}
		}
	}
	if len(merging) > 0 {
		if problem := st.compare(g, true); problem != "" {
			return fmt.Errorf("when the merge is done: %s", problem)
		}
	}
	return nil
}

// usable overwrites what there is, and closes the group.
func (st *simState) usable(g *Group) error {
	for _, name := range st.names(func(lv *simLV) bool { return !lv.merging && !lv.isSnapshot() }) {
		if err := st.overwrite(g, name); err != nil {
			return err
		}
	}
	return g.Close()
}

// overwrite fills an origin anew; its snapshots must not change.
func (st *simState) overwrite(g *Group, name string) error {
	before := map[string][]byte{}
	for _, s := range st.snapshots(name) {
		if c := g.Status().LVs[s.name].Cow; c != nil && !c.Invalid && !s.merging {
			b, err := content(g, s.name)
			if err != nil {
				return err
			}
			before[s.name] = b
		}
	}
	d, err := g.Open(ctx, name, false)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.WriteAt(bytes.Repeat([]byte{0xdd}, int(d.Size())), 0); err != nil {
		return err
	}
	for s, want := range before {
		got, err := content(g, s)
		if err != nil && g.Status().LVs[s].Cow.Invalid {
			continue // it had no room
		}
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s changed when %s was written after the crash: %v", s, name, err)
		}
	}
	return nil
}

func content(g *Group, name string) ([]byte, error) {
	d, err := g.Open(ctx, name, true)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	b := make([]byte, d.Size())
	_, err = d.ReadAt(b, 0)
	return b, err
}

// TestSimulation is the whole engine against the model, without power cuts:
// many operations, merges under load.
func TestSimulation(t *testing.T) {
	seed := blocktest.Seed(t)
	runs, steps := 20, 80
	if blocktest.Long() {
		runs, steps = 200, 300
	}
	done := map[string]int{}
	for i := range uint64(runs) {
		s := newSim(t, seed+i, &looks{})
		s.run(steps, done)
	}
	t.Logf("operations: %v", done)
	for _, a := range actions {
		if done[a.name] == 0 {
			t.Errorf("%s was never done", a.name)
		}
	}
}

// TestPowerCuts is the same with a look behind every operation on a disk.
func TestPowerCuts(t *testing.T) {
	seed := blocktest.Seed(t)
	runs, steps := 10, 40
	l := &looks{random: 2, odds: 0.3, nested: 0.05}
	if blocktest.Long() {
		runs, steps = 60, 60
		l = &looks{random: 6, odds: 1, nested: 0.2}
	}
	points, done := 0, map[string]int{}
	for i := range uint64(runs) {
		s := newSim(t, seed+i, l)
		s.run(steps, done)
		points += s.points
	}
	t.Logf("%d crash points, %d states after a power cut; operations: %v", points, l.states, done)
	if l.states == 0 {
		t.Error("no power was cut")
	}
}
