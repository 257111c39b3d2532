package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"cowl/internal/cli/fields"
	"cowl/internal/format/vgtext"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// The archives in testdata/kernel were recorded on a real kernel: the groups'
// metadata, what device-mapper said of them at that moment, and what lvm
// printed. From the first two our commands must print the third, to the byte.
// What a kernel has and cowl has not is masked in both by name. Sorting by a
// percentage is not compared: lvm 2.03.16 does not sort by its value.

// kernelOnly are the fields whose values are a kernel's.
var kernelOnly = map[string]string{
	"lv_kernel_major":      "device numbers",
	"lv_kernel_minor":      "device numbers",
	"lv_kernel_read_ahead": "the read-ahead of a device",
}

// kernelLines are the lines of lvdisplay that show a kernel's devices.
var kernelLines = []string{"  - currently set to ", "  Block device "}

func TestAgainstRecordedKernel(t *testing.T) {
	files, err := filepath.Glob("testdata/kernel/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { compareRecording(t, file) })
	}
}

func compareRecording(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a := txtar.Parse(text)
	rec := recording{t: t, files: a.Files}
	commands := 0
	for _, f := range a.Files {
		verb, _, _ := strings.Cut(f.Name, " ")
		if !slices.Contains([]string{"lvs", "vgs", "pvs", "lvdisplay", "vgdisplay", "pvdisplay"}, verb) {
			continue
		}
		commands++
		args := strings.Fields(f.Name)
		if i := slices.Index(args, "-S"); i >= 0 { // the rest is one selection
			args = append(args[:i+1], strings.Join(args[i+1:], " "))
		}
		t.Run(strings.ReplaceAll(f.Name, "/", "|"), func(t *testing.T) {
			got := rec.run(args)
			if diff := diffLines(maskKernel(args, string(f.Data)), maskKernel(args, got)); diff != "" {
				t.Errorf("%s\n(- lvm, + cowl)\n%s", f.Name, diff)
			}
		})
	}
	if commands < 10 {
		t.Errorf("only %d commands in the recording", commands)
	}
}

type recording struct {
	t     *testing.T
	files []txtar.File
}

func (r *recording) file(name string) string {
	for _, f := range r.files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	r.t.Fatalf("the recording has no %s", name)
	return ""
}

// run runs one of our commands over the recorded groups.
func (r *recording) run(args []string) string {
	var out, talk bytes.Buffer
	env := &Env{Stdout: &out, Stderr: &talk, Getenv: func(string) string { return "" }, Now: time.Now, Zone: time.UTC}
	a := &app{Env: env, source: func(context.Context) (*fields.Data, error) { return r.data(), nil }}
	if err := a.execute(context.Background(), args); err != nil {
		r.t.Errorf("%v: %v", args, err)
	}
	return out.String()
}

func (r *recording) data() *fields.Data {
	facts := r.pvs()
	d := &fields.Data{}
	for _, f := range r.files {
		if !strings.HasPrefix(f.Name, "vg/") {
			continue
		}
		vg, err := vgtext.Decode(f.Data)
		if err != nil {
			r.t.Fatal(err)
		}
		// What the PVs hold is the text without a backup file's decoration.
		size := int64(len(vgtext.Encode(vg)))
		var pvs []*fields.PV
		for _, meta := range vg.PVs {
			pv := facts[meta.ID]
			pv.PEStart = meta.PEStart
			for i := range pv.MDAs {
				pv.MDAs[i].TextSize = size
			}
			pvs = append(pvs, pv)
		}
		d.Groups = append(d.Groups, fields.NewGroup(vg, r.states(vg), pvs))
	}
	d.Sort()
	return d
}

func (r *recording) pvs() map[volume.UUID]*fields.PV {
	pvs := map[volume.UUID]*fields.PV{}
	for line := range strings.Lines(r.file("pv")) {
		f := strings.Fields(line)
		id, err := volume.ParseUUID(f[1])
		if err != nil {
			r.t.Fatal(err)
		}
		size, _ := strconv.ParseInt(f[2], 10, 64)
		major, _ := strconv.Atoi(f[4])
		minor, _ := strconv.Atoi(f[5])
		pvs[id] = &fields.PV{
			Path: f[0], ID: id, DevSize: size, LabelSize: size, Labelled: true, ExtVersion: 2, InUse: true,
			Major: uint32(major), Minor: uint32(minor), MDAs: []manager.MDAStatus{{Offset: 4096, Size: 1044480}},
		}
	}
	return pvs
}

