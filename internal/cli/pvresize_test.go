package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"cowl/internal/judge"
	"cowl/internal/lvmtest"
)

// resizes are steps on $0, a PV of a group with 40 MiB, $1, one with two metadata
// areas, $2, one of no group, and $3, which is none. Steps behind an = are the
// devices'.
const resizes = `
pvresize $0
= truncate 0 61M
pvresize -t $0
pvresize $0
pvresize $0
= truncate 2 50M
pvresize $0 $2
pvresize --setphysicalvolumesize 50M $0
pvresize -y --setphysicalvolumesize 50M $0
pvresize -y --setphysicalvolumesize 61M $0
pvresize -y --setphysicalvolumesize 100M $0
pvresize -y --setphysicalvolumesize 30M $2
pvresize -y --setphysicalvolumesize 1M $2
pvresize $2
pvresize $0
= lvm lvcreate -an -Zn -l 2 -n x vg $0:3-4
pvresize -y --setphysicalvolumesize 12M $0
pvresize -y --setphysicalvolumesize 20M $0
= lvm lvcreate -an -Zn -l 3 -n y vg $0:0-2
pvresize -y --setphysicalvolumesize 12M $0
pvresize -y --setphysicalvolumesize 1M $0
pvresize -y --setphysicalvolumesize 2M $0
pvresize -y --setphysicalvolumesize 21M $0 $2
pvresize -y --setphysicalvolumesize 0 $0
pvresize --setphysicalvolumesize 5x $0
pvresize /dev/nosuch
pvresize $0 /dev/nosuch
pvresize $3
pvresize nosuch
pvresize
`

// What pvresize says, its exit code, and the PVs that it leaves, are lvm's: both
// do each step from the same beginning.
func TestPVResizeIsLVMs(t *testing.T) {
	t.Parallel()
	l := lvmtest.New(t)
	const mib = 1 << 20
	devs, images := l.Create(40*mib, 40*mib, 40*mib, 40*mib)
	b := &bench{t: t, lvm: l, devs: devs, dir: t.TempDir()}
	l.Run("vgcreate", "vg", devs[0])
	l.Run("pvcreate", "--metadatacopies", "2", devs[1])
	l.Run("vgextend", "vg", devs[1])
	l.Run("pvcreate", devs[2])
	for step := range strings.Lines(strings.TrimSpace(resizes)) {
		step = regexp.MustCompile(`\$\d`).ReplaceAllStringFunc(strings.TrimSpace(step), func(s string) string { return devs[s[1]-'0'] })
		args := strings.Fields(step)
		switch {
		case args[0] == "=" && args[1] == "lvm":
			l.Run(args[2:]...)
			continue
		case args[0] == "=":
			i := args[2][0] - '0'
			if out, err := exec.Command("truncate", "-s", args[3], images[i]).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if out, err := exec.Command(judge.Find("losetup"), "--set-capacity", devs[i]).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			continue
		}
		before := heads(t, devs)
		wantOut, wantTalk, err := l.Try(args...)
		wantCode := 0
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			wantCode = exit.ExitCode()
		}
		want := pvsLeft(l, t, devs)
		for i, dev := range devs {
			if err := os.WriteFile(dev, before[i], 0); err != nil {
				t.Fatal(err)
			}
		}
		out, talk, code := b.run(args...)
		if code != wantCode {
			t.Errorf("%s: exit code %d, lvm's %d\ncowl:\n%slvm:\n%s", step, code, wantCode, talk, wantTalk)
		}
		if got := pvsLeft(l, t, devs); got != want {
			t.Errorf("%s leaves\n%s\nafter lvm's it is\n%s", step, got, want)
		}
		if missing := notIn(lines(wantTalk), lines(talk)); missing != "" {
			t.Errorf("%s: stderr lacks lvm's\n%sit is\n%s", step, missing, talk)
		}
		if missing := notIn(wantOut, out); missing != "" {
			t.Errorf("%s: stdout lacks lvm's\n%sit is\n%s", step, missing, out)
		}
	}
	out, talk, code := b.run("pvresize", devs[1])
	if code == 0 || !strings.Contains(talk, "second metadata area") || !strings.Contains(out, "0 physical volume(s) resized or updated / 1") {
		t.Errorf("two areas: exit code %d\n%s%s", code, out, talk)
	}
}

// lines ends an unanswered question with its line. lvm also repeats with every
// command that a device is smaller than its PV, as cowl does in listings.
func lines(talk string) string {
	talk = regexp.MustCompile(`(?m)^.*(Was device resized\?|have changed sizes\.)\n`).ReplaceAllString(talk, "")
	return strings.ReplaceAll(talk, "[y/n]: [n]", "[y/n]: [n]\n")
}

// heads returns what the devices hold before their extents.
func heads(t *testing.T, devs []string) [][]byte {
	t.Helper()
	var all [][]byte
	for _, dev := range devs {
		f, err := os.Open(dev)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		head := make([]byte, 1<<20)
		if _, err := io.ReadFull(f, head); err != nil {
			t.Fatal(err)
		}
		all = append(all, head)
	}
	return all
}

// pvsLeft returns what lvm and the labels say of the PVs.
func pvsLeft(l *lvmtest.LVM, t *testing.T, devs []string) string {
	t.Helper()
	var all strings.Builder
	all.WriteString(l.Run("pvs", "-o", "pv_name,vg_name,pv_size,dev_size,pe_start,pv_pe_count,pv_pe_alloc_count", "--units", "s"))
	backup := t.TempDir() + "/vg"
	l.Run("vgcfgbackup", "-f", backup, "vg")
	text, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "dev_size") || strings.Contains(line, "pe_count") || strings.Contains(line, "pe_start") {
			all.WriteString(line)
		}
	}
	for _, head := range heads(t, devs) {
		all.WriteString(strings.ToValidUTF8(string(head[512+32+32:512+32+40]), "?") + "|")
	}
	return all.String()
}
