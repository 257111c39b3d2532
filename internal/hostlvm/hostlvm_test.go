package hostlvm

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// The words are the kernel's, in dm-snap.c's snapshot_status and
// snapshot_merge's.
func TestParseCow(t *testing.T) {
	for text, want := range map[string]Cow{
		"16/2048 16": {Allocated: 16, Total: 2048, Metadata: 16},
		"0/8 0":      {Total: 8},
		"Unknown":    {},
		"":           {},
	} {
		if got, err := parseCow(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, lost := range map[string]bool{"Invalid": true, "Overflow": true, "Merge failed": false} {
		got, err := parseCow(text)
		if err != nil || got.Invalid != lost || got.MergeFailed == lost || got.Reason == "" {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"16/2048", "16 16", "a/b c", "-1/8 0", "1/99999999999999999999 0", "Valid"} {
		if _, err := parseCow(bad); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDecodeReport(t *testing.T) {
	const text = `  {
      "report": [
          {
              "vg": [
                  {"vg_uuid":"IUMPSN-Nngz-bZ0w-XeX1-FASD-b5uH-UoBmpq"}
              ]
          }
      ]
  }
`
	rows, err := decodeReport([]byte(text), "vg")
	if err != nil || column(rows, "vg_uuid") != "IUMPSN-Nngz-bZ0w-XeX1-FASD-b5uH-UoBmpq" {
		t.Errorf("%v, %v", rows, err)
	}
	if rows, err := decodeReport([]byte(`{"report":[{"vg":[]}]}`), "vg"); err != nil || len(rows) != 0 {
		t.Errorf("no group: %v, %v", rows, err)
	}
	for _, bad := range []string{"", "WARNING: x", `{"report":[{"vg":[1]}]}`, `{"report":7}`} {
		if _, err := decodeReport([]byte(bad), "vg"); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"report":[{"vg":[{"vg_uuid":"x","vg_seqno":"3"}]}],"log":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) { _, _ = decodeReport(text, "vg") })
}

// Warnings reach the person, chatter does not.
func TestRemarks(t *testing.T) {
	got := remarks([]byte("  Logical volume \"s\" created.\n  WARNING: This metadata update is NOT backed up.\n" +
		"  Rounding up size to full physical extent 4.00 MiB\n  WARNING: Sum of all snapshot sizes exceeds origin.\n"))
	want := []string{"Rounding up size to full physical extent 4.00 MiB", "WARNING: Sum of all snapshot sizes exceeds origin."}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// lvm2's sums of virtual sizes are noise beside a snapshot; what is left in the
// pool is not. The words are lvm2 2.03.16's, the status is dm-thin.c's pool_status.
func TestPool(t *testing.T) {
	got := slices.DeleteFunc(remarks([]byte("  WARNING: Sum of all thin volume sizes (48.00 MiB) exceeds the size of thin pool vg/pool (40.00 MiB).\n"+
		"  WARNING: You have not turned on protection against thin pools running out of space.\n"+
		"  WARNING: Set activation/thin_pool_autoextend_threshold below 100 to trigger automatic extension of thin pools before they get full.\n"+
		"  WARNING: Remaining free space in metadata of thin pool vg/pool is too low (98.05% >= 96.30%).\n")), isOverprovisioned)
	if len(got) != 1 || !strings.Contains(got[0], "metadata of thin pool") {
		t.Errorf("%q", got)
	}
	u, err := parsePool("2 1024/2048 480/640 - rw no_discard_passdown queue_if_no_space - 1024")
	if err != nil || u != (poolUsage{data: 75, metadata: 50}) {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"", "Fail", "Error", "1 2 3", "1 2/0 3/4", "1 -2/3 3/4", "1 2/3 x/4"} {
		if _, err := parsePool(bad); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What a person types must not become an option of lvm2's, nor another command.
func TestArguments(t *testing.T) {
	for _, c := range []struct {
		size volume.Size
		sign string
		want string
	}{
		{volume.Size{Bytes: 4096}, "", "--size 4096b"},
		{volume.Size{Bytes: 512}, "+", "--size +512b"},
		{volume.Size{Extents: 7}, "+", "--extents +7"},
		{volume.Size{Percent: 50, Of: volume.OfFree}, "", "--extents 50%FREE"},
	} {
		if got := strings.Join(sizeArgs(c.size, c.sign), " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.size, got, c.want)
		}
	}
	pvs, err := pvArgs([]volume.PVRange{{PV: "/dev/sda", Whole: true}, {PV: "@fast", Whole: true}, {PV: "/dev/sdb", Start: 3, End: 9}})
	if err != nil || strings.Join(pvs, " ") != "/dev/sda @fast /dev/sdb:3-9" {
		t.Errorf("%q, %v", pvs, err)
	}
	if _, err := pvArgs([]volume.PVRange{{PV: "--config=x"}}); !errs.Is(err, errs.Usage) {
		t.Errorf("an option is taken for a PV: %v", err)
	}
	if _, err := tagArgs("--addtag", []string{"ok", "-x"}); !errs.Is(err, errs.Usage) {
		t.Errorf("an option is taken for a tag: %v", err)
	}
	if _, _, err := (&lvm{"/bin/true"}).run("pvremove", nil); !errs.Is(err, errs.Usage) {
		t.Errorf("pvremove is run: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	env := environment(func(name string) string {
		return map[string]string{"LVM_SYSTEM_DIR": "/x", "LD_PRELOAD": "evil", "LANG": "de_DE"}[name]
	})
	if !slices.Contains(env, "LC_ALL=C") || !slices.Contains(env, "LVM_SYSTEM_DIR=/x") || len(env) != 5 {
		t.Errorf("%q", env)
	}
}

// A snapshot that cowl made is extended in time; others' are left alone.
func TestGrowth(t *testing.T) {
	g := &Group{o: Options{Growth: volume.Growth{Threshold: 60, Percent: 30}}}
	if got := g.growthOf(&volume.LV{Tags: []string{"nightly"}}); got.Enabled() {
		t.Errorf("another program's snapshot is extended: %+v", got)
	}
	if got := g.growthOf(&volume.LV{Tags: []string{"cowl.backup"}}); got.Threshold != 60 || got.Percent != 30 {
		t.Errorf("not as configured: %+v", got)
	}
	if got := g.growthOf(&volume.LV{Tags: []string{"cowl.autoextend_threshold=100"}}); got.Enabled() {
		t.Errorf("extended against its tags: %+v", got)
	}
}

// A store that fills within seconds has to be extended before its threshold, and
// one burst must not count for ever.
func TestPace(t *testing.T) {
	k, now := &kept{}, time.Unix(0, 0)
	look := func(used int64) {
		now = now.Add(watchEvery)
		k.note(now, used)
	}
	look(100 << 20) // what is there at first says nothing
	if k.pace != 0 {
		t.Errorf("a pace of %.0f after one look", k.pace)
	}
	look(110 << 20)
	if k.pace != 50<<20 {
		t.Errorf("10 MiB in 0.2 s are a pace of %.0f", k.pace)
	}
	for range 60 {
		look(110 << 20)
	}
	if k.pace > 1<<20 {
		t.Errorf("12 s later the pace is %.0f yet", k.pace)
	}
}

// A failed command's words reach the person, with what was run.
func TestFailure(t *testing.T) {
	exit := exec.Command("/bin/sh", "-c", "exit 5").Run()
	err := failure("lvcreate", []string{"--name", "x"}, []byte("  one\n\n  two\n"), exit)
	if err.Error() != "lvm lvcreate: one; two" || errs.HintOf(err) != "The command was: lvm lvcreate --name x" {
		t.Errorf("%v (%s)", err, errs.HintOf(err))
	}
}

func TestRollbackKnowsItsOwn(t *testing.T) {
	if !sameTags([]string{"a", "b"}, []string{"b", "a"}) || sameTags([]string{"a"}, nil) || !sameTags(nil, nil) {
		t.Error("tags are compared wrongly")
	}
}
