package cli

import (
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/lvmtest"
)

// TestMessagesAreLVMs gives lvm and cowl commands that must fail, on the same
// devices: what lvm says, and its exit code, must be ours. cowl may say more.
// Commands behind an = are lvm's alone; they make the next ones fail.
func TestMessagesAreLVMs(t *testing.T) {
	t.Parallel()
	l := lvmtest.New(t)
	const mib = 1 << 20
	devs, _ := l.Create(64*mib, 64*mib, 32*mib, 1*mib, 32*mib)
	b := &bench{t: t, lvm: l, devs: devs, dir: t.TempDir()}
	for _, cmd := range strings.Split(strings.TrimSpace(failing), "\n") {
		cmd, forLVM := strings.CutPrefix(cmd, "= ")
		cmd = regexp.MustCompile(`\$\d`).ReplaceAllStringFunc(cmd, func(s string) string { n, _ := strconv.Atoi(s[1:]); return devs[n] })
		args := strings.Fields(cmd)
		if forLVM {
			l.Run(args...)
			continue
		}
		wantOut, wantTalk, err := l.Try(args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Errorf("%s: lvm does not fail: %v\n%s%s", cmd, err, wantOut, wantTalk)
			continue
		}
		out, talk, code := b.run(args...)
		if code != exit.ExitCode() {
			t.Errorf("%s: exit code %d, lvm's %d\ncowl:\n%slvm:\n%s", cmd, code, exit.ExitCode(), talk, wantTalk)
			continue
		}
		if missing := notIn(wantTalk, talk); missing != "" {
			t.Errorf("%s: stderr lacks lvm's\n%sit is\n%s", cmd, missing, talk)
		}
		if missing := notIn(wantOut, out); missing != "" {
			t.Errorf("%s: stdout lacks lvm's\n%sit is\n%s", cmd, missing, out)
		}
	}
}

// noise is what lvm says of its own circumstances, and the syntax and help that it prints
// before some errors; cowl's own help has other words.
var noise = regexp.MustCompile(`^  (Run .* --help|/dev/mapper/control|Failure to communicate|Check that device-mapper|Incompatible libdevmapper|Correct command syntax|Nearest similar|` +
	`No command with matching syntax|Use 'help' for selection|WARNING: .* not zeroed|WARNING: Skipping zeroing|[a-z]+ .*\.\.\.$|[a-z]+ --merge|Merge |lvextend -L.*|Extend an LV |WARNING: This metadata update)|^    |^  -+$|^  [A-Z][A-Za-z ]+ Fields$|^ *$|^  Selection op|^  Reserved|^  Comparison|^  Logical and`)

// notIn returns the lines of want that are not among those of got, in order.
func notIn(want, got string) string {
	have := strings.Split(got, "\n")
	var missing strings.Builder
	for line := range strings.Lines(want) {
		line = strings.TrimSuffix(line, "\n")
		if noise.MatchString(line) {
			continue
		}
		found := false
		for i, h := range have {
			if strings.TrimSpace(h) == strings.TrimSpace(line) {
				have, found = have[i+1:], true
				break
			}
		}
		if !found {
			missing.WriteString(line + "\n")
		}
	}
	return missing.String()
}

const failing = `
= vgcreate vg $0
= vgcreate other $1
= pvcreate $2
= lvcreate -an -Zn -L 20m -n root vg
= lvcreate -an -Zn -L 4m -n x other
pvs /dev/nosuch
pvdisplay /dev/nosuch
pvs $3
vgs nosuch
vgs nosuch vg
vgdisplay nosuch
lvs nosuch
lvs vg/nosuch
lvs a/b/c
vgs vg/root
lvdisplay vg/nosuch
lvs --foo
lvs --units x
lvs --reportformat xml
lvs -O foo
lvs -o foo
lvs -S foo=1
lvs -S lv_name
lvs -S lv_name=l)
lvs -S lv_size=4x
lvs -S lv_size=~4
lvs -S seg_count=abc
lvs -S (lv_name=l
lvs -S !lv_name=l
lvs -S lv_name<l
lvs -S vg_tags=[a
lvs -S lv_tags={a,b||c}
lvs -S lv_time>foo
lvs -o pv_name,lv_name
vgs -o pv_name,lv_name
lvdisplay -c -m
pvcreate $0
pvcreate /dev/nosuch
pvcreate $3
pvremove $0
pvremove /dev/nosuch
vgcreate vg $2
vgcreate a@b $2
vgcreate new $0
vgcreate -s 4x new $2
vgcreate --addtag b@d new $2
vgcreate new /dev/nosuch
vgextend nosuch $2
vgextend vg $0
vgextend vg /dev/nosuch
vgreduce vg $0
vgreduce vg /dev/nosuch
vgreduce vg $2
vgreduce vg
lvcreate -L 400m vg
lvcreate -L 4m -n root vg
lvcreate -L 4m -n snapshot1 vg
lvcreate -L 4m -n a@b vg
lvcreate -L 4m -n a_tmeta vg
lvcreate -L 4x vg
lvcreate -L -4 vg
lvcreate -L 0 vg
lvcreate -l 0 vg
lvcreate -l 4%FOO vg
lvcreate -l 1%FREE vg
lvcreate -L 4 -l 3 vg
lvcreate -L 4 nosuch
lvcreate -L 4 -p x vg
lvcreate -L 4 vg/lv
lvcreate -L 4 -n other/a vg
lvcreate -L 4m vg $1
lvcreate -L 4m vg $0:0-1
lvcreate -n a -n b -l1 vg
lvcreate -s -L 4 -c 3k vg/root
lvcreate -s -L4m -n root vg/root
lvcreate -s -L4m -n q vg
lvcreate
lvextend -L 4m vg/root
lvextend -L 20m vg/root
lvextend -l +1000 vg/root
lvextend -L +10t vg/root
lvextend -l 50%LV vg/root
lvextend -l +50%ORIGIN vg/root
lvextend -L +4m vg/root $1
lvextend -L +8m vg/root $0:9-9
lvextend -L +4m vg/root $0:99-100
lvextend vg/root
lvextend -L +4m
lvextend -L +4m vg
lvextend -L +4m vg/nosuch
lvextend -L +4m nosuch/root
lvextend -L +4m a/b/c
lvextend -L -4m vg/root
lvextend -l -4 vg/root
lvextend -L 0 vg/root
lvextend -L +0 vg/root
lvextend -l +0 vg/root
lvextend -L 4x vg/root
lvextend -l 4%FOO vg/root
lvextend -L +4m -l +3 vg/root
lvextend -L +4m vg/root nosuch
lvremove vg/nosuch
lvremove nosuch
lvremove
lvchange -p x vg/root
lvchange -ay -an vg/root
lvchange -an vg/nosuch
lvchange vg/root
lvchange --addtag a@b vg/root
lvchange --deltag x vg/nosuch
= lvchange -p r vg/root
lvchange -p r vg/root
vgchange -an nosuch
vgchange vg
lvconvert --merge vg/nosuch
lvconvert --merge
vgremove nosuch
vgremove vg
vgremove
= vgextend vg $4
vgreduce -a nosuch
vgextend vg $4
= vgexport other
lvs other
lvcreate -L 4m other
lvremove -y other/x
lvchange -p r other/x
vgchange -an other
vgremove -y other
vgextend other $2
`
