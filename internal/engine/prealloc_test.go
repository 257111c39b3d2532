package engine

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// filesystem is the blocks of a file system that sparse files share.
type filesystem struct {
	mu    sync.Mutex
	free  int
	calls int // of allocate
}

const fsBlock = 4096

// sparse is a sparse file: what is written takes a block, if there is one.
type sparse struct {
	*mem.Device
	fs     *filesystem
	placed map[int64]bool // guarded by fs.mu
}

func (f *filesystem) file(size int64) *sparse {
	return &sparse{Device: mem.New(size), fs: f, placed: map[int64]bool{}}
}

func (s *sparse) take(off, n int64) error {
	s.fs.mu.Lock()
	defer s.fs.mu.Unlock()
	for no := off / fsBlock; no*fsBlock < off+n; no++ {
		if s.placed[no] {
			continue
		}
		if s.fs.free == 0 {
			return errs.E(errs.NoSpace, "no space left on device")
		}
		s.fs.free--
		s.placed[no] = true
	}
	return nil
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if err := s.take(off, int64(len(p))); err != nil {
		return 0, err
	}
	return s.Device.WriteAt(p, off)
}

func (s *sparse) WriteZeroes(off, n int64) error {
	s.fs.mu.Lock()
	for no := (off + fsBlock - 1) / fsBlock; (no+1)*fsBlock <= off+n; no++ { // a hole
		if s.placed[no] {
			s.fs.free++
		}
		delete(s.placed, no)
	}
	s.fs.mu.Unlock()
	return s.Device.WriteZeroes(off, n)
}

// allocate is Growth.AllocatePV.
func allocate(dev block.Device, off, n int64) error {
	s := dev.(*sparse)
	s.fs.mu.Lock()
	s.fs.calls++
	s.fs.mu.Unlock()
	return s.take(off, n)
}

func (f *filesystem) setFree(blocks int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = blocks
}

// thin returns an active group in a sparse file, whose base of 16 extents is
// written and has a snapshot s that has all the extents it needs. The file system
// has so many free blocks.
func thin(t *testing.T, policy volume.OnFull, blocks int, alloc func(block.Device, int64, int64) error) (*Group, *sparse) {
	t.Helper()
	fs := &filesystem{free: 1 << 20}
	dev := fs.file(4 * mib)
	found(t, []*sparse{dev})
	growth := growing(policy)
	growth.AllocatePV = alloc
	g := mustOpenWith(t, []*sparse{dev}, Options{Growth: growth, Manual: true})
	must(t)(g.Activate(ctx))
	must(t)(g.CreateLV(ctx, lv("base", 16, "")))
	d := opened(t, g, "base")
	write(t, d, 0, 1, 16*extent)
	closeDev(t, d)
	fs.setFree(blocks)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 18, "")}))
	return g, dev
}

// bits writes a device chunk by chunk, as far as that goes.
func bits(d block.Device) (n int, err error) {
	for ; n < int(d.Size()) && err == nil; n += 4096 {
		_, err = d.WriteAt(bytes.Repeat([]byte{2}, 4096), int64(n))
	}
	if err != nil {
		n -= 4096
	}
	return n, err
}

// The file system below a sparse PV is full: with readonly first writes fail, what
// has been copied is written again, and the snapshot lives. With room all goes on.
func TestFullBelowReadOnly(t *testing.T) {
	g, dev := thin(t, volume.OnFullReadOnly, 50, allocate)
	base, s := opened(t, g, "base"), opened(t, g, "s")
	n, err := bits(base)
	if !errs.Is(err, errs.NoSpace) || errs.HintOf(err) == "" || n < 40*4096 || n > 48*4096 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	write(t, base, 0, 3, n)
	if _, err := s.WriteAt([]byte{3}, int64(n)); !errs.Is(err, errs.NoSpace) {
		t.Errorf("the snapshot's own write: %v", err)
	}
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	if c := cow(g, "s"); c.Invalid || c.Short == "" {
		t.Errorf("%+v", c)
	}
	expect(t, "snapshot", s, 0, 1, 16*extent)
	expect(t, "base", base, 0, 3, n)
	expect(t, "the rest of base", base, int64(n), 1, 16*extent-n)

	must(t)(g.SetReadOnly(ctx, "s", true)) // a commit does not help
	if _, err := base.WriteAt([]byte{2}, int64(n)); !errs.Is(err, errs.NoSpace) {
		t.Errorf("still full: %v", err)
	}
	dev.fs.setFree(1000)
	until(t, "there is room again", func() bool {
		_, err := base.WriteAt([]byte{2}, int64(n))
		return err == nil
	})
	write(t, base, 0, 4, 16*extent)
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	expect(t, "snapshot with room", s, 0, 1, 16*extent)
	if c := cow(g, "s"); c.Short != "" || c.Invalid {
		t.Errorf("%+v", c)
	}
}

// What a store was given stays its own when it is activated again, and a full
// file system keeps nothing from that.
func TestFullBelowAtActivation(t *testing.T) {
	g, dev := thin(t, volume.OnFullReadOnly, 50, allocate)
	write(t, opened(t, g, "base"), 0, 2, 10*4096)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	dev.fs.setFree(0)
	growth := growing(volume.OnFullReadOnly)
	growth.AllocatePV = allocate
	g = mustOpenWith(t, []*sparse{dev}, Options{Growth: growth, Manual: true})
	must(t)(g.Activate(ctx))
	base := opened(t, g, "base")
	n, err := bits(base)
	if !errs.Is(err, errs.NoSpace) || n < 40*4096 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := base.Flush(); err != nil || cow(g, "s").Invalid {
		t.Errorf("%v, %+v", err, cow(g, "s"))
	}
	expect(t, "snapshot", opened(t, g, "s"), 0, 1, 16*extent)
}

