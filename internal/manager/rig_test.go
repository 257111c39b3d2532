package manager

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

const mib = 1 << 20

var ctx = context.Background()

// random is a source of bytes of its own for each rig.
type random struct{ *rand.Rand }

func (r random) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

// rig is a user's world in a directory of its own.
type rig struct {
	t   testing.TB
	dir string
	env map[string]string
	o   HostOptions
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, dir: t.TempDir(), env: map[string]string{}}
	uid := 1000
	r.env["XDG_STATE_HOME"] = filepath.Join(r.dir, "state")
	r.o = HostOptions{
		Getenv: func(k string) string { return r.env[k] }, UID: &uid,
		Random: random{rand.New(rand.NewPCG(1, 2))}, Command: "test command", Program: "cowl test",
		Wait: 300 * time.Millisecond,
	}
	return r
}

func (r *rig) host() *Host { return NewHost(r.o) }

// image makes an empty disk image.
func (r *rig) image(name string, size int64) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// group makes a group of new images.
func (r *rig) group(name string, images ...string) {
	r.t.Helper()
	if _, err := r.host().CreateGroup(ctx, volume.GroupSpec{Name: name}, images, PVCreate{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) open(name string) Group {
	r.t.Helper()
	g, err := r.host().OpenGroup(ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

func (r *rig) scan() *Inventory {
	r.t.Helper()
	inv, err := r.host().Scan(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return inv
}

// lv makes a volume of so many extents.
func (r *rig) lv(g Group, name string, extents volume.Extents) {
	r.t.Helper()
	if _, err := g.CreateLV(ctx, volume.LVSpec{Name: name, Size: volume.Size{Extents: extents}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) close(g Group) {
	r.t.Helper()
	if err := g.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// quiet fails if the inventory has warnings.
func (r *rig) quiet(inv *Inventory) {
	r.t.Helper()
	if len(inv.Warnings) > 0 {
		r.t.Errorf("warnings:\n%s", strings.Join(inv.Warnings, "\n"))
	}
}

// wantErr checks an error's kind and a part of its text.
func wantErr(t testing.TB, err error, kind errs.Kind, part string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want %q", part)
	} else if errs.KindOf(err) != kind || !strings.Contains(err.Error(), part) {
		t.Errorf("error %q of kind %v; want %v with %q", err, errs.KindOf(err), kind, part)
	}
}

// summary describes an inventory in a line a group and an orphan.
func summary(inv *Inventory) []string {
	var out []string
	for _, g := range inv.Groups {
		line := g.Meta.Name
		for _, pv := range g.PVs {
			line += " " + filepath.Base(pv.Path)
		}
		for _, lv := range g.Meta.LVs {
			line += fmt.Sprintf(" %s:%d", lv.Name, lv.Extents())
		}
		out = append(out, line)
	}
	for _, pv := range inv.Orphans {
		out = append(out, "- "+filepath.Base(pv.Path))
	}
	return out
}

func wantSummary(t testing.TB, inv *Inventory, want ...string) {
	t.Helper()
	if got := summary(inv); !slices.Equal(got, want) {
		t.Errorf("inventory is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// fill writes a pattern that depends on the byte's place.
func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i) ^ seed
	}
	return b
}

func (r *rig) write(g Group, name string, data []byte) {
	r.t.Helper()
	dev, err := g.Open(ctx, name, false)
	if err != nil {
		r.t.Fatal(err)
	}
	defer dev.Close()
	if _, err := dev.WriteAt(data, 0); err != nil {
		r.t.Fatal(err)
	}
	if err := dev.Flush(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) verify(g Group, name string, data []byte) {
	r.t.Helper()
	dev, err := g.Open(ctx, name, true)
	if err != nil {
		r.t.Fatal(err)
	}
	defer dev.Close()
	got := make([]byte, len(data))
	if _, err := dev.ReadAt(got, 0); err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		r.t.Errorf("%s: other bytes than were written", name)
	}
}
