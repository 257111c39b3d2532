package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/snap"
	"cowl/internal/volume"
)

// action is something that a simulation does.
type action struct {
	name   string
	weight int             // its odds
	do     func(*sim) bool // reports whether there was something to do it with
}

var actions = []action{
	{"write", 30, (*sim).write},
	{"zero", 4, (*sim).zero},
	{"flush", 8, (*sim).flush},
	{"create", 5, (*sim).create},
	{"snapshot", 8, (*sim).snapshot},
	{"remove", 5, (*sim).remove},
	{"extend", 3, (*sim).extend},
	{"hold", 3, (*sim).hold},
	{"release", 4, (*sim).release},
	{"merge", 6, (*sim).merge},
	{"step", 6, (*sim).step},
	{"await", 4, (*sim).await},
	{"restart", 3, (*sim).restart},
	{"reactivate", 2, (*sim).reactivate},
	{"tend", 4, (*sim).tend},
	{"policy", 2, (*sim).policy},
}

// run does so many actions and looks at everything behind each.
func (s *sim) run(steps int, done map[string]int) error {
	err := s.action(func() { s.start() })
	for len(s.log) < steps && err == nil {
		err = s.action(func() {
			a := s.draw()
			if a.do(s) {
				done[a.name]++
			}
			s.observe()
		})
	}
	if err != nil {
		return err
	}
	return s.action(func() {
		for _, name := range slices.Sorted(maps.Keys(s.open)) {
			s.close(name)
		}
		if err := s.g.Close(); err != nil {
			s.fail("close: %v", err)
		}
	})
}

// action does something, and if the power was cut in it goes on from there.
func (s *sim) action(do func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			err = p.error
		default:
			panic(p)
		}
		if err == nil && s.cuts != nil && s.cuts.wrong != nil {
			err = fmt.Errorf("%w\nafter\n%s", s.cuts.wrong, strings.Join(s.log, "\n"))
		}
	}()
	if survives(do) {
		s.powerFailed()
	}
	return nil
}

// survives reports whether the power was cut.
func survives(do func()) (cut bool) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case powerCut:
			cut = true
		default:
			panic(p)
		}
	}()
	do()
	return false
}

func (s *sim) draw() action {
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := s.pick(total)
	return actions[slices.IndexFunc(actions, func(a action) bool { n -= a.weight; return n < 0 })]
}

func (s *sim) pick(n int) int { return s.rng.IntN(n) }

func (s *sim) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.rng.Uint32())
	}
	return b
}

// observe compares the group with the model as it runs, and learns which
// merges have ended and which snapshots have overflowed.
func (s *sim) observe() {
	for _, name := range s.state.names(func(lv *simLV) bool { return lv.merging }) {
		if s.g.Model().LV(name) == nil {
			s.state.merged(name)
		}
	}
	status := s.g.Status()
	if s.broken() { // and nobody minded
		panic(powerCut{})
	}
	for _, name := range s.state.names((*simLV).isSnapshot) {
		lv := s.state.lvs[name]
		if lv.merging {
			continue
		}
		lv.room = int(status.LVs[name].Cow.Total.Bytes())/lv.chunk - 2
		invalid := status.LVs[name].Cow.Invalid
		if !invalid && len(lv.must) > lv.room {
			s.fail("%s is valid with %d chunks in room for %d", name, len(lv.must), lv.room)
		}
		if invalid && !lv.invalid {
			if len(lv.may) <= lv.room {
				s.fail("%s is invalid with at most %d chunks in room for %d", name, len(lv.may), lv.room)
			}
			if lv.onFull == volume.OnFullReadOnly {
				s.fail("%s is invalid although writes should have been refused", name)
			}
			s.checkNeed(name)
			lv.invalid = true
		}
	}
	for _, name := range s.state.names(func(lv *simLV) bool { return !lv.merging && !lv.delayed }) {
		if problem := s.state.lvs[name].check(s.g, status.LVs[name], false, false); problem != "" {
			s.fail("%s: %s", name, problem)
		}
	}
}

// checkNeed fails if a snapshot overflowed that could have been extended. Beside
// a merge, which gives its snapshot's extents back, nobody knows.
func (s *sim) checkNeed(name string) {
	merging := s.state.names(func(lv *simLV) bool { return lv.merging })
	vg := s.g.Model()
	if lv := vg.LV(name); s.growth.Enabled() && len(merging) == 0 && !s.state.lvs[name].delayed && vg.Free() > 0 {
		s.fail("%s overflowed with %d extents, and %d are free", name, lv.Extents(), vg.Free())
	}
}

// one draws a volume, "" if there is none that will do.
func (s *sim) one(want func(*simLV) bool) string {
	names := s.state.names(want)
	if len(names) == 0 {
		return ""
	}
	return names[s.pick(len(names))]
}