// With hold writes wait, for room or for their snapshot to go.
func TestFullBelowHolds(t *testing.T) {
	for name, help := range map[string]func(g *Group, dev *sparse){
		"room":     func(_ *Group, dev *sparse) { dev.fs.setFree(1000) },
		"lvremove": func(g *Group, _ *sparse) { must(t)(g.RemoveLVs(ctx, []string{"s"})) },
		"lvchange": func(g *Group, _ *sparse) {
			must(t)(g.ChangeTags(ctx, "s", []string{volume.OnFullTag(volume.OnFullInvalidate)}, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, dev := thin(t, volume.OnFullHold, 50, allocate)
			base := opened(t, g, "base")
			done := held(t, g, base, 0, 16*extent)
			help(g, dev)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := base.Flush(); err != nil {
				t.Fatal(err)
			}
			expect(t, "base", base, 0, 2, 16*extent)
			switch name {
			case "room":
				expect(t, "snapshot", opened(t, g, "s"), 0, 1, 16*extent)
			case "lvchange":
				if !cow(g, "s").Invalid {
					t.Error("there was no room, and the snapshot is valid")
				}
			}
		})
	}
}

// LVM's way, and that of file systems that cannot give a place in advance.
func TestFullBelowInvalidates(t *testing.T) {
	for name, c := range map[string]struct {
		policy volume.OnFull
		alloc  func(block.Device, int64, int64) error
	}{
		"invalidate":  {volume.OnFullInvalidate, allocate},
		"unsupported": {volume.OnFullReadOnly, func(block.Device, int64, int64) error { return errors.ErrUnsupported }},
		"none":        {volume.OnFullReadOnly, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g, dev := thin(t, c.policy, 50, c.alloc)
			base := opened(t, g, "base")
			write(t, base, 0, 2, 16*extent)
			if err := base.Flush(); err != nil {
				t.Fatal(err)
			}
			if !cow(g, "s").Invalid || c.policy == volume.OnFullInvalidate && dev.fs.calls > 1 {
				t.Errorf("%+v, %d calls", cow(g, "s"), dev.fs.calls)
			}
			expect(t, "base", base, 0, 2, 16*extent)
		})
	}
}

// A snapshot that could not keep anything is not made.
func TestNoSnapshotWithoutRoomBelow(t *testing.T) {
	g, dev := thin(t, volume.OnFullReadOnly, 1000, allocate)
	dev.fs.setFree(2) // its header and area
	_, err := g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "late", 5, "")})
	if !errs.Is(err, errs.NoSpace) || g.Model().LV("late") != nil || active(g)["late"] {
		t.Errorf("%v", err)
	}
	base := opened(t, g, "base")
	write(t, base, 0, 2, 16*extent)
	if err := base.Flush(); err != nil {
		t.Fatal(err)
	}
	expect(t, "the one that has its room", opened(t, g, "s"), 0, 1, 16*extent)
}

// An origin that is a hole itself, with a snapshot that has its room: the write is
// acknowledged, as a disk with a cache does, and the next flush says that it was
// lost. The snapshot shows its instant.
func TestOriginInHoles(t *testing.T) {
	g, dev := thin(t, volume.OnFullReadOnly, 1000, allocate)
	must(t)(g.CreateLV(ctx, lv("hollow", 4, "")))
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("hollow", "h", 6, "")}))
	dev.fs.setFree(20)
	hollow := opened(t, g, "hollow")
	write(t, hollow, 0, 2, 4*extent)
	if err := hollow.Flush(); !errs.Is(err, errs.NoSpace) {
		t.Errorf("flush: %v", err)
	}
	if err := hollow.Flush(); err != nil {
		t.Errorf("it was reported once: %v", err)
	}
	if c := cow(g, "h"); c.Invalid {
		t.Errorf("%+v", c)
	}
	expect(t, "snapshot", opened(t, g, "h"), 4096, 0, 4*extent-4096)
	// Its chunks are copied: now the write itself is told.
	if _, err := hollow.WriteAt([]byte{3}, 3*extent); !errs.Is(err, errs.NoSpace) {
		t.Errorf("a write: %v", err)
	}
	dev.fs.setFree(1000)
	write(t, hollow, 0, 3, 4*extent)
	if err := hollow.Flush(); err != nil {
		t.Error(err)
	}
	expect(t, "origin with room", hollow, 0, 3, 4*extent)
}

// What is ahead of need is a few calls, not one a write, and is asked for while
// there is time.
func TestFewCallsBelow(t *testing.T) {
	for _, manual := range []bool{true, false} {
		fs := &filesystem{free: 1 << 20}
		dev := fs.file(280 * mib)
		found(t, []*sparse{dev})
		growth := growing(volume.OnFullHold)
		growth.AllocatePV = allocate
		g := mustOpenWith(t, []*sparse{dev}, Options{Growth: growth, Manual: manual})
		must(t)(g.Activate(ctx))
		must(t)(g.CreateLV(ctx, lv("base", 128*mib/extent, "")))
		must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("base", "s", 140*mib/extent, "")}))
		before := fs.calls
		base := opened(t, g, "base")
		for off := int64(0); off < base.Size(); off += 64 * kib {
			write(t, base, off, 2, 64*kib)
			if off%mib == 0 {
				if err := base.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if calls := fs.calls - before; calls < 4 || calls > 16 || cow(g, "s").Invalid {
			t.Errorf("manual %v: %d calls for 128 MiB, %+v", manual, calls, cow(g, "s"))
		}
	}
}
