package snap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"cowl/internal/block"
	"cowl/internal/block/crash"
)

// The machine runs random operations on an origin with snapshots, merges and
// restarts, beside a model that knows what every byte may be. Disks are the
// caller's: plain memory, failing ones, or ones whose power is cut.

const sector = block.SectorSize

// content is what a device should hold: its bytes, and for sectors written
// since the last flush the older versions that a power cut may leave.
type content struct {
	cur   []byte
	older map[int64][][]byte // by sector number
}

func newContent(p []byte) *content { return &content{cur: bytes.Clone(p), older: map[int64][][]byte{}} }

func (c *content) clone() *content {
	n := newContent(c.cur)
	for s, versions := range c.older {
		n.older[s] = slices.Clone(versions)
	}
	return n
}

func (c *content) write(off int64, p []byte) {
	for s := off / sector; s <= (off+int64(len(p))-1)/sector && len(p) > 0; s++ {
		c.older[s] = append(c.older[s], bytes.Clone(c.sector(s)))
	}
	copy(c.cur[off:], p)
}

func (c *content) sector(s int64) []byte {
	return c.cur[s*sector : min((s+1)*sector, int64(len(c.cur)))]
}

func (c *content) flushed() { clear(c.older) }

// differs compares what was read at a sector's beginning with what may be there.
// With uncertain, older versions count as well.
func (c *content) differs(off int64, got []byte, uncertain bool) error {
	if bytes.Equal(got, c.cur[off:][:len(got)]) {
		return nil
	}
	for at := int64(0); at < int64(len(got)); at += sector {
		s, g := (off+at)/sector, got[at:min(at+sector, int64(len(got)))]
		ok := bytes.Equal(g, c.sector(s)) ||
			uncertain && slices.ContainsFunc(c.older[s], func(o []byte) bool { return bytes.Equal(g, o) })
		if !ok {
			return fmt.Errorf("sector %d is %x..., want %x... (%d older versions)", s, g[:4], c.sector(s)[:4], len(c.older[s]))
		}
	}
	return nil
}

// settle is differs for all of it behind a power cut: what was read is what
// there is.
func (c *content) settle(got []byte) error {
	err := c.differs(0, got, true)
	if err == nil {
		copy(c.cur, got)
		c.flushed()
	}
	return err
}

// learn is differs behind an error, and for what was discarded: what was read is
// what one reads now, and any of the older versions may still be what a power
// cut leaves.
func (c *content) learn(off int64, got []byte) error {
	err := c.differs(off, got, true)
	for at := int64(0); at < int64(len(got)) && err == nil; at += sector {
		if g := got[at:min(at+sector, int64(len(got)))]; !bytes.Equal(g, c.sector((off+at)/sector)) {
			c.write(off+at, g)
		}
	}
	return err
}

// slot is a place for a snapshot: a COW disk and what is on it.
type slot struct {
	name     string
	disk     *window
	size     int64 // of the snapshot
	chunk    int64
	store    *Store
	snap     *Snapshot // nil unless attached
	merging  bool
	strict   bool // writes are refused where it has no room
	dead     bool // known invalid for good
	mayDie   bool // an operation failed that may have invalidated it
	fileData *content
}

func (s *slot) used() bool { return s.snap != nil || s.merging }

type machine struct {
	rng   *rand.Rand
	disk  block.Device // the origin's
	hooks *hooked      // over disk
	slots []*slot
	o     *Origin
	data  *content // of the origin as its user sees it
	gen   uint16
	log   []string
	align int64 // of offsets and lengths, bytes
	buf   []byte

	broken error // a promise that content does not tell

	lively bool // with goroutines, and an order of operations that varies
}

// newMachine starts with an origin of zeroes and unused COW disks.
func newMachine(rng *rand.Rand, origin block.Device, cows []block.Device) *machine {
	m := &machine{rng: rng, disk: origin, data: newContent(make([]byte, origin.Size())), align: sector}
	for i, d := range cows {
		m.slots = append(m.slots, &slot{name: fmt.Sprintf("cow%d", i), disk: newWindow(d, d.Size())})
	}
	m.o = m.newOrigin()
	return m
}

// newOrigin returns an origin that does nothing by itself, unless the machine
// is a lively one: so that a seed gives the same operations every time.
func (m *machine) newOrigin() *Origin {
	m.hooks = &hooked{Device: m.disk, before: map[string]func(){}}
	return NewOrigin(m.hooks, OriginOptions{Manual: !m.lively})
}

