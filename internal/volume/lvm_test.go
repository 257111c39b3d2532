package volume

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cowl/internal/lvmtest"
)

// TestAllocationIsLVMs runs the same random commands through lvm2 and the
// model, and wants the same layout of every volume, and the same refusals.
func TestAllocationIsLVMs(t *testing.T) {
	rounds, steps := 2, 25
	if os.Getenv("COWL_LONG") != "" {
		rounds, steps = 40, 60
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("COWL_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	for i := range rounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Logf("COWL_SEED=%d", seed+uint64(i))
			compareAllocations(t, rand.New(rand.NewPCG(seed+uint64(i), 0)), steps)
		})
	}
}

// judged is a group that exists twice: in lvm2 and as a model.
type judged struct {
	t    *testing.T
	rng  *rand.Rand
	lvm  *lvmtest.LVM
	devs []string
	g    *Group
	log  []string
}

func compareAllocations(t *testing.T, rng *rand.Rand, steps int) {
	j := &judged{t: t, rng: rng, lvm: lvmtest.New(t)}
	sizes := make([]int64, 2+rng.IntN(3))
	spec := GroupSpec{Name: "vg"}
	for i := range sizes {
		sizes[i] = (1 + 4*int64(3+rng.IntN(20))) << 20
	}
	j.devs, _ = j.lvm.Create(sizes...)
	for i, d := range j.devs {
		spec.PVs = append(spec.PVs, PVSpec{ID: testID(), Device: d, DevSize: Sectors(sizes[i] >> 9), PEStart: 2048})
	}
	args := []string{"vgcreate", "vg"}
	if rng.IntN(4) == 0 {
		spec.Allocation = []string{AllocContiguous, AllocCling, AllocAnywhere}[rng.IntN(3)]
		args = append(args, "--alloc", spec.Allocation)
	}
	j.lvm.Run(append(args, j.devs...)...)
	g, err := NewGroup(spec, testStamp())
	if err != nil {
		t.Fatal(err)
	}
	j.g = g
	j.log = append(j.log, fmt.Sprint(args, sizes))
	for range steps {
		j.step()
		if t.Failed() {
			t.Logf("commands:\n%s", strings.Join(j.log, "\n"))
			return
		}
	}
}

func (j *judged) step() {
	names := []string{}
	for _, lv := range j.g.LVs {
		names = append(names, lv.Name)
	}
	switch k := j.rng.IntN(10); {
	case k < 2 && len(names) > 1:
		name := names[j.rng.IntN(len(names))]
		c, err := j.g.RemoveLV(name)
		j.both(c, err, "lvremove", "-ff", "vg/"+name)
	case k < 6 && len(names) > 0:
		j.extend(names[j.rng.IntN(len(names))])
	default:
		j.create()
	}
}

func (j *judged) create() {
	spec := LVSpec{}
	text := ""
	spec.Size, text = j.size(false)
	args := []string{"lvcreate", "-an", "-Zn", "-Wn", "-l", text}
	if j.rng.IntN(6) == 0 {
		spec.Contiguous = true
		args = append(args, "-Cy")
	}
	pvs, names := j.pvs()
	spec.PVs = pvs
	c, err := j.g.CreateLV(spec, testStamp())
	j.both(c, err, append(append(args, "vg"), names...)...)
}

func (j *judged) extend(name string) {
	spec := ExtendSpec{Name: name, Relative: true}
	text := ""
	spec.Size, text = j.size(true)
	pvs, names := j.pvs()
	spec.PVs = pvs
	c, err := j.g.ExtendLV(spec)
	j.both(c, err, append([]string{"lvextend", "-l+" + text, "vg/" + name}, names...)...)
}

func (j *judged) size(extend bool) (Size, string) {
	of := []SizeOf{OfFree, OfFree, OfVG, OfPVs}
	if extend {
		of = append(of, OfLV)
	}
	if j.rng.IntN(4) == 0 {
		s := Size{Percent: 1 + j.rng.Uint64N(110), Of: of[j.rng.IntN(len(of))]}
		return s, fmt.Sprintf("%d%%%s", s.Percent, s.Of)
	}
	n := Extents(1 + j.rng.Uint64N(6))
	if j.rng.IntN(4) == 0 {
		n += Extents(j.rng.Uint64N(uint64(j.g.Free() + 2)))
	}
	return Size{Extents: n}, fmt.Sprint(n)
}

