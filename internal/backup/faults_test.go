package backup

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/mem"
	"cowl/internal/errs"
	"cowl/internal/volume"
)

// A target that fails at any operation, a full disk above all, leaves nothing.
func TestTargetFails(t *testing.T) {
	g := newGroup(t)
	g.volumeOf("v", 4*mib, 42)
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		fault := &nth{n: n, err: syscall.ENOSPC}
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir, open: func(path string) (outputFile, error) {
			f, err := openPartial(path)
			return &faultyFile{f, fault.hit}, err
		}})
		if !fault.fired() {
			if err != nil {
				t.Fatalf("without a fault: %v", err)
			}
			if n < 10 {
				t.Fatalf("only %d operations on the target: too few to have tested anything", n-1)
			}
			t.Logf("%d faults", n-1)
			return
		}
		if !errs.Is(err, errs.NoSpace) {
			t.Errorf("fault %d: error is %v", n, err)
		}
		nothingLeft(t, g, dir)
	}
}

// The image's name is the commit point: when the partial file is closed, right
// before the rename, everything else is in place, and the name is not.
func TestCommitPoint(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	var seen []string
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir, open: func(path string) (outputFile, error) {
		f, err := openPartial(path)
		return &faultyFile{f, func(op string) error {
			if op == "close" {
				seen = files(t, dir)
			}
			return nil
		}}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(r.Image)
	if want := []string{"." + name + ".partial", name + ".json", name + ".sha256"}; !slices.Equal(seen, want) {
		t.Errorf("before the rename there are %q, want %q", seen, want)
	}
}

// A source that cannot be read anywhere leaves nothing.
func TestSourceFails(t *testing.T) {
	g := newGroup(t)
	g.volumeOf("v", 9*mib, 43)
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		fault := &nth{n: n, err: syscall.EIO}
		g.wrap = func(_ string, d block.Device) block.Device {
			return &hooked{d, func(op string, _ int64) error { return fault.hit(op) }}
		}
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir})
		if !fault.fired() {
			if err != nil || n < 5 {
				t.Fatalf("after %d operations without a fault: %v", n-1, err)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("fault %d: error is %v", n, err)
		}
		nothingLeft(t, g, dir)
	}
}

// Ctrl-C at any moment: nothing left, or all of it.
func TestCancel(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	g := newGroup(t)
	g.volumeOf("v", 9*mib, 44)
	cancelled := 0
	for range 60 {
		dir := t.TempDir()
		c, cancel := context.WithCancelCause(ctx)
		interrupt := errors.New("interrupt")
		at := &nth{n: 1 + rng.Int64N(50), err: nil}
		step := func(op string) error {
			if at.count.Add(1) == at.n {
				cancel(interrupt)
			}
			return nil
		}
		g.created = func() error { return step("snapshot") }
		g.wrap = func(_ string, d block.Device) block.Device {
			return &hooked{d, func(op string, _ int64) error { return step(op) }}
		}
		r, err := Run(c, g, Options{LV: "v", Dir: dir,
			Reporter: Reporter{Progress: func(Phase, int64, int64) { _ = step("progress") }},
			open: func(path string) (outputFile, error) {
				f, err := openPartial(path)
				return &faultyFile{f, step}, err
			}})
		switch {
		case err == nil:
			if _, err := Verify(ctx, r.Image, Reporter{}); err != nil {
				t.Error(err)
			}
			if got := g.snapshots(); len(got) > 0 {
				t.Errorf("snapshots left: %q", got)
			}
		case !errors.Is(err, ErrInterrupted) && !errors.Is(err, interrupt) && !errors.Is(err, context.Canceled):
			t.Errorf("cancelled at step %d: %v", at.n, err)
			fallthrough
		default:
			cancelled++
			nothingLeft(t, g, dir)
		}
		cancel(nil)
	}
	if cancelled < 20 {
		t.Errorf("only %d of 60 runs were cancelled", cancelled)
	}
}

// A client that is cancelled while the daemon makes the snapshot does not
// learn that it was made.
func TestCancelledWhileCreating(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	c, cancel := context.WithCancel(ctx)
	g.created = func() error { cancel(); return context.Canceled }
	if _, err := Run(c, g, Options{LV: "v", Dir: dir}); err == nil {
		t.Error("a backup without a snapshot")
	}
	nothingLeft(t, g, dir)
}