func usableLV(lv *simLV) bool { return !lv.merging && !lv.delayed && !lv.invalid }

// device opens a volume for one request, as a user would beside others.
func (s *sim) device(name string) block.Device {
	d, err := s.g.Open(ctx, name, false)
	if err != nil {
		s.fail("open %s: %v", name, err)
	}
	return d
}

func (s *sim) request(name string, f func(block.Device) error) {
	d := s.device(name)
	if err := f(d); err != nil && !s.mayOverflow(name) {
		s.fail("%s: %v", name, err)
	}
	s.released(name, d)
}

// mayOverflow reports whether a volume is a snapshot that may have run out of
// room, under a write of its own or under a merge beside it.
func (s *sim) mayOverflow(name string) bool {
	lv := s.state.lvs[name]
	return lv.isSnapshot() && len(lv.may) > lv.room
}

// released closes a device; the last one of an origin may begin a merge.
func (s *sim) released(name string, d block.Device) {
	top := s.topOf(name)
	var waits string
	if m := s.state.mergingInto(top); m != nil && m.delayed && !m.invalid && s.open[top] == nil && s.open[m.name] == nil {
		waits = m.name
	}
	close := func() error { return d.Close() }
	if waits == "" {
		if err := close(); err != nil {
			s.fail("close %s: %v", name, err)
		}
		return
	}
	s.change(func(next *simState) { next.merge(waits) }, close)
}

func (s *sim) topOf(name string) string {
	if lv := s.state.lvs[name]; lv != nil && lv.isSnapshot() {
		return lv.origin
	}
	return name
}

// held reports whether a user has a volume of the family open.
func (s *sim) held(top string) bool {
	for name := range s.open {
		if s.topOf(name) == top {
			return true
		}
	}
	return false
}

func (s *sim) write() bool {
	name := s.one(usableLV)
	if name == "" {
		return false
	}
	size := len(s.state.lvs[name].cur)
	off := s.pick(size)
	n := 1 + s.pick(min(size-off, 20*kib))
	if s.pick(3) > 0 { // mostly whole sectors
		off, n = off/sector*sector, (n+sector-1)/sector*sector
		n = min(n, size-off)
	}
	p := s.bytes(n)
	s.note("write %s %d+%d", name, off, n)
	before := s.state.clone()
	s.state.write(name, p, off)
	s.request(name, func(d block.Device) error {
		n, err := d.WriteAt(p, int64(off))
		if !s.refused(name, err) {
			return err
		}
		s.note("refused behind %d bytes", n)
		if n > 0 {
			before.write(name, p[:n], off)
		}
		s.state = before
		return nil
	})
	return true
}

// refused reports whether an error is that of a snapshot which must live.
func (s *sim) refused(name string, err error) bool {
	return errs.Is(err, errs.NoSpace) && s.state.keeper(s.topOf(name)) != nil
}

func (s *sim) zero() bool {
	name := s.one(usableLV)
	if name == "" {
		return false
	}
	size := len(s.state.lvs[name].cur)
	off := s.pick(size/sector) * sector
	n := min(size-off, (1+s.pick(32))*sector)
	s.note("zero %s %d+%d", name, off, n)
	s.state.write(name, make([]byte, n), off)
	s.request(name, func(d block.Device) error {
		err := d.WriteZeroes(int64(off), int64(n))
		for s.refused(name, err) { // who knows how much was made
			s.letOverflow(s.topOf(name))
			err = d.WriteZeroes(int64(off), int64(n))
		}
		return err
	})
	return true
}

// letOverflow changes the policy of a snapshot that refuses its origin's writes.
func (s *sim) letOverflow(origin string) {
	s.setPolicy(s.state.keeper(origin).name, volume.OnFullInvalidate)
}

func (s *sim) setPolicy(name string, p volume.OnFull) {
	s.note("lvchange --addtag %s %s", volume.OnFullTag(p), name)
	s.change(func(next *simState) { next.lvs[name].onFull = p }, func() error {
		_, err := s.g.ChangeTags(ctx, name, []string{volume.OnFullTag(p)}, nil)
		return err
	})
}

// policy changes what becomes of a snapshot when it is full.
func (s *sim) policy() bool {
	name := s.one(func(lv *simLV) bool { return lv.isSnapshot() && usableLV(lv) })
	if name == "" || len(s.state.names(func(lv *simLV) bool { return lv.merging })) > 0 {
		return false // a merge may find the old one
	}
	s.setPolicy(name, s.anyPolicy())
	return true
}

