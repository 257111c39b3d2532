package snap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
)

// stage is a machine on disks of a crash.World, and how to make it again.
type stage struct {
	seed  uint64
	steps int
}

// machine returns one on disks as small as they can be and still have several
// pages, chunks of all sizes, and areas that fill up.
func (s stage) machine() (*crash.World, *machine) {
	rng := rand.New(rand.NewPCG(s.seed, 1))
	w := crash.NewWorld()
	origin := w.NewDisk("origin", 20<<10+rng.Int64N(2)*1536)
	var cows []block.Device
	for i := range 3 {
		cows = append(cows, w.NewDisk(fmt.Sprintf("cow%d", i), 24<<10+rng.Int64N(150)*512))
	}
	return w, newMachine(rng, origin, cows)
}

// history is a machine's life through power cuts: behind every operation on its
// disks it looks at what a power cut in that moment would leave, and now and
// then the power does go, and the machine goes on with one of these worlds. In
// some, operations fail besides.
type history struct {
	stage
	cut    *rand.Rand // draws for the looks, so that these do not change what happens
	world  *crash.World
	m      *machine
	cuts   int
	faults bool
	wrong  error // what a look found
}

func newHistory(s stage) *history {
	h := &history{stage: s, cut: rand.New(rand.NewPCG(s.seed, 2))}
	w, m := s.machine()
	// Some write parts of sectors, without faults: what a lost part leaves of a
	// sector is more than the model can tell.
	if h.faults = m.rng.IntN(3) > 0; !h.faults && m.rng.IntN(2) == 0 {
		m.align = 1
	}
	h.enter(w, m)
	return h
}

// enter goes on with a machine in a world.
func (h *history) enter(w *crash.World, m *machine) {
	h.world, h.m = w, m
	w.Watch(h.look)
	w.CutAt(w.Ops() + 1 + m.rng.Int64N(300))
	if h.faults {
		w.FailAt(w.Ops()+1+m.rng.Int64N(200), errInjected)
	}
}

// look checks what a power cut would leave.
func (h *history) look(op int64) {
	if h.wrong != nil {
		return
	}
	h.m.bury(nil) // a store that is dying may be dead
	for name, disks := range h.world.Cuts(h.cut, 6, 3) {
		h.cuts++
		err := h.m.on(disks).looks()
		if err == nil && h.cut.IntN(40) == 0 {
			err = goOn(h.m.clone(disks, h.cut))
		}
		if err != nil {
			h.wrong = fmt.Errorf("power cut behind %s, %s: %w", h.world.Op(op), name, err)
			return
		}
	}
}

// goOn uses what was found after a power cut.
func goOn(m *machine) error {
	if err := m.recovered(); err != nil {
		return err
	}
	for range 12 {
		if err := m.step(); err != nil {
			return err
		}
	}
	return m.check()
}

// play runs the history.
func (h *history) play() error {
	for range h.steps {
		err := h.m.step()
		if h.world.Down() {
			if h.m.rng.IntN(3) == 0 {
				err = h.killed()
			} else {
				err = h.powerFailed()
			}
		}
		if errors.Is(err, errInjected) {
			err = h.m.failed()
		}
		if h.wrong != nil {
			err = h.wrong
		}
		if err != nil {
			return fmt.Errorf("%w\nafter %s", err, strings.Join(h.m.log, ", "))
		}
	}
	return nil
}

// powerFailed goes on with what a power cut left, which may fail while it boots.
func (h *history) powerFailed() error {
	for {
		h.cuts++
		disks := h.world.Reboot(crash.Random(h.m.rng))
		m := h.m.clone(disks, h.m.rng)
		m.log = append(m.log, "POWER CUT")
		h.enter(disks[0].World(), m)
		if err := m.recovered(); !h.world.Down() {
			return err
		}
	}
}

// killed goes on as the next process does when only the last one has ended:
// with what the disks have in their caches, which a later power cut can take. It
// may be killed while it boots.
func (h *history) killed() error {
	for {
		h.world.Revive()
		m := h.m.clone(h.world.Disks(), h.m.rng)
		m.log = append(m.log, "KILLED")
		h.enter(h.world, m)
		err := m.boot()
		for errors.Is(err, errInjected) { // which fails once, or twice: some was left
			err = m.boot()
		}
		if err == nil {
			err = m.failed()
		}
		if !h.world.Down() {
			return err
		}
	}
}

// The promise at every power cut: the origin keeps what was flushed; a
// snapshot keeps its instant and what was flushed to it, or says that it
// overflowed; merges go on; and the same holds again after the next cut.
func TestPowerCuts(t *testing.T) {
	crash.Campaign(t, blocktest.Seed(t), 20_000, 1_500_000, func(seed uint64) (int, error) {
		h := newHistory(stage{seed: seed, steps: 200})
		err := h.play()
		return h.cuts, err
	})
}

var errInjected = errors.New("injected fault")

// Every operation of every disk fails once. The caller hears of it or the
// snapshot says that it is invalid; nothing else changes, then or after a
// restart.
func TestEveryOperationFails(t *testing.T) {
	seed := blocktest.Seed(t)
	histories := 15
	if blocktest.Long() {
		histories = 1500
	}
	points := 0
	for h := range histories {
		s := stage{seed: seed + uint64(h), steps: 40}
		w, m := s.machine()
		for range s.steps {
			if err := m.step(); err != nil {
				t.Fatalf("seed %d: %v", s.seed, err)
			}
		}
		for n := int64(1); n <= w.Ops(); n++ {
			points++
			if m, err := failAt(s, n); err != nil {
				t.Fatalf("seed %d, fault at %s: %v\n%s", s.seed, w.Op(n), err, strings.Join(m.log, ", "))
			}
		}
	}
	t.Logf("%d faults", points)
}

func failAt(s stage, n int64) (*machine, error) {
	w, m := s.machine()
	w.FailAt(n, errInjected)
	for range s.steps {
		err := m.step()
		if err != nil && !errors.Is(err, errInjected) {
			return m, err
		}
		if err != nil {
			if err := m.failed(); err != nil {
				return m, err
			}
		}
	}
	if w.Fired() != 1 {
		return m, errors.New("the fault did not fire")
	}
	if err := m.failed(); err != nil {
		return m, err
	}
	err := m.restart()
	if errors.Is(err, errInjected) { // of a write that had been acknowledged
		if err := m.failed(); err != nil {
			return m, err
		}
		err = m.restart()
	}
	if err != nil {
		return m, err
	}
	return m, m.failed()
}
