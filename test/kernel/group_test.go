//go:build linux

package kernel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/test/asprogram"
)

// keeper is who runs a volume group: the cowl program, or lvm2 on a kernel.
// Both take the same commands.
type keeper interface {
	name() string

	// start takes a group's images into use; stop gives them back. Neither
	// activates or deactivates anything.
	start(images []string)
	stop()
	// die is stop without any warning, by a power cut or a kill.
	die()

	// run runs an LVM command and returns its standard output and its exit
	// status. PV0, PV1, ... in it are the images.
	run(command string) (stdout string, status int)
	// whole returns a volume's content, write writes and flushes.
	whole(lv string) ([]byte, error)
	write(ws []lvWrite) error

	// merging returns what a merge has left to do in its origin, and whether
	// there is a merge at all.
	merging(origin string) (left int, ok bool)
}

// lvWrite is data for a volume.
type lvWrite struct {
	lv   string
	off  int64
	data []byte
}

const (
	vg  = "vg-0" // a hyphen, which device-mapper's names double
	pvs = 3
)

func newImages(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	var images []string
	for i := range pvs {
		images = append(images, sparse(t, filepath.Join(dir, fmt.Sprint("pv", i)), 24<<20))
	}
	return images
}

// toPaths replaces PV0, PV1, ... by the images' paths, fromPaths does the
// reverse.
func toPaths(text string, paths []string) string {
	for i, path := range paths {
		text = strings.ReplaceAll(text, fmt.Sprint("PV", i), path)
	}
	return text
}

func fromPaths(text string, paths []string) string {
	for i, path := range paths {
		text = strings.ReplaceAll(text, path, fmt.Sprint("PV", i))
	}
	return text
}

// pair is both keepers with what their groups must hold.
type pair struct {
	t       *testing.T
	rng     *rand.Rand
	keepers []keeper
	sets    [][]string
	content map[string][]byte // by volume
	origin  map[string]string // by snapshot
	invalid map[string]bool
	frozen  map[string]bool // read-only
	made    int             // number of the next name
}

func newPair(t *testing.T, rng *rand.Rand) *pair {
	t.Helper()
	p := &pair{t: t, rng: rng, content: map[string][]byte{}, origin: map[string]string{}, invalid: map[string]bool{}, frozen: map[string]bool{}}
	p.sets = [][]string{newImages(t), newImages(t)}
	program := newProgram(t)
	asprogram.Configure(t, program.dir, asprogram.NeverExtend) // as lvm2 does without dmeventd
	p.keepers = []keeper{program, newLVM(t, slices.Concat(p.sets...)...)}
	return p
}

// both runs a command on both sides and wants the same answer.
func (p *pair) both(format string, args ...any) string {
	p.t.Helper()
	command := fmt.Sprintf(format, args...)
	p.t.Log(command)
	return p.same(command)
}

// same is both for commands that are not worth a line in the log.
func (p *pair) same(command string) string {
	p.t.Helper()
	var first string
	for i, k := range p.keepers {
		stdout, status := k.run(command)
		answer := fmt.Sprintf("status %d\n%s", status, stdout)
		if i == 0 {
			first = answer
		} else if answer != first {
			p.t.Errorf("%s\n%s: %s\n%s: %s", command, p.keepers[0].name(), first, k.name(), answer)
		}
	}
	return first
}

// reports are compared as they are printed.
var reports = []string{
	"lvs --units k",
	"lvs -a --units s --nosuffix --noheadings -o lv_name,lv_attr,lv_size,origin,origin_size,snap_percent,lv_layout,lv_role,seg_count,chunk_size",
	"vgs --units k",
	"pvs --units k --noheadings -o vg_name,pv_size,pv_free,pv_used,pv_pe_count,pv_pe_alloc_count,pv_attr",
}

// compare compares reports with each other and contents with the model.
func (p *pair) compare() {
	p.t.Helper()
	for _, r := range reports {
		p.noteInvalid(p.same(r))
	}
	for _, lv := range p.volumes() {
		for _, k := range p.keepers {
			got, err := k.whole(lv)
			switch {
			case p.invalid[lv] && err == nil:
				p.t.Errorf("%s: %s is invalid, and can be read", k.name(), lv)
			case p.invalid[lv]:
			case err != nil:
				p.t.Errorf("%s: read %s: %v", k.name(), lv, err)
			default:
				if at := differ(got, p.content[lv]); at >= 0 {
					p.t.Errorf("%s: %s differs first in sector %d", k.name(), lv, at/512)
				}
			}
		}
	}
	if p.t.Failed() {
		p.t.FailNow()
	}
}

func (p *pair) volumes() []string {
	var names []string
	for lv := range p.content {
		names = append(names, lv)
	}
	slices.Sort(names)
	return names
}

func (p *pair) start(round int) {
	for i, k := range p.keepers {
		k.start(p.sets[(i+round)%2])
	}
}

func (p *pair) stop() {
	for _, k := range p.keepers {
		k.stop()
	}
}

// write performs the same writes on both sides and in the model.
func (p *pair) write(ws ...lvWrite) {
	p.t.Helper()
	for _, w := range ws {
		copy(p.content[w.lv][w.off:], w.data)
	}
	p.t.Logf("%d writes", len(ws))
	failed := 0
	for _, k := range p.keepers {
		if err := k.write(ws); err != nil {
			failed++
			p.t.Logf("%s: write: %v", k.name(), err)
		}
	}
	// A snapshot that overflows fails its own writes, on both sides.
	if failed == 0 {
		return
	}
	p.noteInvalid(p.same("lvs --noheadings"))
	if failed != len(p.keepers) || len(p.invalid) == 0 {
		p.t.Errorf("writing fails on %d sides, with %d invalid snapshots", failed, len(p.invalid))
	}
}

