package overlay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
	"cowl/internal/format/ovlabel"
)

// mergeCase is an overlay with content on a base, both on disks whose power
// can be cut.
type mergeCase struct {
	t            *testing.T
	before, want []byte // what the base holds, and will
}

const mergeCaseChunk = 4096 // the least in which a label has room

// prepare makes the disks as they are before the merge.
func (c *mergeCase) prepare(rng *rand.Rand, size int64, writes int) []*crash.Disk {
	w := crash.NewWorld()
	base := w.NewDisk("base", size)
	content, before := random(c.t, rng, size)
	c.before, c.want = before, bytes.Clone(before)
	must(c.t, copyAll(base, content))
	file := w.NewDisk("file", useful(size, mergeCaseChunk))
	l := testLabel(base)
	l.Members[0].Samples = sha256.Sum256(before)
	must(c.t, format(file, l, mergeCaseChunk))
	d := openDevice(c.t, base, file)
	for range writes {
		off := rng.Int64N(size)
		p := bytes.Repeat([]byte{byte(rng.Uint32())}, int(min(1+rng.Int64N(20000), size-off)))
		copy(c.want[off:], p)
		_, err := d.WriteAt(p, off)
		must(c.t, err)
	}
	must(c.t, d.Close())
	must(c.t, base.Flush())
	return w.Reboot(crash.All)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func copyAll(to, from block.Device) error {
	p := make([]byte, from.Size())
	if _, err := from.ReadAt(p, 0); err != nil {
		return err
	}
	_, err := to.WriteAt(p, 0)
	return err
}

// wholeSum identifies a base in memory.
func wholeSum(base block.Device) (ovlabel.Member, error) {
	p := make([]byte, base.Size())
	_, err := base.ReadAt(p, 0)
	return ovlabel.Member{Kind: ovlabel.File, Size: base.Size(), Samples: sha256.Sum256(p)}, err
}

// mergeDisks does what Merge does with files.
func mergeDisks(base, file block.Device) error {
	l, slot, err := readLabel(file)
	if err != nil {
		return err
	}
	now, err := wholeSum(base)
	if err != nil {
		return err
	}
	if err := mayMerge(l, now); err != nil {
		return err
	}
	m := &merge{file: file, label: l, slot: slot, before: base}
	m.open = func() (block.Device, error) { return base, nil }
	m.identify = func() (ovlabel.Member, error) { return wholeSum(base) }
	return m.run(context.Background(), nil)
}

// check is what must hold whenever the power has failed: the base is old, new
// or known to be half merged; and the overlay knows it as it is unless that.
func (c *mergeCase) check(base, file block.Device) error {
	l, _, err := readLabel(file)
	if err != nil {
		return err
	}
	if l.State == ovlabel.Merging {
		return nil
	}
	now, err := wholeSum(base)
	if err != nil {
		return err
	}
	if what := differs(l.Members[0], now); what != "" {
		return fmt.Errorf("the label says live, and the base %s", what)
	}
	d, err := newDevice(base, file, deviceOptions{manual: true})
	if err != nil {
		return err
	}
	got := make([]byte, base.Size())
	if _, err := d.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, c.want) {
		return errors.New("the overlay does not show what was written to it")
	}
	return nil
}

// finished checks the end: the base is new, the overlay empty and usable.
func (c *mergeCase) finished(base, file block.Device) error {
	if got := blocktest.ReadAll(c.t, base); !bytes.Equal(got, c.want) {
		return errors.New("the base is not what the overlay showed")
	}
	l, _, err := readLabel(file)
	if err != nil || l.State != ovlabel.Live {
		return fmt.Errorf("label %+v, %v", l, err)
	}
	d, err := newDevice(base, file, deviceOptions{manual: true})
	if err != nil {
		return err
	}
	if n := d.store.Count(); n != 0 {
		return fmt.Errorf("%d exceptions are left", n)
	}
	// Chunks that held something once must not show through.
	want := bytes.Clone(c.want)
	for off := int64(1000); off < base.Size(); off += 7000 {
		want[off] = 1
		if _, err := d.WriteAt([]byte{1}, off); err != nil {
			return err
		}
	}
	if err := d.Flush(); err != nil {
		return err
	}
	d, err = newDevice(base, file, deviceOptions{manual: true})
	if err != nil {
		return err
	}
	if !bytes.Equal(blocktest.ReadAll(c.t, d), want) {
		return errors.New("used again, the overlay shows something else")
	}
	return nil
}

