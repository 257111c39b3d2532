package manager

import (
	"context"
	"errors"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// owner is a daemon's client: a group that another process runs.
type owner struct {
	Group
	status *Status
	err    error
	closed *int
}

func (o owner) Status(context.Context) (*Status, error) { return o.status, o.err }
func (o owner) Close() error                            { *o.closed++; return nil }

// served returns the rig with a daemon for the group vg, as it is when the
// daemon opens it.
func served(r *rig) (*owner, Group) {
	local := r.open("vg")
	st, err := local.Status(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	st.Owner = 4711
	o := &owner{status: st, closed: new(int)}
	r.o.RunDir = "/run/of/daemons"
	r.o.Dial = func(_ context.Context, runDir, group string) (Group, error) {
		if runDir != "/run/of/daemons" || group != "vg" {
			return nil, errs.E(errs.NotFound, "no daemon")
		}
		return *o, nil
	}
	return o, local
}

// A group that a daemon runs is reached through it, and shown as it says.
func TestServedGroup(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("vg", a)
	r.group("plain", b)
	o, local := served(r)
	r.lv(local, "data", 3)
	if _, err := local.Activate(ctx, "data"); err != nil {
		t.Fatal(err)
	}
	o.status, _ = local.Status(ctx)
	o.status.Owner = 4711

	inv := r.scan()
	r.quiet(inv)
	g := inv.Group("vg")
	if g.Owner != 4711 || len(g.LVs) != 1 || g.PVs[0].Path != a || len(g.PVs[0].MDAs) != 1 {
		t.Errorf("the served group is %+v", g)
	}
	if inv.Group("plain").Owner != 0 {
		t.Error("a group that nobody serves has an owner")
	}
	if *o.closed != 1 {
		t.Errorf("the client was closed %d times by a scan", *o.closed)
	}

	opened, err := r.host().OpenGroup(ctx, "vg")
	if err != nil {
		t.Fatal(err)
	}
	if _, remote := opened.(owner); !remote {
		t.Errorf("the group is a %T", opened)
	}
	_, err = r.host().OpenLocal(ctx, "vg") // what a second daemon would do
	wantErr(t, err, errs.Busy, a)
	_, err = r.host().CreateGroup(ctx, volume.GroupSpec{Name: "vg"}, []string{r.image("c.img", 64*mib)}, PVCreate{})
	wantErr(t, err, errs.Exists, "A volume group called vg")

	// The daemon may see more than the command: other devices, newer metadata.
	r.o.Devices = []string{b}
	wantSummary(t, r.scan(), "plain b.img")
	if g, err := r.host().OpenGroup(ctx, "vg"); err != nil {
		t.Error(err)
	} else {
		r.close(g)
	}
	r.o.Devices = nil
	r.close(local)
}

// What answers at the socket may be another group of the name, or broken.
func TestNotTheGroupsDaemon(t *testing.T) {
	r := newRig(t)
	a := r.image("a.img", 64*mib)
	r.group("vg", a)
	o, local := served(r)
	r.close(local)

	other := o.status.Group.Clone()
	other.ID = testPVID
	o.status.Group = other
	inv := r.scan()
	r.quiet(inv)
	if inv.Groups[0].Owner != 0 || inv.Groups[0].Meta.ID == testPVID {
		t.Error("the state of another group was taken for this one's")
	}
	closed := *o.closed
	_, err := r.host().OpenGroup(ctx, "vg")
	wantErr(t, err, errs.Conflict, "the one that is served (pid 4711) has qK9gfr")
	if *o.closed != closed+1 {
		t.Error("the client was not closed")
	}

	o.err = errors.New("it hangs up")
	inv = r.scan()
	wantSummary(t, inv, "vg a.img")
	if len(inv.Warnings) != 1 || !strings.Contains(inv.Warnings[0], "it hangs up") {
		t.Errorf("warnings: %q", inv.Warnings)
	}
	if _, err := r.host().OpenGroup(ctx, "vg"); err == nil || !strings.Contains(err.Error(), "it hangs up") {
		t.Errorf("OpenGroup: %v", err)
	}
}

// A daemon that comes up while its devices are waited for is the way in.
func TestDaemonComesUpMeanwhile(t *testing.T) {
	r := newRig(t)
	a := r.image("a.img", 64*mib)
	r.group("vg", a)
	o, local := served(r)
	defer local.Close()
	dials := 0
	up := r.o.Dial
	r.o.Dial = func(ctx context.Context, runDir, group string) (Group, error) {
		if dials++; dials < 3 {
			return nil, errs.E(errs.NotFound, "no daemon yet")
		}
		return up(ctx, runDir, group)
	}
	g, err := r.host().OpenGroup(ctx, "vg")
	if err != nil {
		t.Fatal(err)
	}
	if _, remote := g.(owner); !remote || dials < 3 {
		t.Errorf("the group is a %T after %d dials", g, dials)
	}
	_ = o
}
