package snap

import (
	"errors"
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

func (s stage) machine() (*crash.World, *machine) {
	rng := rand.New(rand.NewPCG(s.seed, 1))
	w := crash.NewWorld()
	origin := w.NewDisk("origin", 48<<10+rng.Int64N(2)*1536)
	cows := []block.Device{
		w.NewDisk("cow0", 24<<10+rng.Int64N(120)*512),
		w.NewDisk("cow1", 24<<10+rng.Int64N(400)*512),
	}
	return w, newMachine(rng, origin, cows)
}

// play runs the stage's history to its end or to the first error.
func (s stage) play(m *machine) error {
	for range s.steps {
		if err := m.step(); err != nil {
			return err
		}
	}
	return nil
}

// The promise at every power cut: the origin keeps what was flushed; a
// snapshot keeps its instant and what was flushed to it, or says that it
// overflowed; merges go on; and the same holds again after the next cut.
func TestPowerCuts(t *testing.T) {
	seed := blocktest.Seed(t)
	histories, random := 3, 5
	if blocktest.Long() {
		histories, random = 400, 20
	}
	points, reboots := 0, 0
	for h := range histories {
		s := stage{seed: seed + uint64(h), steps: 40}
		w, m := s.machine()
		if err := s.play(m); err != nil {
			t.Fatalf("seed %d: %v", s.seed, err)
		}
		for n := int64(1); n <= w.Ops(); n++ {
			points++
			reboots += cutAt(t, s, n, random)
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d power cuts, %d reboots", points, reboots)
}

// cutAt plays the stage with the power cut at operation n and checks what can
// be found afterwards.
func cutAt(t *testing.T, s stage, n int64, random int) (reboots int) {
	w, m := s.machine()
	w.CutAt(n)
	if err := s.play(m); !w.Down() { // a cut in an overflow's last write is no error
		t.Fatalf("seed %d, cut at %d: %v", s.seed, n, err)
	}
	rng := rand.New(rand.NewPCG(s.seed, uint64(n)))
	for name, disks := range w.Reboots(rng, random) {
		reboots++
		if err := afterCut(m.clone(disks), disks[0].World(), rng); err != nil {
			t.Errorf("seed %d, cut at %s, %s: %v\n%s", s.seed, w.Op(n), name, err, strings.Join(m.log, ", "))
			return reboots
		}
	}
	return reboots
}

// afterCut boots, checks, works on until the power goes again (sometimes
// already while booting), and checks once more.
func afterCut(m *machine, w *crash.World, rng *rand.Rand) error {
	w.CutAt(1 + rng.Int64N(60))
	err := m.boot()
	if err == nil {
		if err := m.check(true); err != nil {
			return err
		}
	}
	for err == nil {
		err = m.step()
	}
	if !errors.Is(err, crash.ErrPowerCut) {
		return err
	}
	m = m.clone(w.Reboot(crash.Random(rng)))
	if err := m.boot(); err != nil {
		return err
	}
	if err := m.check(true); err != nil {
		return err
	}
	for range 15 {
		if err := m.step(); err != nil {
			return err
		}
	}
	return m.check(false)
}

var errInjected = errors.New("injected fault")

// Every operation of every disk fails once. The caller hears of it or the
// snapshot says that it is invalid; nothing else changes, then or after a
// restart.
func TestEveryOperationFails(t *testing.T) {
	seed := blocktest.Seed(t)
	histories := 40
	if blocktest.Long() {
		histories = 1500
	}
	points := 0
	for h := range histories {
		s := stage{seed: seed + uint64(h), steps: 40}
		w, m := s.machine()
		if err := s.play(m); err != nil {
			t.Fatalf("seed %d: %v", s.seed, err)
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
			if err := m.check(true); err != nil {
				return m, err
			}
		}
	}
	if w.Fired() != 1 {
		return m, errors.New("the fault did not fire")
	}
	if err := m.check(true); err != nil {
		return m, err
	}
	err := m.restart()
	if errors.Is(err, errInjected) { // of a write that had been acknowledged
		if err := m.check(true); err != nil {
			return m, err
		}
		err = m.restart()
	}
	if err != nil {
		return m, err
	}
	return m, m.check(true)
}