// step makes one random operation. An error is the devices': the operation
// may have happened in part.
func (m *machine) step() error {
	type op struct {
		weight int
		name   string
		run    func() error
	}
	ops := []op{
		{30, "write origin", m.writeOrigin},
		{10, "burst", m.burst},
		{8, "write snapshot", m.writeSnapshot},
		{4, "zero", m.zero},
		{2, "discard", m.discard},
		{6, "flush", m.flush},
		{5, "attach", m.attach},
		{1, "detach", m.detach},
		{2, "start merge", m.startMerge},
		{12, "merge step", m.mergeStep},
		{1, "restart", m.restart},
		{2, "grow", m.growStore},
	}
	total := 0
	for _, o := range ops {
		total += o.weight
	}
	pick := m.rng.IntN(total)
	for _, o := range ops {
		if pick -= o.weight; pick < 0 {
			m.log = append(m.log, o.name)
			err := o.run()
			m.bury(err)
			return cmp.Or(m.broken, err)
		}
	}
	panic("unreachable")
}

// note adds to what the log says of the operation under way.
func (m *machine) note(format string, args ...any) {
	m.log[len(m.log)-1] += fmt.Sprintf(" "+format, args...)
}

// bury notes which snapshots are dead. One that died in an operation that
// succeeded is dead on disk; after a failed one that is not sure. A device's
// failure, too, may kill; the lack of power may not.
func (m *machine) bury(err error) {
	for _, s := range m.slots {
		if s.snap == nil || s.store == nil || s.store.err() == nil {
			continue
		}
		// Not by the lack of power, then.
		killed := strings.Contains(s.store.reason, "overflowed") || strings.Contains(s.store.reason, errInjected.Error())
		switch {
		case s.strict && strings.HasPrefix(s.store.reason, "it overflowed:"):
			m.broken = fmt.Errorf("%s must not overflow, and did: %s", s.name, s.store.reason)
		case err == nil && !s.store.unmarked:
			s.dead = true
		case killed || !errors.Is(err, crash.ErrPowerCut):
			s.mayDie = true
		}
	}
}

// on returns the machine as it is, on other disks that hold what a power cut
// left, switched off. The two share the model: it is for a look.
func (m *machine) on(disks []*crash.Disk) *machine {
	c := *m
	c.disk, c.o, c.slots = disks[0], nil, nil
	for i, s := range m.slots {
		n := *s
		n.disk, n.store = newWindow(disks[i+1], s.disk.Size()), nil
		c.slots = append(c.slots, &n)
	}
	return &c
}

// clone is on for a machine that goes on by itself.
func (m *machine) clone(disks []*crash.Disk, rng *rand.Rand) *machine {
	c := m.on(disks)
	c.rng, c.log, c.data = rng, slices.Clone(m.log), m.data.clone()
	for _, s := range c.slots {
		if s.fileData != nil {
			s.fileData = s.fileData.clone()
		}
		if s.merging { // the origin's user sees the snapshot's content
			s.fileData = c.data
		}
	}
	return c
}

func (m *machine) rangeIn(size int64) (off, length int64) {
	off = m.rng.Int64N(size/m.align) * m.align
	length = min((1+m.rng.Int64N(24))*m.align, size-off)
	if m.rng.IntN(3) == 0 { // whole chunks
		off = off / 4096 * 4096
		length = min(4096*(1+m.rng.Int64N(4)), size-off)
	}
	return off, length
}

// bytes returns what is to be written at off: different for each write and
// sector.
func (m *machine) bytes(off, n int64) []byte {
	m.gen++
	p := make([]byte, n)
	for i := range p {
		at := off + int64(i)
		p[i] = byte(m.gen>>(at%2*8)) + byte(at/sector*37)
	}
	return p
}

func (m *machine) writeOrigin() error {
	off, n := m.rangeIn(m.o.Size())
	m.note("%d+%d", off, n)
	return m.admitted(m.o, m.data, m.bytes(off, n), off)
}