// The snapshot overflows while it is read: at some read, with the reads
// failing as the engine's do, and with reads that go on as if nothing were.
func TestOverflow(t *testing.T) {
	for _, silent := range []bool{false, true} {
		for at := int64(1); at <= 4; at++ {
			t.Run(fmt.Sprintf("silent=%v/read=%d", silent, at), func(t *testing.T) {
				g, dir := newGroup(t), t.TempDir()
				vol := g.volumeOf("v", 4*mib, 5)
				scatter(t, vol.dev, 6, 40)
				var reads atomic.Int64
				g.wrap = func(_ string, d block.Device) block.Device {
					return &hooked{d, func(op string, off int64) error {
						if op != "read" || reads.Add(1) != at {
							return nil
						}
						// Flushed: a staged write has not overflowed anything yet.
						if _, err := vol.dev.WriteAt(make([]byte, 2*mib), 0); err != nil {
							t.Error(err)
						}
						if err := vol.dev.Flush(); err != nil {
							t.Error(err)
						}
						return nil
					}}
				}
				if silent {
					plain := g.wrap
					g.wrap = func(name string, _ block.Device) block.Device { return plain(name, vol.dev) }
				}
				_, err := Run(ctx, g, Options{LV: "v", Dir: dir, SnapshotSize: volume.Size{Bytes: 256 << 10}})
				if !errs.Is(err, errs.NoSpace) || !strings.Contains(err.Error(), "overflowed") || errs.HintOf(err) == "" {
					t.Errorf("error is %v (hint %q)", err, errs.HintOf(err))
				}
				if reads.Load() < at {
					t.Error("the snapshot was never made to overflow")
				}
				nothingLeft(t, g, dir)
			})
		}
	}
}

// A long backup must not go on for hours once its snapshot is lost. Each read
// takes a minute of the bubble's time, and returns nonsense without an error.
func TestOverflowIsNoticedEarly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		dev := mem.New(64 * mib)
		if err := block.WriteZeroBytes(dev, 0, dev.Size()); err != nil {
			t.Fatal(err)
		}
		vol := g.add("v", dev)
		g.wrap = func(_ string, _ block.Device) block.Device {
			return &hooked{vol.dev, func(op string, _ int64) error {
				if op != "read" {
					return nil
				}
				time.Sleep(time.Minute)
				_, err := vol.dev.WriteAt(make([]byte, mib), 0)
				return errors.Join(err, vol.dev.Flush())
			}}
		}
		started := time.Now()
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir, SnapshotSize: volume.Size{Bytes: 256 << 10}})
		if !errs.Is(err, errs.NoSpace) {
			t.Error(err)
		}
		if took := time.Since(started); took > 5*time.Minute {
			t.Errorf("noticed after %v", took)
		}
		nothingLeft(t, g, dir)
	})
}

// Nor once whoever runs the group is gone: a hole needs no reading to go on.
func TestGroupIsGone(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		dev := mem.New(64 * mib)
		if err := block.WriteZeroBytes(dev, 0, dev.Size()); err != nil {
			t.Fatal(err)
		}
		g.add("v", dev)
		g.wrap = func(_ string, d block.Device) block.Device {
			return &hooked{d, func(op string, _ int64) error {
				if op == "read" {
					time.Sleep(time.Minute)
				}
				return nil
			}}
		}
		g.gone = func() bool { return len(g.snapshots()) > 0 && time.Since(epoch) > 10*time.Second }
		_, err := Run(ctx, g, Options{LV: "v", Dir: dir})
		if err == nil || !strings.Contains(err.Error(), errGone.Error()) || !strings.Contains(err.Error(), "remove it with: cowl lvremove -y vg-0/v.backup_") {
			t.Error(err)
		}
		if took := time.Since(epoch); took > 5*time.Minute {
			t.Errorf("noticed after %v", took)
		}
		if got := files(t, dir); len(got) > 0 {
			t.Errorf("files left: %q", got)
		}
	})
}

// epoch is when time begins in a bubble.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A disk that does not keep what was written to it must not get a good image.
func TestLyingTarget(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", 2*mib, 7)
	_, err := Run(ctx, g, Options{LV: "v", Dir: dir, open: func(path string) (outputFile, error) {
		f, err := openPartial(path)
		return &rotten{outputFile: f}, err
	}})
	if !errs.Is(err, errs.Corrupt) {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, g, dir)
}

// rotten flips one bit of the first write.
type rotten struct {
	outputFile
	once sync.Once
}

func (r *rotten) WriteAt(b []byte, off int64) (int, error) {
	r.once.Do(func() { b = slices.Clone(b); b[len(b)/2] ^= 4 })
	return r.outputFile.WriteAt(b, off)
}

// What serves our reads may let go of the snapshot a little later than we do.
func TestRemovalWaitsForBusy(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	busy := 3
	g.remove = func(string) error {
		if busy--; busy >= 0 {
			return errs.E(errs.Busy, "still open")
		}
		return nil
	}
	if _, err := Run(ctx, g, Options{LV: "v", Dir: dir}); err != nil {
		t.Error(err)
	}
	if busy >= 0 || len(g.snapshots()) > 0 {
		t.Errorf("snapshots %q, %d refusals to come", g.snapshots(), busy)
	}
}

// A snapshot that cannot be removed is no reason to throw a good image away,
// and every reason to say so.
func TestRemovalFails(t *testing.T) {
	g, dir := newGroup(t), t.TempDir()
	g.volumeOf("v", mib, 1)
	g.remove = func(string) error { return errs.E(errs.Denied, "no") }
	r, err := Run(ctx, g, Options{LV: "v", Dir: dir})
	if err == nil || r == nil || !strings.Contains(err.Error(), "cowl lvremove -y vg-0/"+r.Snapshot) {
		t.Fatalf("report %+v, error %v", r, err)
	}
	if _, err := Verify(ctx, r.Image, Reporter{}); err != nil {
		t.Error(err)
	}
}
