// Package crash simulates disks that lose power. A World holds disks with
// volatile write caches; a test runs a program on them, cuts the power at some
// operation, and gets back what a real machine might find after a reboot.
//
// # The fault model
//
// A sector of 512 bytes is the unit: after a power cut each sector holds one of
// the values that it had, whole. Nothing is torn within a sector, and no sector
// that was not written changes. A write to a part of a sector is a write of the
// whole sector with the rest as it was.
//
// Every sector is on its own. A write of eight sectors may survive in any
// combination of them, and of two writes one after another the second may
// survive without the first. A sector that was written several times since the
// last flush comes back as any of these versions or as it was before them.
// Disks know nothing of each other: a flush of one says nothing of another.
//
// A Flush that returns nil makes durable every write to its disk that had
// returned before the Flush was called. A write that was still in flight at
// that moment may or may not be covered, so it counts as not covered.
//
// WriteZeroes is a write. After a Discard the even sectors of the range read as
// zeroes and the odd ones as before, so that nothing can come to rely on either;
// what it zeroed is unflushed like any write. Sectors that the range only partly
// covers are left alone.
//
// The power cut, [World.CutAt]: operations (writes, zeroings, discards and
// flushes on all disks of the world) are counted from 1. The one with the given
// number and all that come after it fail with [ErrPowerCut], reads too. If it
// is a write then its sectors are among the unflushed: the disk was at it when
// the power went. If it is a flush, nothing more became durable through it.
// Calls that are out of range or of no bytes are not operations.
//
// The death of a process is a power cut that [World.Revive] undoes: nothing is
// lost but what the process had in its memory, and what it had written and not
// flushed can still be lost later.
//
// An injected error, [World.FailAt]: that one operation fails and the world
// goes on. A write has then reached its odd sectors and not its even ones; a
// flush has made nothing durable, and the next one may.
//
// [World.Reboot] makes the disks after the power cut, in a world of their own
// with empty caches, so that recovery can be cut again. Which of the possible
// values each unflushed sector gets is the choice of a [Policy]. Random choices
// rarely hit the states in which bugs live, therefore [World.Extremes] gives the
// deterministic ones as well: nothing survives, everything does, one operation
// alone does, all but one do, and all up to one do. Reboot can be called as
// often as wanted, on a world that is down or still running; it costs the
// unflushed sectors only.
//
// Not simulated: sectors that tear or rot, writes that go elsewhere, flushes
// that lie, disks that come back with less. A program that must withstand
// damage needs tests that damage bytes.
//
// # A test of every cut
//
//	for n := int64(1); ; n++ {
//		w := crash.NewWorld()
//		d := w.NewDisk("pv0", size)
//		w.CutAt(n)
//		promised := workload(d) // stops at the first error
//		if !w.Down() {
//			break // the whole workload ran without reaching operation n
//		}
//		for name, disks := range w.Reboots(rng, 20) {
//			if err := check(disks, promised); err != nil {
//				t.Errorf("cut at %s, %s: %v", w.Op(n), name, err)
//			}
//		}
//	}
//
// A costly start is made once: the disks that Reboot(crash.All) gives are a
// cheap copy of a prepared world.
package crash