// A merge is cut at every write and flush, resumed, cut again, and resumed to
// its end.
func TestMergePowerCuts(t *testing.T) {
	seed := blocktest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := &mergeCase{t: t}
	size, writes, random := int64(100<<10+100), 12, 1
	if blocktest.Long() {
		random = 20
	}
	start := c.prepare(rng, size, writes)
	points, reboots := 0, 0
	for n := int64(1); ; n++ {
		disks := start[0].World().Reboot(crash.All)
		w := disks[0].World()
		w.CutAt(n)
		err := mergeDisks(disks[0], disks[1])
		if !w.Down() {
			must(t, err)
			w.CutAt(0)
			must(t, c.finished(disks[0], disks[1]))
			break
		}
		points++
		for name, disks := range w.Reboots(rng, random) {
			reboots++
			if err := c.resume(rng, disks); err != nil {
				t.Fatalf("cut at %s, %s: %v", w.Op(n), name, err)
			}
		}
	}
	if points < 10 {
		t.Errorf("only %d operations in a merge", points)
	}
	t.Logf("%d power cuts, %d reboots", points, reboots)
}

func (c *mergeCase) resume(rng *rand.Rand, disks []*crash.Disk) error {
	if err := c.check(disks[0], disks[1]); err != nil {
		return err
	}
	w := disks[0].World()
	w.CutAt(w.Ops() + 1 + rng.Int64N(12))
	err := mergeDisks(disks[0], disks[1])
	if w.Down() {
		disks = w.Reboot(crash.Random(rng))
		if err := c.check(disks[0], disks[1]); err != nil {
			return fmt.Errorf("after the second cut: %w", err)
		}
		err = mergeDisks(disks[0], disks[1])
	}
	if err != nil {
		return err
	}
	w.CutAt(0)
	return c.finished(disks[0], disks[1])
}

// Every write and flush of a merge fails once; the next call ends it.
func TestMergeFails(t *testing.T) {
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	c := &mergeCase{t: t}
	start := c.prepare(rng, 100<<10+100, 12)
	for n := int64(1); ; n++ {
		disks := start[0].World().Reboot(crash.All)
		w := disks[0].World()
		w.FailAt(n, errInjected)
		err := mergeDisks(disks[0], disks[1])
		if w.Fired() == 0 {
			must(t, err)
			break
		}
		if !errors.Is(err, errInjected) {
			t.Fatalf("fault at %s: %v", w.Op(n), err)
		}
		must(t, c.check(disks[0], disks[1]))
		must(t, mergeDisks(disks[0], disks[1]))
		must(t, c.finished(disks[0], disks[1]))
	}
}

// A new file is an overlay or it is none, whenever the power goes.
func TestFormatPowerCuts(t *testing.T) {
	for n := int64(1); ; n++ {
		w := crash.NewWorld()
		base, file := w.NewDisk("base", 1<<20), w.NewDisk("file", useful(1<<20, 4096))
		w.CutAt(n)
		err := format(file, testLabel(base), 4096)
		if !w.Down() {
			must(t, err)
			return
		}
		for name, disks := range w.Reboots(rand.New(rand.NewPCG(1, uint64(n))), 20) {
			_, _, err := readLabel(disks[1])
			if err == nil {
				_, err = newDevice(disks[0], disks[1], deviceOptions{manual: true})
				must(t, err)
			} else if !isNoOverlay(err) {
				t.Errorf("cut at %s, %s: %v", w.Op(n), name, err)
			}
		}
	}
}
