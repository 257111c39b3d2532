package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/block/crash"
	"cowl/internal/block/filter/fault"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/format/dmsnap"
	"cowl/internal/format/ovlabel"
)

// testLabel is a label for bases in memory.
func testLabel(base block.Device) *ovlabel.Label {
	return &ovlabel.Label{
		Sequence: 1, Format: ovlabel.Raw, Size: base.Size(), Path: "/base",
		Members: []ovlabel.Member{{Kind: ovlabel.File, Size: base.Size()}},
	}
}

// newFile formats a device as an overlay's file.
func newFile(t testing.TB, file, base block.Device, chunk int64) {
	t.Helper()
	if err := format(file, testLabel(base), chunk); err != nil {
		t.Fatal(err)
	}
}

func openDevice(t testing.TB, base, file block.Device) *Device {
	t.Helper()
	d, err := newDevice(base, file, deviceOptions{manual: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	for _, chunk := range []int64{4096, 16384} {
		t.Run(fmt.Sprint(chunk), func(t *testing.T) {
			files := map[block.Device][2]block.Device{}
			open := func(t *testing.T, base, file block.Device) block.Device {
				d := openDevice(t, base, file)
				files[d] = [2]block.Device{base, file}
				return d
			}
			blocktest.Run(t, func(t *testing.T, size int64) block.Device {
				base, file := mem.New(size), mem.New(useful(size, chunk))
				newFile(t, file, base, chunk)
				return open(t, base, file)
			}, blocktest.Options{Zeroed: true, Reopen: func(t *testing.T, d block.Device) block.Device {
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				return open(t, files[d][0], files[d][1])
			}})
		})
	}
}

// random returns a device in memory with random content.
func random(t testing.TB, rng *rand.Rand, size int64) (*mem.Device, []byte) {
	t.Helper()
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	d := mem.New(size)
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return d, p
}

func TestReadOnly(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	base, want := random(t, rng, 100<<10+100)
	file := mem.New(useful(base.Size(), 4096))
	newFile(t, file, base, 4096)
	d := openDevice(t, base, file)
	for _, off := range []int64{0, 5000, 100 << 10} {
		p := bytes.Repeat([]byte{7}, 100)
		copy(want[off:], p)
		if _, err := d.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	before := blocktest.ReadAll(t, file)
	ro, err := newDevice(base, file, deviceOptions{readOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	blocktest.RunReadOnly(t, ro, want)
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, blocktest.ReadAll(t, file)) {
		t.Error("an overlay that was opened read-only has changed")
	}
}

// Parts cover a range without gap, and area by area.
func TestParts(t *testing.T) {
	for _, chunk := range []int64{512, 4096} {
		l := newLedger(mem.New(1<<20), dmsnap.Layout{ChunkBytes: chunk}, true)
		areaOf := func(off int64) (uint64, bool) {
			for k := uint64(0); l.layout.Off(l.layout.AreaChunk(k)) <= off; k++ {
				if off < l.layout.Off(l.layout.AreaChunk(k)+1) {
					return k, true
				}
			}
			return 0, false
		}
		rng := rand.New(rand.NewPCG(uint64(chunk), 0))
		for range 300 {
			off, length := rng.Int64N(600*chunk), rng.Int64N(600*chunk)
			at := off
			for p := range l.parts(off, length) {
				if p.off != at || p.end <= p.off {
					t.Fatalf("%d+%d: part %+v at %d", off, length, p, at)
				}
				for b := p.off; b < p.end; b += 128 {
					k, isArea := areaOf(b)
					if isArea != p.isArea || isArea && k != p.area || (b < chunk) != (p.off < chunk) {
						t.Fatalf("%d+%d: byte %d is area %d (%v), part %+v", off, length, b, k, isArea, p)
					}
				}
				at = p.end
			}
			if at != off+length {
				t.Fatalf("%d+%d: parts end at %d", off, length, at)
			}
		}
	}
}

// versions is what a device may hold after a power cut: for each sector its
// content, and what it had since the last flush.
type versions struct {
	cur   []byte
	older map[int64][][]byte
}

func newVersions(p []byte) *versions { return &versions{bytes.Clone(p), map[int64][][]byte{}} }

func (v *versions) clone() *versions {
	n := newVersions(v.cur)
	for s, list := range v.older {
		n.older[s] = slices.Clone(list)
	}
	return n
}

func (v *versions) sector(s int64) []byte { return v.cur[s*512 : min((s+1)*512, int64(len(v.cur)))] }

func (v *versions) write(off int64, p []byte) {
	for s := off / 512; len(p) > 0 && s <= (off+int64(len(p))-1)/512; s++ {
		v.older[s] = append(v.older[s], bytes.Clone(v.sector(s)))
	}
	copy(v.cur[off:], p)
}

func (v *versions) flushed() { clear(v.older) }

// settle checks what was found, which then is what is.
func (v *versions) settle(got []byte) error {
	for s := int64(0); s*512 < int64(len(got)); s++ {
		g := got[s*512 : min((s+1)*512, int64(len(got)))]
		if !bytes.Equal(g, v.sector(s)) && !slices.ContainsFunc(v.older[s], func(o []byte) bool { return bytes.Equal(g, o) }) {
			return fmt.Errorf("sector %d is %x..., want %x... (or one of %d older versions)", s, g[:4], v.sector(s)[:4], len(v.older[s]))
		}
	}
	copy(v.cur, got)
	v.flushed()
	return nil
}

// machine is an overlay with a model, on a disk whose power can be cut. The
// base is not on such a disk: it is never written.
type machine struct {
	rng  *rand.Rand
	base *mem.Device
	file *crash.Disk
	dev  *Device
	data *versions
}

const machineChunk = 512 // areas of 32 entries, so that they fill up

func (m *machine) open() error {
	dev, err := newDevice(m.base, m.file, deviceOptions{manual: true})
	m.dev = dev
	return err
}

func (m *machine) step() error {
	size := m.base.Size()
	off := m.rng.Int64N(size)
	length := min(1+m.rng.Int64N(9000), size-off)
	if m.rng.IntN(2) == 0 { // whole chunks
		off = off / machineChunk * machineChunk
		length = min(machineChunk*(1+m.rng.Int64N(40)), size-off)
	}
	switch n := m.rng.IntN(20); {
	case n < 12:
		p := bytes.Repeat([]byte{byte(m.rng.Uint32())}, int(length))
		m.data.write(off, p)
		_, err := m.dev.WriteAt(p, off)
		return err
	case n < 14:
		m.data.write(off, make([]byte, length))
		return m.dev.WriteZeroes(off, length)
	case n < 18:
		err := m.dev.Flush()
		if err == nil {
			m.data.flushed()
		}
		return err
	case n < 19:
		if err := m.dev.Close(); err != nil {
			return err
		}
		m.data.flushed()
		return m.open()
	}
	return m.check()
}

// check compares everything; nothing is uncertain.
func (m *machine) check() error {
	got := make([]byte, m.base.Size())
	if _, err := m.dev.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, m.data.cur) {
		return errors.New("the content is not what was written")
	}
	return nil
}

// boot opens the overlay after a power cut and checks it.
func (m *machine) boot() error {
	if err := m.open(); err != nil {
		return err
	}
	got := make([]byte, m.base.Size())
	if _, err := m.dev.ReadAt(got, 0); err != nil {
		return err
	}
	return m.data.settle(got)
}

// history is a machine's life, to be repeated.
type history struct {
	seed  uint64
	steps int
	base  *mem.Device
	whole []byte
}

func (h history) machine(t testing.TB) (*crash.World, *machine) {
	rng := rand.New(rand.NewPCG(h.seed, 1))
	w := crash.NewWorld()
	file := w.NewDisk("file", useful(h.base.Size(), machineChunk)+4096)
	// A label has no room in chunks that small; the header is all that counts here.
	if _, err := file.WriteAt(dmsnap.Header{Valid: true, ChunkBytes: machineChunk}.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Flush(); err != nil {
		t.Fatal(err)
	}
	m := &machine{rng: rng, base: h.base, file: file, data: newVersions(h.whole)}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	return w, m
}

func newHistory(t testing.TB, seed uint64, steps int) history {
	base, whole := random(t, rand.New(rand.NewPCG(seed, 2)), 60<<10+300)
	return history{seed, steps, base, whole}
}

func (h history) play(m *machine) error {
	for range h.steps {
		if err := m.step(); err != nil {
			return err
		}
	}
	return nil
}

// Whenever the power goes: what was flushed is there, and of what was not any
// part, never anything else. And so again after the next cut.
func TestPowerCuts(t *testing.T) {
	seed := blocktest.Seed(t)
	histories, reboots := 1, 5
	if blocktest.Long() {
		histories, reboots = 200, 20
	}
	points, checked := 0, 0
	for i := range histories {
		h := newHistory(t, seed+uint64(i), 30)
		w, m := h.machine(t)
		if err := h.play(m); err != nil {
			t.Fatal(err)
		}
		for n := w.Ops(); n > 2; n-- { // the first two are the format's
			points++
			checked += cutAt(t, h, n, reboots)
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d power cuts, %d reboots", points, checked)
}

func cutAt(t *testing.T, h history, n int64, random int) (reboots int) {
	w, m := h.machine(t)
	w.CutAt(n)
	if err := h.play(m); !w.Down() {
		t.Fatalf("seed %d, cut at %d: %v", h.seed, n, err)
	}
	rng := rand.New(rand.NewPCG(h.seed, uint64(n)))
	for name, disks := range w.Reboots(rng, random) {
		reboots++
		if err := afterCut(m, disks[0], rng); err != nil {
			t.Errorf("seed %d, cut at %s, %s: %v", h.seed, w.Op(n), name, err)
			return reboots
		}
	}
	return reboots
}

func afterCut(before *machine, disk *crash.Disk, rng *rand.Rand) error {
	m := &machine{rng: rng, base: before.base, file: disk, data: before.data.clone()}
	w := disk.World()
	w.CutAt(1 + rng.Int64N(40))
	err := m.boot()
	for err == nil {
		err = m.step()
	}
	if !w.Down() {
		return err
	}
	m.file = w.Reboot(crash.Random(rng))[0]
	if err := m.boot(); err != nil {
		return err
	}
	return m.check()
}

var errInjected = errors.New("injected")

// Every write and flush of the file fails once. The overlay says so, and when
// it is opened again what was flushed is there.
func TestEveryOperationFails(t *testing.T) {
	seed := blocktest.Seed(t)
	histories := 4
	if blocktest.Long() {
		histories = 400
	}
	points := 0
	for i := range histories {
		h := newHistory(t, seed+uint64(i), 25)
		w, m := h.machine(t)
		if err := h.play(m); err != nil {
			t.Fatal(err)
		}
		for n := w.Ops(); n > 2; n-- {
			points++
			if err := failAt(t, h, n); err != nil {
				t.Fatalf("seed %d, fault at %s: %v", h.seed, w.Op(n), err)
			}
		}
	}
	t.Logf("%d faults", points)
}

func failAt(t *testing.T, h history, n int64) error {
	w, m := h.machine(t)
	w.FailAt(n, errInjected)
	err := h.play(m)
	if w.Fired() != 1 {
		return errors.New("the fault did not fire")
	}
	if err == nil {
		return errors.New("nobody was told")
	}
	if !strings.Contains(err.Error(), errInjected.Error()) {
		return err
	}
	if m.dev != nil {
		_ = m.dev.Close() // which tries to save what it can
	}
	if err := m.boot(); err != nil {
		return fmt.Errorf("after reopening: %w", err)
	}
	if err := h.play(m); err != nil {
		return fmt.Errorf("after reopening: %w", err)
	}
	return m.check()
}

// A write that has no room fails and changes nothing; the rest goes on, and
// writes that need no room, too.
func TestNoSpace(t *testing.T) {
	base, want := random(t, rand.New(rand.NewPCG(1, 2)), 64<<10)
	file := mem.New(useful(base.Size(), 4096))
	newFile(t, file, base, 4096)
	limit := int64(8 * 4096)
	d, err := newDevice(base, file, deviceOptions{manual: true, allocate: func(off, length int64) error {
		if off+length > limit {
			return errs.E(errs.NoSpace, "disk full")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	written := 0
	for off := int64(0); off < base.Size(); off += 4096 {
		p := bytes.Repeat([]byte{9}, 4096)
		switch _, err := d.WriteAt(p, off); {
		case err == nil:
			copy(want[off:], p)
			written++
		case !errs.Is(err, errs.NoSpace):
			t.Fatalf("write at %d: %v", off, err)
		}
	}
	if written != 6 { // of 8 chunks, header and area are two
		t.Errorf("%d chunks were written, want 6", written)
	}
	if err := d.WriteZeroes(32<<10, 32<<10); !errs.Is(err, errs.NoSpace) {
		t.Errorf("zeroes without room: %v", err)
	}
	copy(want[100:], "rewritten")
	if _, err := d.WriteAt([]byte("rewritten"), 100); err != nil {
		t.Errorf("a write that needs no room: %v", err)
	}
	if err := d.Flush(); err != nil {
		t.Errorf("flush on a full disk: %v", err)
	}
	if !bytes.Equal(blocktest.ReadAll(t, d), want) {
		t.Error("the content is not what was written")
	}
	limit = file.Size() // somebody made room
	if _, err := d.WriteAt([]byte{1}, base.Size()-1); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

// A store that is smaller than it could be fills up to its last chunk, not
// sooner, and then it is as with a full disk.
func TestSmallStore(t *testing.T) {
	for chunks := int64(3); chunks < 40; chunks++ {
		base, _ := random(t, rand.New(rand.NewPCG(1, 2)), 64<<10)
		file := mem.New(chunks * machineChunk)
		if _, err := file.WriteAt(dmsnap.Header{Valid: true, ChunkBytes: machineChunk}.Encode(), 0); err != nil {
			t.Fatal(err)
		}
		d := openDevice(t, base, file)
		var wg sync.WaitGroup
		written := make([]int, 4)
		for w := range written {
			wg.Go(func() {
				for off := int64(w) * machineChunk; off < base.Size(); off += int64(len(written)) * machineChunk {
					switch _, err := d.WriteAt([]byte{1}, off); {
					case err == nil:
						written[w]++
					case !errs.Is(err, errs.NoSpace):
						t.Errorf("write at %d: %v", off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		total := 0
		for _, n := range written {
			total += n
		}
		// The kernel's rule: an area that fills up needs the next one.
		l := dmsnap.Layout{ChunkBytes: machineChunk}
		want := 0
		for l.DataChunk(uint64(want+1)) <= uint64(chunks) {
			want++
		}
		if total != want {
			t.Errorf("%d chunks took %d writes, want %d", chunks, total, want)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		again := openDevice(t, base, file)
		if again.Usage().Invalid || again.store.Count() != total {
			t.Errorf("%d chunks: opened again, %+v with %d exceptions, want %d", chunks, again.Usage(), again.store.Count(), total)
		}
	}
}

// A base that cannot be read is no reason to lose the overlay.
func TestBaseFails(t *testing.T) {
	base, want := random(t, rand.New(rand.NewPCG(1, 2)), 64<<10)
	file := mem.New(useful(base.Size(), 4096))
	newFile(t, file, base, 4096)
	d := openDevice(t, fault.New(fault.Rule{Ops: fault.Read, Always: true}).Wrap("base", base), file)
	if _, err := d.WriteAt([]byte{1}, 10); err == nil {
		t.Error("a write that has to copy from a base that cannot be read")
	}
	_ = d.Close()
	d = openDevice(t, base, file)
	if !bytes.Equal(blocktest.ReadAll(t, d), want) {
		t.Error("opened again, the content has changed")
	}
}

// What nobody flushes is on the disk a few seconds later.
func TestPublishesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, want := random(t, rand.New(rand.NewPCG(1, 2)), 64<<10)
		file := mem.New(useful(base.Size(), 4096))
		newFile(t, file, base, 4096)
		d, err := newDevice(base, file, deviceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stored := func() int { return openDevice(t, base, file.Clone()).store.Count() }
		for i := range 3 {
			copy(want[i*5000:], "mine")
			if _, err := d.WriteAt([]byte("mine"), int64(i)*5000); err != nil {
				t.Fatal(err)
			}
			if n := stored(); n != i {
				t.Errorf("write %d was published at once: %d exceptions", i, n)
			}
			time.Sleep(publishEvery + time.Second)
			if n := stored(); n != i+1 {
				t.Errorf("write %d is not published: %d exceptions", i, n)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := blocktest.ReadAll(t, openDevice(t, base, file)); !bytes.Equal(got, want) {
			t.Error("the content is not what was written")
		}
	})
}

// Zeroes where the base has none to hide need no chunk; elsewhere they do.
func TestZeroesOverHoles(t *testing.T) {
	base := mem.New(1 << 20)
	want := make([]byte, base.Size())
	for off := 100 << 10; off < 200<<10; off++ {
		want[off] = 7
	}
	if _, err := base.WriteAt(want[100<<10:200<<10], 100<<10); err != nil {
		t.Fatal(err)
	}
	file := mem.New(useful(base.Size(), 4096))
	newFile(t, file, base, 4096)
	d := openDevice(t, base, file)
	must(t, d.WriteZeroes(0, 90<<10))
	must(t, d.WriteZeroes(300<<10+1, 700<<10))
	if n := d.store.Count(); n != 0 {
		t.Errorf("zeroes over holes took %d chunks", n)
	}
	must(t, d.WriteZeroes(150<<10+5, 200<<10))
	clear(want[150<<10+5 : 350<<10+5])
	if n := d.store.Count(); n != 13 {
		t.Errorf("zeroes over 50 KiB of data took %d chunks, want 13", n)
	}
	if got := blocktest.ReadAll(t, d); !bytes.Equal(got, want) {
		t.Error("the content is not what was written")
	}
}