func (s *sim) anyPolicy() volume.OnFull {
	return []volume.OnFull{volume.OnFullInvalidate, volume.OnFullHold, volume.OnFullReadOnly}[s.pick(3)]
}

// tend extends what is above its threshold, which elsewhere a goroutine does.
func (s *sim) tend() bool {
	if !s.growth.Enabled() {
		return false
	}
	s.note("tend")
	s.g.look(ctx)
	return true
}

func (s *sim) flush() bool {
	name := s.one(usableLV)
	if name == "" {
		return false
	}
	s.note("flush %s", name)
	d := s.device(name)
	if err := d.Flush(); err != nil && !s.mayOverflow(name) {
		s.fail("flush %s: %v", name, err)
	}
	s.state.lvs[name].flushed()
	s.released(name, d)
	return true
}

func (s *sim) create() bool {
	if len(s.state.lvs) >= 5 {
		return false
	}
	name := fmt.Sprintf("v%d", len(s.log))
	extents := 1 + s.pick(3)
	if s.g.Model().Free() < volume.Extents(extents) {
		return false
	}
	s.note("lvcreate -l %d -n %s", extents, name)
	s.change(func(next *simState) { next.lvs[name] = newSimLV(name, extents*simExtent) }, func() error {
		_, err := s.g.CreateLV(ctx, volume.LVSpec{Name: name, Size: volume.Size{Extents: volume.Extents(extents)}})
		return err
	})
	return true
}

// snapshot takes one of one or two origins at one instant.
func (s *sim) snapshot() bool {
	origins := s.state.names(func(lv *simLV) bool { return !lv.isSnapshot() && s.state.mergingInto(lv.name) == nil })
	if len(origins) == 0 || len(s.state.lvs) >= 8 {
		return false
	}
	s.rng.Shuffle(len(origins), func(i, j int) { origins[i], origins[j] = origins[j], origins[i] })
	origins = origins[:1+s.pick(min(2, len(origins)))]
	if s.g.Model().Free() < volume.Extents(12*len(origins)) {
		return false
	}
	var specs []volume.SnapshotSpec
	for i, origin := range origins {
		chunk := 8 << s.pick(3) // sectors; may be larger than an extent
		least := (3*chunk*sector + simExtent - 1) / simExtent
		specs = append(specs, volume.SnapshotSpec{
			Origin: origin, Name: fmt.Sprintf("s%d_%d", len(s.log), i),
			Size:      volume.Size{Extents: volume.Extents(least + s.pick(5))},
			ChunkSize: volume.Sectors(chunk),
			Tags:      []string{volume.OnFullTag(s.anyPolicy())},
		})
	}
	s.note("lvcreate -s %+v", specs)
	s.births = origins
	defer func() { s.births = nil }()
	s.change(func(next *simState) {
		for _, spec := range specs {
			chunk := int(spec.ChunkSize.Bytes())
			limit := (int(volume.CowMax(int64(len(next.lvs[spec.Origin].cur)), spec.ChunkSize)) + simExtent - 1) / simExtent
			size := min(limit, int(spec.Size.Extents)) * simExtent
			next.snapshot(spec.Origin, spec.Name, chunk, size/chunk-2)
			next.lvs[spec.Name].onFull = volume.OnFull(strings.TrimPrefix(spec.Tags[0], volume.OnFullTag("")))
		}
	}, func() error {
		_, err := s.g.CreateSnapshots(ctx, specs)
		return err
	})
	return true
}

// useNewborn writes to origins of snapshots that are attached and not committed
// yet, and may make that durable: a crash finds it with the snapshots or without.
// It holds what whoever finds room has to wait for, so that it does not ask for more.
func (s *sim) useNewborn() {
	for _, name := range s.births {
		f := s.g.families[name]
		if f == nil || s.pick(2) == 0 || s.broken() {
			continue
		}
		size := len(s.state.lvs[name].cur)
		off := s.pick(size/sector) * sector
		p := s.bytes(min(size-off, (1+s.pick(40))*sector))
		s.note("write %s %d+%d, its snapshot is new", name, off, len(p))
		s.early++
		state, next := s.state.clone(), s.next.clone()
		s.state.write(name, p, off)
		s.next.write(name, p, off)
		var n int
		err := f.top.write(func(dev block.Device) (err error) {
			n, err = dev.WriteAt(p, int64(off))
			return err
		})
		if snap.LacksRoom(err) != nil {
			s.note("refused behind %d bytes", n)
			if n > 0 {
				state.write(name, p[:n], off)
				next.write(name, p[:n], off)
			}
			s.state, s.next = state, next
		}
		if s.pick(2) == 0 {
			s.note("flush %s", name)
			if f.top.read(block.Device.Flush) == nil {
				s.state.lvs[name].flushed()
				s.next.lvs[name].flushed()
			}
		}
	}
}

