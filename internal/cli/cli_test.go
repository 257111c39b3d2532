package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

func TestSplitName(t *testing.T) {
	for arg, want := range map[string]lvName{
		"vg":                                 {"vg", ""},
		"vg/lv":                              {"vg", "lv"},
		"vg/":                                {"vg", ""},
		"/dev/vg":                            {"vg", ""},
		"/dev/vg/lv":                         {"vg", "lv"},
		"/dev/mapper/vg-lv":                  {"vg", "lv"},
		"/dev/mapper/multimedia-home--extra": {"multimedia", "home-extra"},
		"/dev/mapper/a--b-c--d":              {"a-b", "c-d"},
		"/dev/mapper/a----b-c":               {"a--b", "c"},
	} {
		got, err := splitName(arg)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", arg, got, err)
		}
		if want.LV == "" {
			continue
		}
		if back, err := splitName("/dev/mapper/" + volume.DMName(want.VG, want.LV)); err != nil || back != want {
			t.Errorf("%v under /dev/mapper: %+v, %v", want, back, err)
		}
	}
	for _, arg := range []string{"", "/", "a/b/c", "/dev/", "/dev/vg/lv/x", "vg//lv", "/dev/mapper/vg", "/dev/mapper/a-b-c", "/dev/mapper/-a", "/vg/lv"} {
		if got, err := splitName(arg); err == nil {
			t.Errorf("%q is taken for %+v", arg, got)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errs.E(errs.Usage, "x"), 3},
		{fmt.Errorf("wrapped: %w", errs.E(errs.Usage, "x")), 3},
		{errs.WithHint(coded{errs.E(errs.Usage, "x"), exitNoCommand}, "y"), 2},
		{errs.E(errs.NotFound, "x"), 5},
		{errs.E(errs.Corrupt, "x"), 5},
		{fs.ErrPermission, 5},
		{errors.New("x"), 5},
		{errSilent, 5},
		{context.Canceled, 5},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v ends with %d, want %d", c.err, got, c.want)
		}
	}
}

// TestErrorsEndWithTheHint: what to do next stands below what went wrong, on a
// line of its own.
func TestErrorsEndWithTheHint(t *testing.T) {
	var out, talk bytes.Buffer
	a := &app{Env: &Env{Stdout: &out, Stderr: &talk}}
	code := a.finish(errs.WithHint(errs.E(errs.Busy, "one\ntwo"), "Do %s.", "this"))
	if want := "  one\n  two\n  Do this.\n"; code != 5 || talk.String() != want || out.Len() > 0 {
		t.Errorf("%d %q", code, talk.String())
	}
}

func TestConfirm(t *testing.T) {
	for _, c := range []struct {
		name, answers    string
		interactive, yes bool
		quiet            int
		want             bool
		talk             string
	}{
		{name: "nobody there", want: false, talk: "Sure? [y/n]: [n]\n"},
		{name: "--yes", yes: true, want: true},
		{name: "-qq", quiet: 2, interactive: true, answers: "y\n", want: false, talk: "Sure? [y/n]: [n]\n"},
		{name: "yes", interactive: true, answers: "y\n", want: true, talk: "Sure? [y/n]: "},
		{name: "no", interactive: true, answers: "no\n", want: false, talk: "Sure? [y/n]: "},
		{name: "nonsense, then yes", interactive: true, answers: "perhaps\n YES \n", want: true, talk: "Sure? [y/n]: WARNING: Invalid input. Sure? [y/n]: "},
		{name: "end of input", interactive: true, answers: "perh", want: false, talk: "Sure? [y/n]: [n]\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var talk bytes.Buffer
			a := &app{Env: &Env{Stdin: strings.NewReader(c.answers), Stderr: &talk, Interactive: c.interactive}, yes: c.yes, quiet: c.quiet}
			got, err := a.confirm("Sure?")
			if got != c.want || err != nil || talk.String() != c.talk {
				t.Errorf("%v, %v, %q", got, err, talk.String())
			}
		})
	}
}