// states turns what device-mapper said into what a manager says.
func (r *recording) states(vg *volume.Group) map[string]manager.LVStatus {
	devices := map[string]string{} // dm name -> status
	for line := range strings.Lines(r.file("dm")) {
		name, status, _ := strings.Cut(strings.TrimSpace(line), ": ")
		devices[name] = status
	}
	info := map[string][]string{} // dm name -> open count and flags
	for line := range strings.Lines(r.file("open")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		info[f[0]] = f[1:]
	}
	states := map[string]manager.LVStatus{}
	for _, lv := range vg.LVs {
		status, ok := devices[volume.DMName(vg.Name, lv.Name)]
		if !ok {
			continue
		}
		f := info[volume.DMName(vg.Name, lv.Name)]
		s := manager.LVStatus{Suspended: f[1][2] == 's', ReadOnly: f[1][3] == 'r'}
		s.Opens, _ = strconv.Atoi(f[0])
		merging, isOrigin := vg.MergingInto(lv)
		snap, isSnap := vg.SnapshotOf(lv)
		switch {
		case isOrigin:
			s.Merging = merging.Cow.Name
		case isSnap && snap.Segment.Merging && strings.HasSuffix(status, " error"):
			// The origin shows how far the merge is.
			s.Suspended = info[volume.DMName(vg.Name, snap.Origin.Name)][1][2] == 's'
			s.Cow = cowStatus(devices[volume.DMName(vg.Name, snap.Origin.Name)])
		case isSnap:
			s.Cow = cowStatus(status)
			s.Cow.Delayed = snap.Segment.Merging
		}
		states[lv.Name] = s
	}
	return states
}

// cowStatus reads the end of a status line of snapshot or snapshot-merge.
func cowStatus(status string) *manager.CowStatus {
	f := strings.Fields(status)
	if f[len(f)-1] == "Invalid" {
		return &manager.CowStatus{Invalid: true}
	}
	c := &manager.CowStatus{}
	fmt.Sscanf(f[len(f)-2], "%d/%d", &c.Allocated, &c.Total)
	fmt.Sscanf(f[len(f)-1], "%d", &c.Metadata)
	return c
}

// maskKernel takes away from a command's output what only a kernel has.
func maskKernel(args []string, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		skip := slices.ContainsFunc(kernelLines, func(p string) bool { return strings.HasPrefix(line, p) })
		if args[0] == "lvdisplay" && slices.Contains(args, "-c") { // the last two fields are device numbers
			f := strings.Split(strings.TrimSpace(line), ":")
			line = strings.Join(f[:len(f)-2], ":") + "\n"
		}
		for name := range kernelOnly {
			line = maskJSON(line, name)
		}
		if !skip {
			out.WriteString(line)
		}
	}
	return maskColumns(out.String(), "KMaj", "KMin", "KRahead")
}

// maskJSON empties a member of a row.
func maskJSON(line, name string) string {
	before, rest, ok := strings.Cut(line, `"`+name+`":"`)
	if !ok {
		return line
	}
	_, after, _ := strings.Cut(rest, `"`)
	return before + `"` + name + `":"` + after
}

// maskColumns empties columns of a table by their headings. A column may be
// wider on one side than on the other, so spaces are squeezed if there is one.
func maskColumns(text string, headings ...string) string {
	lines := strings.SplitAfter(text, "\n")
	masked := false
	for _, h := range headings {
		start := strings.Index(lines[0], " "+h+" ")
		if start < 0 {
			continue
		}
		masked = true
		end := start + 1 + len(h)
		for end < len(lines[0]) && lines[0][end] == ' ' {
			end++
		}
		for i, line := range lines {
			if len(line) >= end {
				lines[i] = line[:start+1] + line[end-1:]
			}
		}
	}
	if !masked {
		return text
	}
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	return strings.Join(lines, "\n")
}

// diffLines shows the lines that differ, with their numbers.
func diffLines(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var b strings.Builder
	for i := range max(len(w), len(g)) {
		line := func(s []string) string {
			if i < len(s) {
				return s[i]
			}
			return "<end>"
		}
		if a, b2 := line(w), line(g); a != b2 {
			same := 0
			for same < min(len(a), len(b2)) && a[same] == b2[same] {
				same++
			}
			same = max(0, same-40)
			fmt.Fprintf(&b, "%3d - %.150q\n    + %.150q\n", i+1, a[same:], b2[same:])
		}
		if b.Len() > 2000 {
			return b.String() + "...\n"
		}
	}
	return b.String()
}