func (s *sim) remove() bool {
	name := s.one(func(lv *simLV) bool { return !s.held(s.topOf(lv.name)) && (!lv.merging && !lv.delayed || lv.invalid) })
	if name == "" {
		return false
	}
	s.note("lvremove %s", name)
	s.change(func(next *simState) { next.remove(name) }, func() error {
		_, err := s.g.RemoveLVs(ctx, []string{name})
		return err
	})
	return true
}

func (s *sim) extend() bool {
	name := s.one(func(lv *simLV) bool {
		return !lv.isSnapshot() && s.state.mergingInto(lv.name) == nil && len(lv.cur) < 4*simExtent
	})
	if name == "" || s.g.Model().Free() == 0 {
		return false
	}
	s.note("lvextend -l +1 %s", name)
	s.change(func(next *simState) { next.lvs[name].extend(len(next.lvs[name].cur) + simExtent) }, func() error {
		_, err := s.g.ExtendLV(ctx, volume.ExtendSpec{Name: name, Size: volume.Size{Extents: 1}, Relative: true})
		return err
	})
	return true
}

func (s *sim) hold() bool {
	name := s.one(func(lv *simLV) bool { return usableLV(lv) && s.open[lv.name] == nil })
	if name == "" {
		return false
	}
	s.note("open %s", name)
	s.open[name] = s.device(name)
	return true
}

func (s *sim) release() bool {
	for _, name := range s.state.names(func(lv *simLV) bool { return s.open[lv.name] != nil }) {
		s.close(name)
		return true
	}
	return false
}

func (s *sim) close(name string) {
	s.note("close %s", name)
	d := s.open[name]
	delete(s.open, name)
	s.released(name, d)
}

func (s *sim) merge() bool {
	name := s.one(func(lv *simLV) bool {
		return lv.isSnapshot() && !lv.invalid && s.state.mergingInto(lv.origin) == nil
	})
	if name == "" {
		return false
	}
	lv := s.state.lvs[name]
	delayed := s.open[lv.origin] != nil || s.open[name] != nil
	s.note("lvconvert --merge %s (delayed: %v)", name, delayed)
	s.change(func(next *simState) {
		if delayed {
			next.lvs[name].delayed = true
		} else {
			next.merge(name)
		}
	}, func() error {
		_, err := s.g.Merge(ctx, volume.MergeSpec{Name: name})
		return err
	})
	return true
}

// await waits until merges have ended. The other actions go on beside them.
func (s *sim) await() bool {
	names := s.state.names(func(lv *simLV) bool { return lv.merging })
	for _, name := range names {
		s.note("await %s", name)
		if s.cuts == nil {
			until(outside{}, name+" has been merged", func() bool {
				s.letWaiting()
				return s.g.Model().LV(name) == nil
			})
		} else if err := s.state.stepToTheEnd(s.g, name); err != nil {
			s.fail("%v", err)
		}
	}
	return len(names) > 0
}

// letWaiting lets snapshots overflow for which a merge waits.
func (s *sim) letWaiting() {
	for name, lv := range s.g.Status().LVs {
		if lv.Cow != nil && lv.Cow.Holding > 0 {
			if err := s.state.letGo(s.g, s.state.lvs[name]); err != nil {
				s.fail("%v", err)
			}
		}
	}
}

// step moves a merge on where nobody else does.
func (s *sim) step() bool {
	name := s.one(func(lv *simLV) bool { return lv.merging })
	if name == "" || s.cuts == nil {
		return false
	}
	s.note("step %s", name)
	step(s.g, s.state.lvs[name].origin)
	return true
}

// restart closes everything, which flushes it, and begins anew.
func (s *sim) restart() bool {
	s.note("restart")
	if err := s.g.Close(); err != nil {
		s.fail("close: %v", err)
	}
	for name, d := range s.open {
		d.Close()
		delete(s.open, name)
	}
	s.restarted()
	s.start()
	return true
}

// restarted is what the model makes of a flush of everything, and of an
// activation.
func (s *sim) restarted() {
	for _, lv := range s.state.lvs {
		lv.flushed()
	}
	s.state = s.state.afterCrash()
}

func (s *sim) reactivate() bool {
	_, err := s.g.Deactivate(ctx)
	if len(s.open) > 0 {
		if !errs.Is(err, errs.Busy) {
			s.fail("deactivate with %d volumes open: %v", len(s.open), err)
		}
		_, err = s.g.Activate(ctx)
	} else if err == nil {
		s.note("vgchange -an, vgchange -ay")
		s.restarted()
		_, err = s.g.Activate(ctx)
	}
	if err != nil {
		s.fail("reactivate: %v", err)
	}
	return true
}