func TestOptionArguments(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // of what stderr must hold; the command line is wrong
	}{
		{"lvcreate -L 4x vg", "Invalid argument for --size: 4x"},
		{"lvcreate -L -4 vg", "Size may not be negative."},
		{"lvcreate -L 0 vg", "--size may not be zero."},
		{"lvcreate -l 0 vg", "--extents may not be zero."},
		{"lvcreate -l 5%FOO vg", "Specified %FOO is unknown."},
		{"lvcreate -L 4 -l 3 vg", "Please specify either size or extents (not both)."},
		{"lvcreate -L 4 -p x vg", "Invalid argument for --permission: x"},
		{"lvcreate -L 4 -a z vg", "Invalid argument for --activate: z"},
		{"lvcreate -L 4 -n a -n b vg", "Option -n/--name may not be repeated."},
		{"lvcreate -L 4 --type thin vg", "Invalid argument for --type: thin"},
		{"lvcreate -L 4 --addtag a@b vg", "Invalid argument for --addtag: a@b"},
		{"lvcreate -L 4 -n other/a vg", `Inconsistent volume group names given: "other" and "vg"`},
		{"lvcreate -L 4 vg/lv", "Volume group name expected (no slash)"},
		{"lvcreate -L 4 -c 8k vg", "-c is only available with snapshots."},
		{"lvcreate -s -L 4 -c 3k vg/lv", "Chunk size must be a power of 2 in the range 4K to 512K."},
		{"lvcreate -s -L 4 vg", "The origin name should include the volume group."},
		{"lvcreate", "No command with matching syntax recognised."},
		{"lvcreate -L", "option requires an argument -- 'L'"},
		{"lvextend vg/lv", "No command with matching syntax recognised."},
		{"lvextend -L +4 -l +3 vg/lv", "Please specify either size or extents but not both."},
		{"lvextend -l +0 vg/lv", "--extents may not be zero."},
		{"lvextend -L -4 vg/lv", "Size may not be negative."},
		{"lvextend -L +4 vg", "Please specify a logical volume path."},
		{"lvchange vg/lv", "No command with matching syntax recognised."},
		{"lvchange -ay -an vg/lv", "Option -a/--activate may not be repeated."},
		{"vgchange vg", "No command with matching syntax recognised."},
		{"vgchange -ay vg/lv", "Invalid volume group name vg/lv."},
		{"vgcreate vg", "No command with matching syntax recognised."},
		{"vgcreate a@b disk", "New volume group name \"a@b\" is invalid."},
		{"vgcreate -s 3k vg disk", "Invalid argument for --physicalextentsize: 3k"},
		{"pvcreate --metadatacopies 3 disk", "Invalid argument for --metadatacopies: 3"},
		{"vgreduce vg", "No command with matching syntax recognised."},
		{"lvconvert vg/lv", "No command with matching syntax recognised."},
		{"lvconvert --merge -i x vg/lv", "Invalid argument for --interval: x"},
		{"lvs --units x", "Invalid units specification"},
		{"lvs --reportformat xml", "Invalid argument for --reportformat: xml"},
		{"lvs --uni", "option '--units' requires an argument"},
		{"lvs --un b", "option '--un' is ambiguous; possibilities: '--unbuffered' '--units' '--unquoted'"},
		{"lvdisplay -c -m", "Options -c and -m are incompatible."},
		{"vgs vg0/root", "Invalid volume group name vg0/root."},
		{"lvs -Z", "lvs: invalid option -- 'Z'"},
	} {
		var out, talk bytes.Buffer
		env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk, Now: time.Now, Zone: time.UTC,
			Getenv: func(name string) string {
				return map[string]string{"COWL_DEVICES": "/nonexistent", "COWL_STATE_DIR": t.TempDir()}[name]
			}}
		code := Main(t.Context(), env, strings.Fields(c.args))
		if code != exitUsage || !strings.Contains(talk.String(), c.want) || out.Len() > 0 {
			t.Errorf("%s: exit code %d, stderr %q, stdout %q", c.args, code, talk.String(), out.String())
		}
	}
}

func TestProgressWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	clock := time.Unix(0, 0)
	c := &merging{app: &app{Env: &Env{Stdout: &out, Now: func() time.Time { return clock }}}}
	p := c.mergeProgress("vg/lv", c.interval)
	for _, percent := range []float64{0, 1, 2} {
		p.show(percent)
		clock = clock.Add(10 * time.Second)
	}
	p.show(100)
	p.show(100)
	p.stop()
	if want := "  vg/lv: Merged: 0.00%\n  vg/lv: Merged: 2.00%\n  vg/lv: Merged: 100.00%\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
}

