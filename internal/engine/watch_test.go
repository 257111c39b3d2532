package engine

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// ticks is a clock that a test moves.
type ticks struct{ now time.Time }

func (c *ticks) time() time.Time { return c.now }

// observed is a group with a volume "data" and a clock.
type observed struct {
	*Group
	ticks
	learned map[volume.UUID]*forecast.Pattern // once it is closed
}

func observe(t testing.TB, devs []block.Device, known map[volume.UUID]*forecast.Pattern) *observed {
	t.Helper()
	o := &observed{ticks: ticks{clock()}, learned: map[volume.UUID]*forecast.Pattern{}}
	var err error
	o.Group, err = openWith(devs, Options{
		Manual: true, Now: o.time, Known: known,
		Learned: func(m map[volume.UUID]*forecast.Pattern) { maps.Copy(o.learned, m) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// observeData makes the group, too.
func observeData(t testing.TB) (*observed, []block.Device) {
	t.Helper()
	devs := memory(1, 64*mib)
	found(t, devs)
	o := observe(t, devs, nil)
	must(t)(o.CreateLV(ctx, volume.LVSpec{Name: "data", Size: volume.Size{Bytes: 16 * mib}}))
	return o, devs
}

func (o *observed) open(t testing.TB) block.Device {
	t.Helper()
	d, err := o.Open(ctx, "data", false)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// second lets one pass.
func (o *observed) second() {
	o.now = o.now.Add(time.Second)
	o.endSlot()
}

// What is written through any handle is seen; what failed, what was read and
// time in which nobody had the volume open is not.
func TestWatchSeesWrites(t *testing.T) {
	g, _ := observeData(t)
	g.second() // not open
	d := g.open(t)
	d.WriteAt(make([]byte, 8192), 1<<20)
	d.WriteZeroes(2<<20, 4096)
	d.Discard(3<<20, 4096)
	d.ReadAt(make([]byte, 4096), 4<<20)
	if _, err := d.WriteAt(make([]byte, 4096), 1<<40); err == nil {
		t.Fatal("a write behind the end succeeds")
	}
	g.second()
	g.second()
	d.Close()
	g.second()
	p, err := g.Writes("data")
	if err != nil || p.Slots != 2 || !p.Until.Equal(clock().Add(3*time.Second)) {
		t.Fatalf("%+v, %v", p, err)
	}
	if n := p.Windows[1].Samples[0].Count[0]; n != 4 {
		t.Errorf("%d pages were written, want 4", n)
	}
}

// What was learnt outlives deactivation and the process, and is asked for by
// a snapshot's name as well.
func TestWatchRemembers(t *testing.T) {
	g, devs := observeData(t)
	id := g.Model().LV("data").ID
	for range 3 {
		d := g.open(t)
		d.WriteAt(make([]byte, 4096), 0)
		g.second()
		d.Close() // nobody holds it: it is deactivated
	}
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "data", Name: "snap", Size: volume.Size{Bytes: mib}}}))
	if p, err := g.Writes("snap"); err != nil || p.Slots != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := g.Writes("nosuch"); err == nil {
		t.Error("a volume that is not there was watched")
	}
	g.Close()
	if len(g.learned) != 1 || g.learned[id] == nil || g.learned[id].Slots != 3 {
		t.Fatalf("learned %v", g.learned)
	}
	next := observe(t, devs, g.learned)
	if p, err := next.Writes("data"); err != nil || p.Slots != 3 || !p.Until.Equal(g.now) {
		t.Errorf("the next process knows %+v, %v", p, err)
	}
	next.Close()
	if len(next.learned) != 0 {
		t.Error("what was not learnt is told")
	}
}

// A machine that was asleep did not watch, and one that was busy did.
func TestWatchCountsSlots(t *testing.T) {
	g, _ := observeData(t)
	d := g.open(t)
	defer d.Close()
	g.second()
	for _, gone := range []time.Duration{1600 * time.Millisecond, 400 * time.Millisecond, time.Hour, -time.Hour} {
		g.now = g.now.Add(gone)
		g.endSlot()
	}
	if p, _ := g.Writes("data"); p.Slots != 1+2+1+1+1 {
		t.Errorf("%d slots", p.Slots)
	}
}

// Status says when a snapshot will be full, once it can.
func TestTimeToFull(t *testing.T) {
	g, _ := observeData(t)
	must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "data", Name: "snap", Size: volume.Size{Bytes: 8 * mib}}}))
	d := g.open(t)
	defer d.Close()
	fullIn := func() *time.Duration { return g.Status().LVs["snap"].Cow.FullIn }
	if d := fullIn(); d != nil {
		t.Errorf("full in %v, after no time", d)
	}
	for i := range int64(64) {
		d.WriteAt(make([]byte, 64*kib), i*64*kib) // 64 KiB and its share of metadata a second
		g.Status()
		g.second()
	}
	if d := fullIn(); d == nil || *d < 55*time.Second || *d > 65*time.Second {
		t.Errorf("full in %v, want a minute", d)
	}
	for range 64 {
		g.second()
	}
	if d := fullIn(); d == nil || *d < 2*time.Minute {
		t.Errorf("full in %v, although nothing is written any more", d)
	}
}

// While volumes come and go and are written to, watching neither races nor
// holds anything up.
func TestWatchInParallel(t *testing.T) {
	g, _ := observeData(t)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				g.second()
				g.Writes("data")
			}
		}
	}()
	for range 50 {
		d := g.open(t)
		for range 20 {
			d.WriteAt(make([]byte, 4096), rand.Int64N(1000)*4096)
		}
		d.Close()
	}
	close(stop)
	<-done
}

// BenchmarkWatching compares writes through a handle with and without a
// recorder, in turns, so that a busy machine slows down both. Memory is the
// fastest device there can be, so that it shows what a recorder costs at most.
func BenchmarkWatching(b *testing.B) {
	g, _ := observeData(b)
	d := g.open(b)
	defer d.Close()
	v := d.(*handle).vol
	recorder := v.writes
	buf := make([]byte, 4096)
	const writes = 500
	times := map[bool][]time.Duration{}
	b.ReportAllocs()
	for n := range 2 * b.N {
		on := n%2 == 1
		if v.writes = nil; on {
			v.writes = recorder
		}
		began := time.Now()
		for i := range writes {
			if _, err := d.WriteAt(buf, int64(n*writes+i)*2654435761%4096*4096); err != nil {
				b.Fatal(err)
			}
		}
		times[on] = append(times[on], time.Since(began)/writes)
	}
	for on, name := range map[bool]string{false: "ns/unwatched", true: "ns/watched"} {
		slices.Sort(times[on])
		b.ReportMetric(float64(times[on][len(times[on])/10]), name)
	}
}