// alive returns a random attached snapshot that has not died, nil if none.
func (m *machine) alive() *slot {
	var live []*slot
	for _, s := range m.slots {
		if s.snap != nil && s.store.err() == nil {
			live = append(live, s)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return live[m.rng.IntN(len(live))]
}

func (m *machine) writeSnapshot() error {
	s := m.alive()
	if s == nil {
		return nil
	}
	off, n := m.rangeIn(s.size)
	m.note("%s %d+%d", s.name, off, n)
	err := m.admitted(s.snap, s.fileData, m.bytes(off, n), off)
	if s.store.err() != nil {
		return nil // it overflowed, which is no device's error
	}
	return err
}

func (m *machine) zero() error {
	off, n := m.rangeIn(m.o.Size())
	m.note("%d+%d", off, n)
	m.data.write(off, make([]byte, n))
	for {
		err := m.o.WriteZeroes(off, n)
		no := LacksRoom(err)
		if no == nil {
			return err
		}
		m.makeRoom(no)
	}
}

// discard is advice: each sector may read as before or as zeroes, at once, after
// a power cut, and for good once that has been flushed.
func (m *machine) discard() error {
	off, n := m.rangeIn(m.o.Size())
	off, n = off/sector*sector, n/sector*sector
	m.note("%d+%d", off, n)
	m.data.write(off, make([]byte, n))
	if err := m.o.Discard(off, n); err != nil {
		return err
	}
	got := make([]byte, n)
	if _, err := m.o.ReadAt(got, off); err != nil {
		return err
	}
	return m.data.learn(off, got)
}

// burst gives the committer several requests in one batch, as parallel
// clients do.
func (m *machine) burst() error {
	if m.o.merge != nil {
		return nil
	}
	var reqs []*request
	for range 2 + m.rng.IntN(6) {
		s := m.alive()
		target, snap, size := m.data, (*Snapshot)(nil), m.o.Size()
		if s != nil && m.rng.IntN(4) == 0 {
			target, snap, size = s.fileData, s.snap, s.size
		}
		off, n := m.rangeIn(size)
		if slices.ContainsFunc(reqs, func(r *request) bool {
			return r.snap == snap && off/sector <= (r.end()-1)/sector && r.off/sector <= (off+n-1)/sector
		}) {
			continue // what overlaps in a batch has no order
		}
		p := m.bytes(off, n)
		r, err := m.o.commit.submit(change{op: opWrite, off: off, length: n, data: p}, snap)
		if err != nil {
			continue // crowded, or no room at all
		}
		m.note("%d+%d", off, n)
		if snap != nil {
			m.note("of %s", s.name)
		}
		target.write(off, r.data)
		reqs = append(reqs, r)
	}
	_ = m.o.commit.wait(reqs...)
	for _, r := range reqs {
		if r.err != nil && (r.snap == nil || r.snap.store.err() == nil) { // not an overflow
			return r.err
		}
	}
	return nil
}

func (m *machine) flush() error {
	if err := m.o.Flush(); err != nil {
		return err
	}
	m.data.flushed()
	for _, s := range m.slots {
		if s.snap != nil && s.store.err() == nil {
			if err := s.snap.Flush(); err != nil {
				return err
			}
			s.fileData.flushed()
		}
	}
	return nil
}

// attach takes a snapshot as the engine does: format, flush, and only then
// does it exist.
func (m *machine) attach() error {
	i := slices.IndexFunc(m.slots, func(s *slot) bool { return !s.used() })
	if i < 0 || m.o.merge != nil {
		return nil
	}
	s := m.slots[i]
	s.chunk = []int64{512, 4096, 4096, 8192}[m.rng.IntN(4)]
	s.dead, s.mayDie = false, false
	s.strict = m.rng.IntN(2) == 0
	s.disk.size.Store(max(24<<10, s.disk.Device.Size()>>m.rng.IntN(3)))
	m.note("%s, chunks of %d", s.name, s.chunk)
	if err := Format(s.disk, s.chunk); err != nil {
		return err
	}
	if m.rng.IntN(2) == 0 {
		if err := m.flush(); err != nil {
			return err
		}
	}
	s.size, s.fileData = m.o.Size(), m.data.clone()
	return m.open(s)
}

func (m *machine) open(s *slot) error {
	var err error
	if s.store, err = Open(s.disk, Options{}); err != nil {
		return err
	}
	if s.merging {
		return m.o.StartMerge(s.store, s.size)
	}
	if s.snap, err = m.o.Attach(s.store, s.size, false); err == nil {
		s.snap.Reserve(s.strict)
	}
	return err
}

func (m *machine) detach() error {
	s := m.slots[m.rng.IntN(len(m.slots))]
	if s.snap != nil {
		m.note("%s", s.name)
		m.o.Detach(s.snap)
		s.snap = nil
	}
	return nil
}

func (m *machine) startMerge() error {
	s := m.alive()
	if s == nil || m.o.merge != nil {
		return nil
	}
	m.note("of %s", s.name)
	if err := m.flush(); err != nil || s.store.err() != nil {
		return err // what was staged may have made it overflow
	}
	if err := m.o.StartMerge(s.store, s.size); err != nil {
		return err
	}
	s.merging, s.snap, m.data = true, nil, s.fileData
	return nil
}

func (m *machine) mergeStep() error {
	if m.o.merge == nil {
		return nil
	}
	m.o.LimitMergeStep(512 << m.rng.IntN(8))
	m.o.merge.pieceBytes = 512 << m.rng.IntN(6)
	var behind error // of a write that comes when the step has copied what it takes
	if m.rng.IntN(2) == 0 {
		m.hooks.set("flush", func() { behind = m.writeOrigin() })
	}
	left, err := m.o.MergeStep()
	m.hooks.set("flush", nil)
	m.note("left %d (%v)", left, err)
	if behind != nil {
		return behind
	}
	if no := LacksRoom(err); no != nil {
		m.makeRoom(no)
		return nil
	}
	if err != nil || left > 0 {
		return err
	}
	if err := m.o.FinishMerge(); err != nil {
		return err
	}
	for _, s := range m.slots {
		s.merging = false
	}
	return nil
}

// restart opens everything anew from the disks, as after an orderly end.
func (m *machine) restart() error {
	err := m.flush()
	m.bury(err)
	if err != nil {
		return err
	}
	m.o.commit.worker.Wait()
	if err = m.boot(); errors.Is(err, errInjected) { // which fails once
		err = m.boot()
	}
	return err
}

// boot opens everything from the disks as they are.
func (m *machine) boot() error {
	m.o = m.newOrigin()
	for _, s := range m.slots {
		if s.used() {
			s.snap = nil
			if !s.merging {
				s.snap = &Snapshot{} // used, in case open fails
			}
			if err := m.open(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// check reads everything and compares it with the model.
func (m *machine) check() error {
	return m.compare(func(c *content, got []byte) error { return c.differs(0, got, false) })
}

// recovered boots after a power cut: the model learns what is there.
func (m *machine) recovered() error {
	err := m.boot()
	if errors.Is(err, errInjected) { // which fails once
		err = m.boot()
	}
	if err != nil {
		return err
	}
	return m.compare((*content).settle)
}

// looks boots after a power cut and leaves the model as it is.
func (m *machine) looks() error {
	if err := m.boot(); err != nil {
		return err
	}
	return m.compare(func(c *content, got []byte) error { return c.differs(0, got, true) })
}

// failed is for after an operation that failed, and may be done in part.
func (m *machine) failed() error {
	return m.compare(func(c *content, got []byte) error { return c.learn(0, got) })
}

// compare reads everything and has it compared with the model.
func (m *machine) compare(with func(c *content, got []byte) error) error {
	if err := m.read(m.o, m.data, with); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	for i, s := range m.slots {
		if s.snap == nil {
			continue
		}
		if err := m.compareSnapshot(s, with); err != nil {
			return fmt.Errorf("snapshot %d (chunk %d): %w", i, s.chunk, err)
		}
	}
	return nil
}

func (m *machine) read(d block.Device, c *content, with func(c *content, got []byte) error) error {
	size := int(d.Size())
	m.buf = slices.Grow(m.buf[:0], size)[:size]
	if _, err := d.ReadAt(m.buf, 0); err != nil {
		return err
	}
	return with(c, m.buf)
}

func (m *machine) compareSnapshot(s *slot, with func(c *content, got []byte) error) error {
	switch err := s.store.err(); {
	case err != nil && (s.dead || s.mayDie):
		return nil
	case err != nil:
		return fmt.Errorf("is invalid but did not overflow: %w", err)
	case s.dead:
		return fmt.Errorf("overflowed, and is valid again")
	}
	return m.read(s.snap, s.fileData, with)
}