// unwatched is a group of which no writes are known, and that is asked for
// nothing else.
type unwatched struct{ manager.Group }

func (unwatched) Writes(context.Context, string) (*forecast.Pattern, error) {
	return &forecast.Pattern{}, nil
}
func (unwatched) Close() error { return nil }

// TestDryGroup: under --test every change keeps the rules and no change stays.
func TestDryGroup(t *testing.T) {
	ctx := t.Context()
	vg, err := volume.NewGroup(volume.GroupSpec{Name: "vg", PVs: []volume.PVSpec{
		{ID: randomID(), Device: "/d0", DevSize: 200 << 11, PEStart: 2048}, {ID: randomID(), Device: "/d1", DevSize: 100 << 11, PEStart: 2048},
	}}, volume.Stamp{NewID: randomID})
	if err != nil {
		t.Fatal(err)
	}
	d := &dryGroup{real: unwatched{}, stamp: volume.Stamp{NewID: randomID}, status: &manager.Status{
		Group: vg, PVs: []manager.PVStatus{{Path: "/d0"}, {Path: "/d1"}},
	}}
	must := func(r *manager.Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wrong := func(kind errs.Kind, r *manager.Result, err error) {
		t.Helper()
		if !errs.Is(err, kind) {
			t.Errorf("%v, want %v", err, kind)
		}
	}
	size := func(mib int64) volume.Size { return volume.Size{Bytes: mib << 20} }
	must(d.CreateLV(ctx, volume.LVSpec{Name: "a", Size: size(20), PVs: []volume.PVRange{{PV: "/d1", Whole: true}}}))
	_, err = d.CreateLV(ctx, volume.LVSpec{Name: "a", Size: size(20)})
	wrong(errs.Exists, nil, err)
	_, err = d.CreateLV(ctx, volume.LVSpec{Name: "b", Size: size(20), PVs: []volume.PVRange{{PV: "/d9", Whole: true}}})
	wrong(errs.NotFound, nil, err)
	_, err = d.CreateLV(ctx, volume.LVSpec{Name: "b", Size: size(9000)})
	wrong(errs.NoSpace, nil, err)
	must(d.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "a", Name: "s", Size: size(8)}}))
	must(d.ExtendLV(ctx, volume.ExtendSpec{Name: "a", Size: size(4), Relative: true, PVs: []volume.PVRange{{PV: "/d1", Whole: true}}}))
	_, err = d.ExtendLV(ctx, volume.ExtendSpec{Name: "a", Size: size(4), PVs: []volume.PVRange{{PV: "/d9", Whole: true}}})
	wrong(errs.NotFound, nil, err)
	must(d.SetReadOnly(ctx, "a", true))
	must(d.Activate(ctx, "a", "s"))
	_, err = d.Deactivate(ctx, "nosuch")
	wrong(errs.NotFound, nil, err)
	_, err = d.RemovePVs(ctx, []string{"/d1"})
	wrong(errs.Busy, nil, err)
	must(d.Merge(ctx, volume.MergeSpec{Name: "s"}))
	must(d.RemoveLVs(ctx, []string{"a"}))
	must(d.RemovePVs(ctx, []string{"/d1"}))
	must(d.AddPVs(ctx, []string{"/d2"}))
	_, err = d.AddPVs(ctx, []string{"/d0"})
	wrong(errs.Exists, nil, err)
	must(d.RemoveGroup(ctx))
	if _, err := d.Open(ctx, "a", true); !errs.Is(err, errs.Unsupported) {
		t.Errorf("Open: %v", err)
	}
	if len(vg.LVs) != 0 || len(vg.PVs) != 2 {
		t.Error("the group itself was changed")
	}
}

// TestCompletion: names of what exists, and of fields.
func TestCompletion(t *testing.T) {
	b := &bystander{t: t, dir: t.TempDir()}
	b.group()
	for args, want := range map[string][]string{
		"lvs ":          {"vg", "vg/lv", "vg/snap"},
		"lvremove vg/s": {"vg/snap"},
		"vgchange -ay ": {"vg"},
		"pvs ":          {"disk.img"},
		"lvs -o +s":     {"+snap_percent", "+seg_count"},
		"lvcr":          {"lvcreate"},
	} {
		out, _, _ := b.run(append([]string{"__complete"}, strings.Split(args, " ")...)...)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%q completes to %q, want %s", args, out, w)
			}
		}
	}
}