func (j *judged) pvs() ([]PVRange, []string) {
	if j.rng.IntN(3) > 0 {
		return nil, nil
	}
	var out []PVRange
	var args []string
	for _, i := range j.rng.Perm(len(j.devs))[:1+j.rng.IntN(len(j.devs))] {
		arg := j.devs[i]
		if pv := j.g.PVs[i]; j.rng.IntN(3) == 0 {
			a := j.rng.Uint64N(uint64(pv.PECount))
			arg += fmt.Sprintf(":%d-%d", a, a+j.rng.Uint64N(8))
			if j.rng.IntN(2) == 0 {
				b := a + 8 + j.rng.Uint64N(3)
				arg += fmt.Sprintf(":%d+%d", b, 1+j.rng.Uint64N(5))
			}
		}
		ranges, err := ParsePVRanges(arg)
		if err != nil {
			j.t.Fatal(err)
		}
		for k := range ranges {
			ranges[k].PV = j.g.PVs[i].Key
		}
		out = append(out, ranges...)
		args = append(args, arg)
	}
	return out, args
}

// both runs the command through lvm2 and compares it with the model's outcome.
func (j *judged) both(c *Change, err error, args ...string) {
	j.log = append(j.log, strings.Join(args, " "))
	said, talk, lvmErr := j.lvm.Try(args...)
	talk += said
	if err != nil && lvmErr == nil && strings.Contains(talk, " unchanged from ") {
		return // a percentage of which lvm2 found nothing, and is content
	}
	if (err == nil) != (lvmErr == nil) {
		j.t.Errorf("%v:\nlvm2 said %v: %s\nthe model %v", args, lvmErr, talk, err)
		return
	}
	if err != nil {
		if !strings.Contains(talk, err.Error()) {
			j.t.Errorf("%v:\nlvm2 said %s\nthe model %v", args, talk, err)
		}
		return
	}
	for _, n := range c.Notes {
		if !strings.Contains(talk, n) {
			j.t.Errorf("%v: the model remarked %q\nlvm2 said %s", args, n, talk)
		}
	}
	for line := range strings.Lines(talk) {
		line = strings.TrimSpace(line)
		remark := strings.HasPrefix(line, "Reducing") || strings.HasPrefix(line, "Round") || strings.HasPrefix(line, "WARNING: No free")
		if remark && !slices.Contains(c.Notes, line) {
			j.t.Errorf("%v: lvm2 remarked %q, the model %q", args, line, c.Notes)
		}
	}
	j.g = c.Group
	if err := Validate(j.g); err != nil {
		j.t.Errorf("%v: %v", args, err)
	}
	if got, want := j.layout(), j.lvmLayout(); !slices.Equal(got, want) {
		j.t.Errorf("%v:\nlvm2 has\n%s\nthe model\n%s", args, strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// lvmLayout returns lines "lvol0 3 5 /dev/loop0:7": name, first logical extent,
// number of extents, first physical extent.
func (j *judged) lvmLayout() []string {
	out := j.lvm.Run("lvs", "--segments", "--noheadings", "--separator", " ", "-o", "lv_name,seg_start_pe,seg_size_pe,seg_pe_ranges", "vg")
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line[:strings.LastIndex(line, "-")])
		}
	}
	slices.Sort(lines)
	return lines
}

func (j *judged) layout() []string {
	var lines []string
	for _, lv := range j.g.LVs {
		for _, s := range lv.Segments {
			lines = append(lines, fmt.Sprintf("%s %d %d %s:%d", lv.Name, s.Start, s.Count, j.g.PV(s.Stripes[0].PV).Device, s.Stripes[0].Start))
		}
	}
	slices.Sort(lines)
	return lines
}
