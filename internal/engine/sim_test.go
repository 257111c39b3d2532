package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// sim runs random operations on a group beside the plain model.
type sim struct {
	rng   *rand.Rand
	world *crash.World
	log   []string // what was done, for messages

	growth Growth
	births []string // origins of the snapshots that are being taken
	early  int      // writes between their instant and their commit
	g      *Group
	open   map[string]block.Device // held open by a user

	state  *simState   // before what is being done
	next   *simState   // after it; nil while nothing is being done
	either []*simState // instead of both, while it is found out what a power cut left

	cuts *cuts // nil to go without power cuts
}

// cuts has a sim look, behind every operation on a disk, at what a power cut in
// that moment would leave, and cut the power for good now and then.
type cuts struct {
	rng    *rand.Rand // for the looks, so that these do not change what happens
	growth Growth
	seen   int
	killed int   // processes that ended without a power cut
	faults bool  // operations fail besides
	wrong  error // what a look found; a callback of a disk cannot end the sim
}

const simExtent = 8 * kib

var errInjected = errors.New("injected fault")

// roomy and tight return the disks of an empty group, in which there are always
// free extents, or not.
var (
	roomy = sync.OnceValue(func() *crash.World { return blank(0) })
	tight = sync.OnceValue(func() *crash.World { return blank(16) })
)

func blank(extents int64) *crash.World {
	w := crash.NewWorld()
	for i := range 2 {
		w.NewDisk(fmt.Sprintf("pv%d", i), 2*mib)
	}
	foundWith(outside{}, w.Disks(), simExtent, extents)
	return w
}

// outside stands in for a test in goroutines that must not end one.
type outside struct{ testing.TB }

func (outside) Helper()                           {}
func (outside) Fatal(args ...any)                 { panic(failure{errors.New(fmt.Sprint(args...))}) }
func (outside) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

func newSim(seed uint64, c *cuts) *sim {
	s := &sim{
		rng: rand.New(rand.NewPCG(seed, 1)), cuts: c,
		open: map[string]block.Device{}, state: &simState{lvs: map[string]*simLV{}},
	}
	if seed%2 == 0 { // with nothing to wait for: what gives space is another action
		s.growth.Growth = volume.Growth{Threshold: 60 + 10*s.rng.IntN(3), Percent: 1 + s.rng.IntN(120), Hold: 1}
	}
	if c != nil {
		c.growth = s.growth
	}
	disks := roomy()
	if seed%4 > 1 {
		disks = tight()
	}
	s.enter(disks.Reboot(crash.All))
	return s
}

// enter goes on with the disks of a world.
func (s *sim) enter(disks []*crash.Disk) {
	s.world = disks[0].World()
	s.open = map[string]block.Device{}
	if s.cuts == nil {
		return
	}
	s.world.Watch(s.look)
	s.world.CutAt(s.world.Ops() + 1 + int64(s.pick(600)))
	if s.cuts.faults {
		s.world.FailAt(s.world.Ops()+1+int64(s.pick(600)), errInjected)
	}
}

// failure and powerCut are panics that end an action.
type (
	failure  struct{ error }
	powerCut struct{}
)

// fail ends the simulation, unless what failed is that the power was cut.
// After a fault that was injected the power goes as well: what is on the disks
// then must be right.
func (s *sim) fail(format string, args ...any) {
	if s.broken() {
		panic(powerCut{})
	}
	panic(failure{fmt.Errorf(format+"\nafter\n%s", append(args, strings.Join(s.log, "\n"))...)})
}

func (s *sim) broken() bool { return s.world.Down() || s.world.Fired() > 0 }

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%3d ", len(s.log)+1)+fmt.Sprintf(format, args...))
}

// start opens and activates the group on the disks.
func (s *sim) start() {
	g, err := openStepped(s.world.Disks(), s.cuts != nil, s.growth)
	if err != nil {
		s.fail("open: %v", err)
	}
	s.adopt(g)
	if _, err := g.Activate(ctx); err != nil {
		s.fail("activate: %v", err)
	}
}

// adopt goes on with a group.
func (s *sim) adopt(g *Group) {
	s.g = g
	g.opts.born = s.useNewborn
}