// noteInvalid takes from a report which snapshots have overflowed.
func (p *pair) noteInvalid(report string) {
	for line := range strings.Lines(report) {
		for i, word := range strings.Fields(line) {
			if i > 0 && len(word) == 10 && word[4] == 'I' {
				p.invalid[strings.Fields(line)[0]] = true
			}
		}
	}
}

// fill gives a new volume random content: what lay there before is not the
// same on both sides.
func (p *pair) fill(lv string, size int64) {
	p.t.Helper()
	p.content[lv] = make([]byte, size)
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(p.rng.Uint32())
	}
	p.write(lvWrite{lv, 0, data})
}

func (p *pair) name(prefix string) string {
	p.made++
	return fmt.Sprintf("%s-%d", prefix, p.made)
}

func (p *pair) newLV() {
	p.t.Helper()
	lv, extents := p.name("lv"), 2+p.rng.Int64N(4)
	p.both("lvcreate -Wn -l %d -n %s %s", extents, lv, vg)
	p.fill(lv, extents<<20)
}

func (p *pair) newSnapshot() {
	p.t.Helper()
	origins := slices.DeleteFunc(p.volumes(), func(lv string) bool { return p.origin[lv] != "" })
	origin := origins[p.rng.IntN(len(origins))]
	lv := p.name("snap")
	if strings.HasPrefix(p.both("lvcreate -s -L %dm -c %dk -n %s %s/%s", 1+p.rng.IntN(4), 4<<p.rng.IntN(3), lv, vg, origin), "status 0") {
		p.content[lv] = bytes.Clone(p.content[origin])
		p.origin[lv] = origin
	}
}

func (p *pair) remove(lv string) {
	p.t.Helper()
	p.both("lvremove -f %s/%s", vg, lv)
	for s, origin := range p.origin {
		if origin == lv {
			p.forget(s)
		}
	}
	p.forget(lv)
}

func (p *pair) forget(lv string) {
	delete(p.content, lv)
	delete(p.origin, lv)
	delete(p.invalid, lv)
	delete(p.frozen, lv)
}

// permit makes a volume read-only, or writable again.
func (p *pair) permit(lv string) {
	p.t.Helper()
	p.frozen[lv] = !p.frozen[lv]
	p.both("lvchange -p %s %s/%s", map[bool]string{true: "r", false: "rw"}[p.frozen[lv]], vg, lv)
}

func (p *pair) writeSome(n int) {
	p.t.Helper()
	targets := slices.DeleteFunc(p.volumes(), func(lv string) bool { return p.invalid[lv] || p.frozen[lv] })
	if len(targets) == 0 {
		return
	}
	var ws []lvWrite
	for range n {
		lv := targets[p.rng.IntN(len(targets))]
		size := int64(len(p.content[lv]))
		length := min(1+p.rng.Int64N(48), size/512) * 512
		data := bytes.Repeat([]byte{byte(p.rng.Uint32())}, int(length))
		ws = append(ws, lvWrite{lv, p.rng.Int64N((size-length)/512+1) * 512, data})
	}
	p.write(ws...)
}

// merge merges a snapshot to the end on both sides.
func (p *pair) merge(s string) {
	p.t.Helper()
	for _, k := range p.keepers {
		// lvm2 polls and says how far it is, which depends on the time.
		stdout, status := k.run(fmt.Sprintf("lvconvert --merge %s/%s", vg, s))
		if want := fmt.Sprintf("  Merging of volume %s/%s started.\n", vg, s); status != 0 || !strings.HasPrefix(stdout, want) {
			p.t.Errorf("%s: lvconvert --merge: status %d, %q", k.name(), status, stdout)
		}
		waitMerged(p.t, k, s)
	}
	p.content[p.origin[s]] = p.content[s]
	p.forget(s)
}

func (p *pair) step() {
	p.t.Helper()
	var valid []string
	for s := range p.origin {
		if !p.invalid[s] && !p.frozen[s] && !p.frozen[p.origin[s]] {
			valid = append(valid, s)
		}
	}
	slices.Sort(valid)
	all := p.volumes()
	switch n := p.rng.IntN(20); {
	case len(all) == 0:
		p.newLV()
	case n < 2 && len(all) < 8:
		p.newLV()
	case n < 7 && len(all) < 8:
		p.newSnapshot()
	case n < 9 && len(all) > 2:
		p.remove(all[p.rng.IntN(len(all))])
	case n < 12 && len(valid) > 0:
		p.merge(valid[p.rng.IntN(len(valid))])
	case n < 13:
		p.permit(all[p.rng.IntN(len(all))])
	default:
		p.writeSome(25)
	}
}

// The same commands and writes on both sides must give the same answers,
// reports and contents, whoever kept the group before: after each round the
// two exchange their disks.
func TestGroupDifferential(t *testing.T) {
	p := newPair(t, rand.New(rand.NewPCG(blocktest.Seed(t), 0)))
	rounds := 2
	if blocktest.Long() {
		rounds = 200
	}
	p.start(0)
	p.both("vgcreate -s 1m %s PV0 PV1", vg)
	// cowl activates new volumes in a group that is active; lvm2 always does.
	p.both("lvcreate -Wn -l 1 -n first %s", vg)
	p.both("vgchange -ay %s", vg)
	p.fill("first", 1<<20)
	p.newLV()
	p.newSnapshot()
	p.compare()
	for round := range rounds {
		for range 5 {
			p.step()
			p.compare()
		}
		if round == 0 {
			p.both("vgextend %s PV2", vg)
		}
		p.both("vgchange -an %s", vg)
		p.stop()
		p.start(round + 1)
		p.both("vgchange -ay %s", vg)
		p.compare()
	}
}
