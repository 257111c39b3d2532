package volume

import (
	"strings"
	"testing"
)

func TestUUID(t *testing.T) {
	var random [32]byte
	for i := range random {
		random[i] = byte(i * 37)
	}
	id := UUIDFrom(random)
	if !id.Valid() {
		t.Fatalf("UUIDFrom made %q", string(id))
	}
	if back, err := ParseUUID(id.String()); err != nil || back != id {
		t.Errorf("ParseUUID(%q) = %q, %v", id, string(back), err)
	}
	const shown = "qK9gfr-U00g-Fm75-IB3W-6IEr-4424-x2hQfE"
	if id, err := ParseUUID(shown); err != nil || string(id) != strings.ReplaceAll(shown, "-", "") || id.String() != shown {
		t.Errorf("ParseUUID(%q) = %q, %v", shown, string(id), err)
	}
	for _, bad := range []string{"", "abc", shown + "x", "qK9gfr-U00g-Fm75-IB3W-6IEr-4424-x2hQf/", "\x00K9gfrU00gFm75IB3W6IEr4424x2hQfEE"} {
		if id, err := ParseUUID(bad); err == nil {
			t.Errorf("ParseUUID(%q) = %q", bad, string(id))
		}
	}
}

func TestLVNames(t *testing.T) {
	long := strings.Repeat("a", 127)
	for _, good := range []string{"a", "lvol0", "_x", ".x", "a.b-c+d_e", "Snapshot1", "xsnapshot", "mytdata", long} {
		if err := CheckLVName(good); err != nil {
			t.Errorf("CheckLVName(%q): %v", good, err)
		}
	}
	for name, want := range map[string]string{
		"":           `Logical volume name "" is invalid.`,
		"-a":         `Logical volume name "-a" is invalid.`,
		".":          `Logical volume name "." is invalid.`,
		"..":         `Logical volume name ".." is invalid.`,
		"a/b":        `Logical volume name "a/b" is invalid.`,
		"a b":        `Logical volume name "a b" is invalid.`,
		"ä":          `Logical volume name "ä" is invalid.`,
		long + "a":   `Logical volume name "` + long + `a" is invalid.`,
		"snapshot1":  `Names starting "snapshot" are reserved. Please choose a different LV name.`,
		"pvmove":     `Names starting "pvmove" are reserved. Please choose a different LV name.`,
		"x_vorigin":  `Names including "_vorigin" are reserved. Please choose a different LV name.`,
		"x_tmeta_0":  `Names including "_tmeta" are reserved. Please choose a different LV name.`,
		"a_pmspare":  `Names including "_pmspare" are reserved. Please choose a different LV name.`,
		"x_mimage_3": `Names including "_mimage" are reserved. Please choose a different LV name.`,
	} {
		if err := CheckLVName(name); err == nil || err.Error() != want {
			t.Errorf("CheckLVName(%q) = %v, want %q", name, err, want)
		}
	}
	for name, want := range map[string]string{
		"":         "Name is zero length.\n",
		"a b":      "Name contains invalid character, valid set includes: [a-zA-Z0-9.-_+].\n",
		"..":       "Name starts with . or .. and has no following character(s).\n",
		long + "a": "Name length exceeds maximum limit of 127.\n",
	} {
		want += `New volume group name "` + name + `" is invalid.`
		if err := CheckGroupName(name); err == nil || err.Error() != want {
			t.Errorf("CheckGroupName(%q) = %v, want %q", name, err, want)
		}
	}
}

func TestNextLVName(t *testing.T) {
	for _, c := range []struct{ have, want string }{
		{"", "lvol0"}, {"lvol0 lvol1", "lvol2"}, {"lvol3", "lvol4"}, {"lvol7x", "lvol8"}, {"lvol+12", "lvol13"},
		{"lvol0_pmspare", "lvol1"}, {"lvolx home", "lvol0"}, {"lvol-3", "lvol0"}, {"lvol99999999999999999999", "lvol1000000000"},
	} {
		g := &Group{}
		for _, n := range strings.Fields(c.have) {
			g.LVs = append(g.LVs, &LV{Name: n})
		}
		if got := g.NextLVName(); got != c.want {
			t.Errorf("after %q comes %s, want %s", c.have, got, c.want)
		}
	}
}

func TestDMName(t *testing.T) {
	if got := DMName("multimedia", "home-extra"); got != "multimedia-home--extra" {
		t.Error(got)
	}
}
