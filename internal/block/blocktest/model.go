package blocktest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
)

// randomRange picks a range of a device: mostly small, of any alignment, now
// and then touching the start, the end, or everything.
func randomRange(rng *rand.Rand, size int64) (off, length int64) {
	off = rng.Int64N(size + 1)
	switch rng.IntN(10) {
	case 0:
		off = 0
	case 1:
		off -= off % 512
	case 2, 3:
		off -= off % 4096
	}
	switch rest := size - off; rng.IntN(10) {
	case 0:
		return off, rest
	case 1:
		return off, rng.Int64N(rest + 1)
	case 2:
		return off, min(rest, rng.Int64N(9)*512)
	case 3:
		return off, min(rest, rng.Int64N(17)*4096)
	default:
		return off, min(rest, rng.Int64N(5000))
	}
}

// model is what a device must read as: bytes, some of which may read as zero
// instead because they were discarded.
type model struct {
	bytes     []byte
	discarded []bool
}

func (m *model) check(got []byte, off int64) error {
	if bytes.Equal(got, m.bytes[off:off+int64(len(got))]) {
		return nil
	}
	for i, b := range got {
		at := off + int64(i)
		if b != m.bytes[at] && !(m.discarded[at] && b == 0) {
			return fmt.Errorf("byte %d reads %#x, want %#x (discarded: %v)", at, b, m.bytes[at], m.discarded[at])
		}
	}
	return nil
}

func (m *model) write(p []byte, off int64) {
	copy(m.bytes[off:], p)
	clear(m.discarded[off : off+int64(len(p))])
}

func (m *model) discard(off, n int64) {
	for i := off; i < off+n; i++ {
		m.discarded[i] = true
	}
}

func (s *suite) model(t *testing.T) {
	steps := s.o.Steps
	if steps == 0 {
		steps = 1500
		if Long() {
			steps = 30_000
		}
	}
	seed := Seed(t)
	r := &modelRun{t: t, rng: rand.New(rand.NewPCG(seed, 0)), dev: s.device(t), size: s.size, reopen: s.o.Reopen}
	defer func() { closed(t, r.dev) }()
	r.m = &model{bytes: ReadAll(t, r.dev), discarded: make([]bool, s.size)}
	for step := range steps {
		what, err := r.step()
		if err != nil {
			t.Fatalf("step %d, %s: %v (COWL_SEED=%d)", step, what, err, seed)
		}
	}
	if err := r.m.check(ReadAll(t, r.dev), 0); err != nil {
		t.Fatalf("at the end: %v (COWL_SEED=%d)", err, seed)
	}
}

type modelRun struct {
	t      *testing.T
	rng    *rand.Rand
	dev    block.Device
	m      *model
	size   int64
	reopen func(*testing.T, block.Device) block.Device
}

// step does one random operation on both and says which.
func (r *modelRun) step() (string, error) {
	off, n := randomRange(r.rng, r.size)
	name := func(op string) string { return fmt.Sprintf("%s %d+%d", op, off, n) }
	switch k := r.rng.IntN(100); {
	case k < 40:
		p := make([]byte, n)
		if r.rng.IntN(10) > 0 { // otherwise zeroes, which are data like any other
			fillRandom(r.rng, p)
		}
		if got, err := r.dev.WriteAt(p, off); err != nil || got != len(p) {
			return name("write"), fmt.Errorf("n %d, %v", got, err)
		}
		r.m.write(p, off)
		return name("write"), nil
	case k < 75:
		p := make([]byte, n)
		if got, err := r.dev.ReadAt(p, off); err != nil || got != len(p) {
			return name("read"), fmt.Errorf("n %d, %v", got, err)
		}
		return name("read"), r.m.check(p, off)
	case k < 82:
		r.m.write(make([]byte, n), off)
		return name("zero"), r.dev.WriteZeroes(off, n)
	case k < 88:
		r.m.discard(off, n)
		return name("discard"), r.dev.Discard(off, n)
	case k < 94:
		return "flush", r.dev.Flush()
	case k < 99 || r.reopen == nil:
		checkExtents(r.t, r.dev, off, n, ReadAll(r.t, r.dev))
		return name("extents"), nil
	}
	r.dev = r.reopen(r.t, r.dev)
	return "reopen", r.m.check(ReadAll(r.t, r.dev), 0)
}

func fillRandom(rng *rand.Rand, p []byte) {
	x := rng.Uint64() | 1
	for i := range p {
		x = x*6364136223846793005 + 1442695040888963407
		p[i] = byte(x >> 56)
	}
}
