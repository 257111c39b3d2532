package engine

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/fault"
	"cowl/internal/volume"
)

// What becomes of an origin and its snapshot when one of their devices fails, as
// docs/architecture.md has it in a table. In all cases what was flushed before
// stays, and so does what the snapshot showed as long as it can be read.
func TestFates(t *testing.T) {
	const chunk = 4096
	for _, c := range []struct {
		name    string
		device  string // pv0 has the origin's data, pv1 the store
		ops     fault.Ops
		where   func(g *Group) (off, length int64)
		always  bool
		write   string // what the write says that is to be copied for, "" if it is acknowledged
		flush   string // what its flush says
		lost    string // why the snapshot is lost, "" if it lives
		old     bool   // the origin keeps what it had
		blocked bool   // and refuses all first writes until the snapshot is removed
	}{
		{name: "the origin cannot be read where it has to be copied", device: "pv0", ops: fault.Read, lost: "its origin could not be read"},
		{name: "the origin cannot be written", device: "pv0", ops: fault.Write, flush: "injected", old: true},
		{name: "the origin cannot be flushed", device: "pv0", ops: fault.Flush, flush: "injected"},
		{name: "the store cannot be written", device: "pv1", ops: fault.Write, lost: "its COW device failed (chunk 2)"},
		{name: "the store's area cannot be written", device: "pv1", ops: fault.Write, where: areaOf, lost: "its COW device failed (area 1)"},
		{name: "the store cannot be flushed", device: "pv1", ops: fault.Flush, lost: "its COW device failed (flush)"},
		{name: "the store cannot be written any more", device: "pv1", ops: fault.Write, always: true,
			flush: "its COW device cannot be told so", lost: "its COW device failed (chunk 2)", old: true, blocked: true},
		{name: "the store cannot be flushed any more", device: "pv1", ops: fault.Flush, always: true,
			flush: "its COW device cannot be told so", lost: "its COW device failed (flush)", old: true, blocked: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			devs := memory(2, 4*mib)
			found(t, devs)
			script := fault.New()
			var log bytes.Buffer
			g := mustOpenWith(t, []block.Device{script.Wrap("pv0", devs[0]), script.Wrap("pv1", devs[1])},
				Options{Manual: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
			must(t)(g.Activate(ctx))
			must(t)(g.CreateLV(ctx, lv("a", 2, "pv0")))
			d := opened(t, g, "a")
			write(t, d, 0, 1, 2*extent)
			must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{snapOf("a", "s", 4, "pv1")}))

			r := fault.Rule{Device: c.device, Ops: c.ops, Nth: 1, Always: c.always}
			if c.where != nil {
				r.Off, r.Len = c.where(g)
			}
			script.Add(r)
			says := func(what string, err error, want string) {
				t.Helper()
				if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %q", what, err, want)
				}
			}
			_, err := d.WriteAt(bytes.Repeat([]byte{2}, chunk), 0)
			says("write", err, c.write)
			says("flush", d.Flush(), c.flush)
			if script.Fired() == 0 {
				t.Fatal("the fault did not fire")
			}
			st := g.Status().LVs["s"].Cow
			if st.Invalid != (c.lost != "") || !strings.Contains(st.Reason, c.lost) {
				t.Errorf("status: invalid %v, %q, want %q", st.Invalid, st.Reason, c.lost)
			}
			if said := strings.Contains(log.String(), "snapshot is lost"); said != (c.lost != "") {
				t.Errorf("the log says %q", log.String())
			}
			want := byte(2)
			if c.old {
				want = 1
			}
			expect(t, "a", d, 0, want, chunk)
			expect(t, "a behind it", d, chunk, 1, 2*extent-chunk)
			s := opened(t, g, "s")
			if c.lost == "" {
				expect(t, "s", s, 0, 1, 2*extent)
			} else if _, err := s.ReadAt(make([]byte, 1), extent); err == nil {
				t.Error("a snapshot that is lost can be read")
			}
			closeDev(t, s)
			if c.blocked {
				d.WriteAt([]byte{3}, extent)
				says("another flush", d.Flush(), "cannot be told so")
				script.Clear()
				must(t)(g.RemoveLVs(ctx, []string{"s"}))
			}
			script.Clear()
			write(t, d, 0, 4, 2*extent)
			if err := d.Flush(); err != nil {
				t.Errorf("when all works again: %v", err)
			}
			expect(t, "a when all works again", d, 0, 4, 2*extent)
		})
	}
}

// areaOf is where the first area of the store lies on its PV.
func areaOf(g *Group) (off, length int64) {
	m := g.Model()
	at := m.LV("s").Segments[0].Stripes[0].Start
	return m.PVs[1].PEStart.Bytes() + m.ExtentBytes(at) + 4096, 4096
}