// openStepped opens a group whose merges go on by themselves or only by steps.
func openStepped(disks []*crash.Disk, stepped bool, growth Growth) (*Group, error) {
	return openWith(disks, Options{Growth: growth, Manual: true, stepped: stepped})
}

// change does something that alters metadata: until it has returned either
// state may be found, then only the new one.
func (s *sim) change(alter func(next *simState), do func() error) {
	s.next = s.state.clone()
	alter(s.next)
	if err := do(); err != nil {
		s.fail("%v", err)
	}
	s.state, s.next = s.next, nil
}

// candidates are the states one of which is found after a power cut.
func (s *sim) candidates() []*simState {
	if s.either != nil {
		return s.either
	}
	var found []*simState
	for _, st := range []*simState{s.state, s.next} {
		if st != nil {
			st.faulty = s.world.Fired() > 0
			found = append(found, st.candidates()...)
		}
	}
	return found
}

// look is called behind every operation on a disk.
func (s *sim) look(op int64) {
	if s.cuts.wrong != nil {
		return
	}
	var candidates []*simState
	for name, disks := range s.world.Cuts(s.cuts.rng, 2, 1) {
		if candidates == nil {
			candidates = s.candidates()
		}
		s.cuts.seen++
		if err := s.cuts.recovered(disks, candidates); err != nil {
			s.cuts.wrong = fmt.Errorf("power cut behind %s, %s: %w", s.world.Op(op), name, err)
			return
		}
	}
}

// recovered checks what is found on disks after a power cut: one of the
// candidates. Sometimes it cuts the power again while that is brought to rest, and
// then uses the group.
func (c *cuts) recovered(disks []*crash.Disk, candidates []*simState) error {
	if c.rng.IntN(16) > 0 {
		_, _, err := find(disks, candidates, c.growth)
		return err
	}
	var inner error
	w := disks[0].World()
	w.Watch(func(op int64) { // the power fails again
		for name, disks := range w.Cuts(c.rng, 1, 1) {
			c.seen++
			if _, _, err := find(disks, candidates, c.growth); err != nil && inner == nil {
				inner = fmt.Errorf("cut again behind %s, %s: %w", w.Op(op), name, err)
			}
		}
	})
	g, found, err := find(disks, candidates, c.growth)
	if err == nil {
		found = found.clone() // it may be the sim's own
		candidates = append(slices.Clip(candidates), found)
		err = found.settled(g)
	}
	w.Watch(nil)
	if err == nil {
		err = inner
	}
	if err != nil {
		return err
	}
	return found.usable(g)
}

// find opens the group on disks that a power cut left, and returns the
// candidate that it holds.
func find(disks []*crash.Disk, candidates []*simState, growth Growth) (*Group, *simState, error) {
	g, err := openStepped(disks, true, growth)
	if err != nil {
		return nil, nil, fmt.Errorf("open: %w", err)
	}
	if _, err := g.Activate(ctx); err != nil {
		return nil, nil, fmt.Errorf("activate: %w", err)
	}
	var problems []string
	for _, c := range candidates {
		problem := c.compare(g, true)
		if problem == "" {
			return g, c, nil
		}
		problems = append(problems, problem)
	}
	return nil, nil, fmt.Errorf("no state that may be found:\n%s", strings.Join(problems, "\n"))
}

// powerFailed goes on with what a power cut left, or the death of the process,
// which may happen again while the group is opened.
func (s *sim) powerFailed() {
	for {
		s.either = s.candidates()
		disks := s.ended()
		s.enter(disks)
		g, found, err := find(disks, s.either, s.growth)
		switch {
		case err == nil:
			s.adopt(g)
			s.state, s.next, s.either = found.afterRecovery(g), nil, nil
			return
		case !s.broken():
			panic(failure{fmt.Errorf("%w\nafter\n%s", err, strings.Join(s.log, "\n"))})
		}
	}
}

// ended returns the disks as the next process finds them. It may be that only the
// last one was killed: then they still have everything in their caches, which a
// power cut can take until the group has been opened and has flushed it.
func (s *sim) ended() []*crash.Disk {
	at := s.world.Op(s.world.Ops())
	if s.world.Fired() == 0 && s.pick(2) == 0 { // a world does not forget its fault
		s.note("KILLED at %s", at)
		s.cuts.killed++
		s.world.Revive()
		return s.world.Disks()
	}
	s.note("POWER CUT at %s", at)
	s.cuts.seen++
	return s.world.Reboot(crash.Random(s.rng))
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
		if policy := status.Model.LV(name).GrowthOf(volume.Growth{}).OnFull; policy != st.lvs[name].onFull && policy != st.lvs[name].orOnFull {
			return fmt.Sprintf("%s has the policy %q, want %q", name, policy, st.lvs[name].onFull)
		}
		if problem := st.lvs[name].check(g, status.LVs[name], crashed, st.faulty); problem != "" {
			return name + ": " + problem
		}
	}
	return ""
}

// check compares one volume. A snapshot may have died of a fault.
func (lv *simLV) check(g *Group, status LVStatus, crashed, faulty bool) string {
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
		case !lv.invalid && len(lv.may) <= lv.room && !faulty:
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

// settled brings the merges that go on after a crash to their end.
func (st *simState) settled(g *Group) error {
	merging := st.names(func(lv *simLV) bool {
		c := g.Status().LVs[lv.name].Cow
		return lv.merging && c != nil && !c.Invalid // the store of a delayed one may have been lost
	})
	for _, name := range merging {
		if err := st.stepToTheEnd(g, name); err != nil {
			return err
		}
	}
	if len(merging) > 0 {
		if problem := st.compare(g, true); problem != "" {
			return fmt.Errorf("when the merge is done: %s", problem)
		}
	}
	return nil
}

// stepToTheEnd does a merge that nobody else does. Siblings that keep it from
// going on are told to let go.
func (st *simState) stepToTheEnd(g *Group, name string) error {
	origin := st.lvs[name].origin
	for {
		for step(g, origin) {
		}
		if g.Model().LV(name) == nil {
			return nil
		}
		sibling := st.keeper(origin)
		if sibling == nil {
			return fmt.Errorf("%s is not merged, and nobody merges it", name)
		}
		if err := st.letGo(g, sibling); err != nil {
			return err
		}
	}
}

// letGo lets a snapshot overflow that did not.
func (st *simState) letGo(g *Group, lv *simLV) error {
	lv.onFull, lv.orOnFull = volume.OnFullInvalidate, lv.onFull
	_, err := g.ChangeTags(ctx, lv.name, []string{volume.OnFullTag(lv.onFull)}, nil)
	if err == nil {
		lv.orOnFull = ""
	}
	return err
}

// step moves the merge into a volume on and reports whether more is to follow.
func step(g *Group, origin string) bool {
	g.mu.Lock()
	f := g.families[origin]
	g.mu.Unlock()
	return f != nil && f.merge != nil && f.merge.started && g.step(ctx, f, f.merge)
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
	if _, err := d.WriteAt(bytes.Repeat([]byte{0xdd}, int(d.Size())), 0); err != nil && !(errs.Is(err, errs.NoSpace) && st.keeper(name) != nil) {
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
	done, early := map[string]int{}, 0
	for i := range uint64(runs) {
		s := newSim(seed+i, nil)
		if err := s.run(steps, done); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		early += s.early
	}
	t.Logf("operations: %v, and %d writes between a snapshot's instant and its commit", done, early)
	if early == 0 {
		t.Error("nobody wrote while a snapshot was taken")
	}
	for _, a := range actions {
		if done[a.name] == 0 && a.name != "step" {
			t.Errorf("%s was never done", a.name)
		}
	}
}

// TestPowerCuts is the same with a look behind every operation on a disk, and
// with merges that go on only step by step, so that a seed does the same again.
func TestPowerCuts(t *testing.T) {
	var mu sync.Mutex
	total := map[string]int{}
	crash.Campaign(t, blocktest.Seed(t), 6_000, 400_000, func(seed uint64) (int, error) {
		c := &cuts{rng: rand.New(rand.NewPCG(seed, 2)), faults: seed%3 == 0}
		done := map[string]int{}
		s := newSim(seed, c)
		err := s.run(100, done)
		mu.Lock()
		defer mu.Unlock()
		for name, n := range done {
			total[name] += n
		}
		total["killed"] += c.killed
		total["write to an unborn snapshot's origin"] += s.early
		return c.seen, err
	})
	t.Logf("operations: %v", total)
}
