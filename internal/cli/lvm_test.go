package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/lvmtest"
)

// Real lvm2 and cowl look at the same loop devices, and every report must be
// the same text. lvm runs without device-mapper here: what it cannot know of
// running volumes is masked below, each with its reason; recordings of a real
// kernel judge that part (kernel_test.go).

// unknownToLVM are the fields whose values lvm does not know without a
// kernel driver; ours say "not active".
var unknownToLVM = []string{
	"lv_active", "lv_active_locally", "lv_active_remotely", "lv_active_exclusively",
	"lv_permissions", "lv_suspended", "lv_live_table", "lv_inactive_table", "lv_device_open",
}

// fragments are the fields of which lvm prints fragments (a path that ends in
// a slash, the policy "unknown", permissions of no group) on rows that have
// no volume or no group; ours are empty there.
var fragments = []string{
	"lv_full_name", "lv_path", "lv_dm_path", "lv_layout", "lv_role", "lv_allocation_policy", "lv_autoactivation",
	"lv_check_needed", "lv_merge_failed", "lv_snapshot_invalid", "parity_chunks",
	"vg_attr", "vg_permissions", "vg_autoactivation", "vg_allocation_policy", "vg_mda_copies", "vg_fmt",
}

// bench is a set of devices that lvm and cowl look at.
type bench struct {
	t    *testing.T
	lvm  *lvmtest.LVM
	dir  string // cowl's state
	devs []string
	hide []string // devices that are unplugged
}

// lvmSays runs lvm's command. Its state of volumes reads as ours: not active.
func (b *bench) lvmSays(args []string) string {
	if len(b.hide) > 0 {
		plugged := slices.DeleteFunc(slices.Clone(b.devs), func(d string) bool { return slices.Contains(b.hide, d) })
		args = append(slices.Clone(args), "--devices", strings.Join(plugged, ","))
	}
	out, talk, err := b.lvm.Try(args...)
	if err != nil {
		b.t.Logf("lvm %s: %v: %s", strings.Join(args, " "), err, talk)
	}
	out = regexp.MustCompile(`([-oOsSmrRvVtT][-wrR][-aAcCiIlLnN][-m])XX`).ReplaceAllString(out, "${1}--")
	return out
}

// cowlSays runs our command on the same devices.
func (b *bench) cowlSays(args []string) string {
	out, talk, code := b.run(args...)
	if code != 0 {
		b.t.Logf("cowl %s: exit code %d: %s", strings.Join(args, " "), code, talk)
	}
	return out
}

// run runs cowl in this process, with directories of its own.
func (b *bench) run(args ...string) (stdout, stderr string, code int) {
	plugged := slices.DeleteFunc(slices.Clone(b.devs), func(d string) bool { return slices.Contains(b.hide, d) })
	vars := map[string]string{
		"COWL_DEVICES": strings.Join(plugged, ","), "COWL_STATE_DIR": b.dir, "COWL_RUN_DIR": filepath.Join(b.dir, "run"), "HOME": b.dir,
	}
	var out, talk bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk, Getenv: func(name string) string { return vars[name] }, Now: time.Now, Zone: time.UTC}
	code = Main(b.t.Context(), env, args)
	return out.String(), talk.String(), code
}

// same compares one command. masks are JSON members whose values are emptied
// on both sides.
func (b *bench) same(masks []string, args ...string) {
	b.t.Helper()
	clean := func(text string) string {
		if masks == nil {
			return text
		}
		lines := strings.SplitAfter(text, "\n")
		for i := range lines {
			for _, name := range masks {
				lines[i] = maskJSON(lines[i], name)
			}
		}
		return strings.Join(lines, "")
	}
	want, got := clean(b.lvmSays(args)), clean(b.cowlSays(args))
	if want == "" {
		b.t.Errorf("lvm %s said nothing", strings.Join(args, " "))
	}
	if diff := diffLines(want, got); diff != "" {
		b.t.Errorf("%s\n(- lvm, + cowl)\n%s", strings.Join(args, " "), diff)
	}
}

// blocks compares the blocks of a display command, whatever their order:
// lvm's is that in which it found the groups, backwards.
func (b *bench) blocks(drop string, args ...string) {
	b.t.Helper()
	split := func(text string) []string {
		var kept []string
		for line := range strings.Lines(text) {
			if drop == "" || !strings.HasPrefix(line, drop) {
				kept = append(kept, line)
			}
		}
		parts := strings.Split(strings.Join(kept, ""), "  --- ")
		slices.Sort(parts)
		return parts
	}
	want, got := split(b.lvmSays(args)), split(b.cowlSays(args))
	if len(want) < 2 {
		b.t.Errorf("lvm %s said nothing", strings.Join(args, " "))
	}
	if diff := diffLines(strings.Join(want, ""), strings.Join(got, "")); diff != "" {
		b.t.Errorf("%s\n(- lvm, + cowl)\n%s", strings.Join(args, " "), diff)
	}
}

// lines compares a command's lines, whatever their order.
func (b *bench) lines(args ...string) {
	b.t.Helper()
	want, got := strings.Split(b.lvmSays(args), "\n"), strings.Split(b.cowlSays(args), "\n")
	slices.Sort(want)
	slices.Sort(got)
	if diff := diffLines(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
		b.t.Errorf("%s\n(- lvm, + cowl)\n%s", strings.Join(args, " "), diff)
	}
}

// sample returns every third of a list that costs an lvm each, all of it with
// COWL_LONG=1.
func sample(list []string) []string {
	if os.Getenv("COWL_LONG") == "1" {
		return list
	}
	var out []string
	for i, item := range list {
		if i%3 == 0 {
			out = append(out, item)
		}
	}
	return out
}

func TestAgainstLVM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	t.Run("tables", func(t *testing.T) { b.t = t; b.tables() })
	t.Run("units", func(t *testing.T) { b.t = t; b.units() })
	t.Run("formats", func(t *testing.T) { b.t = t; b.formats() })
	t.Run("columns", func(t *testing.T) { b.t = t; b.columns() })
	t.Run("selections", func(t *testing.T) { b.t = t; b.selections() })
	t.Run("every field", func(t *testing.T) { b.t = t; b.everyField() })
	t.Run("displays", func(t *testing.T) { b.t = t; b.displays() })
	t.Run("missing PV", func(t *testing.T) { b.t = t; b.missing() })
}

// newBench makes groups of every sort: linear over several PVs, striped,
// snapshots (overflowed and merging among them, by metadata), tags, policies,
// read-only volumes, PVs with no and with two metadata areas, an empty group,
// an exported one, PVs of no group, names with hyphens.
func newBench(t *testing.T) *bench {
	l := lvmtest.New(t)
	const mib = 1 << 20
	devs, _ := l.Create(128*mib, 128*mib, 128*mib, 96*mib, 64*mib, 64*mib, 64*mib, 64*mib)
	b := &bench{t: t, lvm: l, devs: devs, dir: t.TempDir()}
	l.Run("pvcreate", devs[0], devs[1], devs[2], devs[4], devs[7])
	l.Run("pvcreate", "--metadatacopies", "0", devs[3])
	l.Run("pvcreate", "--metadatacopies", "2", "--metadatasize", "3m", devs[5])
	l.Run("pvcreate", "--dataalignment", "2m", "--bootloaderareasize", "1m", devs[6])
	l.Run("vgcreate", "vg0", devs[0], devs[1])
	l.Run("vgcreate", "-s", "1m", "--addtag", "zz", "--addtag", "aa", "multi-media", devs[2], devs[3])
	l.Run("vgcreate", "e", devs[4])
	l.Run("vgcreate", "-l", "9", "-p", "7", "--alloc", "cling", "--vgmetadatacopies", "1", "limits", devs[5])
	lv := func(args ...string) { l.Run(append([]string{"lvcreate", "-an", "-Zn", "-Wn"}, args...)...) }
	lv("-n", "root", "-L", "20m", "vg0")
	lv("-n", "big", "-L", "150m", "--addtag", "t1", "--addtag", "db", "vg0")
	lv("-n", "home--extra", "-L", "8m", "-pr", "multi-media")
	lv("-n", "stripes", "-L", "8m", "-i2", "-I", "32k", "multi-media")
	lv("-n", "l", "-L", "4m", "limits")
	lv("-n", "pool", "-l1", "limits")
	l.Run("lvchange", "--alloc", "contiguous", "--readahead", "256", "limits/l")
	l.Run("lvchange", "-ky", "--readahead", "none", "limits/pool")
	l.Run("pvchange", "-xn", devs[3])
	l.Run("pvchange", "--addtag", "slow", "--addtag", "old", devs[2])
	l.Run("vgchange", "--setautoactivation", "n", "limits")
	b.addSnapshots()
	return b
}

// addSnapshots writes snapshots into vg0's metadata, which lvm alone could
// make with a kernel driver only.
func (b *bench) addSnapshots() {
	path := filepath.Join(b.t.TempDir(), "vg0")
	b.lvm.Run("vgcfgbackup", "-f", path, "vg0")
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	end := strings.LastIndex(string(text), "\t}\n}")
	if end < 0 {
		end = strings.LastIndex(string(text), "\t}\n\n}")
	}
	var lvs strings.Builder
	id := 0
	add := func(name, status, more string, segments ...string) {
		id++
		fmt.Fprintf(&lvs, "%s {\nid = \"%06d-aaaa-bbbb-cccc-dddd-eeee-%06d\"\nstatus = [%s]\nflags = []\n%s\n", name, id, id, status, more)
		fmt.Fprintf(&lvs, "creation_time = %d\ncreation_host = \"elsewhere\"\nsegment_count = %d\n", 1700000000+id*100000, len(segments))
		for i, s := range segments {
			fmt.Fprintf(&lvs, "segment%d {\n%s\n}\n", i+1, s)
		}
		lvs.WriteString("}\n")
	}
	linear := func(start, count, pe int) string {
		return fmt.Sprintf("start_extent = %d\nextent_count = %d\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", %d]", start, count, pe)
	}
	snapshot := func(extents, chunk int, origin, key, store string) string {
		return fmt.Sprintf("start_extent = 0\nextent_count = %d\ntype = \"snapshot\"\nchunk_size = %d\norigin = %q\n%s = %q", extents, chunk, origin, key, store)
	}
	const hidden, visible = `"READ", "WRITE"`, `"READ", "WRITE", "VISIBLE"`
	add("snap1", hidden, "tags = [\"zz\", \"aa\"]", linear(0, 1, 20), linear(1, 1, 22))
	add("snap2", `"READ"`, "", linear(0, 1, 21))
	add("going", hidden, "", linear(0, 1, 23))
	add("locked", visible+`, "LOCKED"`, "allocation_policy = \"anywhere\"", linear(0, 1, 24))
	add("minor", visible+`, "FIXED_MINOR"`, "minor = 77", linear(0, 1, 25))
	add("snapshot0", visible, "", snapshot(5, 8, "root", "cow_store", "snap1"))
	add("snapshot1", visible, "", snapshot(5, 32, "root", "cow_store", "snap2"))
	add("snapshot2", hidden, "", snapshot(38, 8, "big", "merging_store", "going"))
	out := string(text[:end]) + lvs.String() + string(text[end:])
	out = regexp.MustCompile(`seqno = \d+`).ReplaceAllString(out, "seqno = 20")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.lvm.Run("vgcfgrestore", "--force", "-f", path, "vg0")
}

func (b *bench) tables() {
	for _, cmd := range []string{
		"pvs", "pvs -v", "pvs --segments", "pvs --segments -v", "vgs", "vgs -v",
		"lvs", "lvs -a", "lvs --segments", "lvs -a --segments",
		"pvs -o+pv_used,pv_mda_free,pv_mda_size,pv_tags,pv_major,pv_minor,pe_start,pv_ba_start,pv_ba_size,pv_in_use",
		"vgs -o+vg_tags,vg_mda_free,vg_mda_size,vg_mda_copies,max_lv,max_pv,vg_extent_count,vg_free_count,vg_seqno",
		"lvs -a -o+devices,seg_pe_ranges,seg_le_ranges,lv_tags,lv_time,lv_host,lv_read_ahead,lv_role",
		"vgs -o vg_name,lv_name", "vgs -o vg_name,pv_name", "vgs -o vg_name,pvseg_start,pvseg_size", "vgs -o vg_name,seg_start",
		"pvs -o pv_name,lv_name", "pvs -o pv_name,lv_name,seg_start,seg_size,segtype,stripe_size,devices", "pvs -o pv_name,vg_name",
		"lvs -o vg_name", "lvs --segments -o vg_name", "pvs -o vg_name,vg_size,vg_free",
		"lvs vg0", "lvs vg0/root", "lvs vg0/going", "lvs vg0/root multi-media", "lvs @db", "lvs @zz", "vgs @aa vg0", "lvs -a limits",
		"lvs /dev/vg0/root /dev/mapper/multi--media-home----extra", "pvs @old",
	} {
		b.same(nil, strings.Fields(cmd)...)
	}
	b.same(nil, "pvs", b.devs[0], b.devs[7])
	b.same(nil, "vgs", "nosuch", "vg0")
}

func (b *bench) units() {
	for _, units := range sample(strings.Fields("r h R H b B m K g s S M k t G T p P e E 3M 7s")) {
		b.same(nil, "lvs", "-a", "--units", units, "-o", "lv_name,lv_size,vg_size,vg_free,vg_extent_size,vg_mda_free,lv_read_ahead,chunk_size,seg_start,origin_size")
		b.same(nil, "pvs", "--units", units, "-o", "pv_name,dev_size,pv_size,pv_free,pv_used,pe_start,pv_mda_size,pv_ba_start")
		b.same(nil, "vgs", "--units", units, "--nosuffix")
	}
}

func (b *bench) formats() {
	const columns = "lv_name,vg_name,lv_size,lv_tags,origin,seg_count,lv_merging,lv_minor"
	for _, format := range [][]string{
		{"--noheadings"}, {"--nosuffix"}, {"--separator", ":"}, {"--separator", " | "}, {"--separator", ""},
		{"--separator", ":", "--aligned"}, {"--nameprefixes"}, {"--nameprefixes", "--noheadings"},
		{"--nameprefixes", "--unquoted", "--noheadings"}, {"--nameprefixes", "--separator", ":", "--aligned"},
		{"--unquoted"}, {"--rows"}, {"--rows", "--noheadings"}, {"--rows", "--nameprefixes"}, {"--rows", "--separator", ":"},
		{"--binary"}, {"--aligned"}, {"--reportformat", "json"}, {"--reportformat", "json", "--binary", "--units", "b", "--nosuffix"},
		{"--reportformat", "basic"}, {"--nohe"}, {"--sep", ","},
	} {
		b.same(nil, append([]string{"lvs", "-a", "-o", columns}, format...)...)
		b.same(nil, append([]string{"pvs", "-o", "pv_name,vg_name,pv_size,pv_missing,pv_tags"}, format...)...)
	}
	b.same(nil, "lvs", "--unbuffered", "-o", columns, "vg0")
	b.same(nil, "lvs", "--reportformat", "json", "-S", "lv_name=nosuch")
}

func (b *bench) columns() {
	for _, cmd := range []string{
		"lvs -o name,size", "lvs -o lvsize,LV_NAME", "lvs -o lv_name,lv_name", "lvs -o-lv_size,vg_name", "lvs -o lv_name -o lv_size",
		"lvs -o lv_name -o+lv_size -o-lv_name", "lvs -o#lv_size,origin,data_percent", "lvs -o+lv_tags -o#lv_tags,pool_lv,move_pv", "lvs -o lv_name,,lv_size",
		"lvs -o-foo", "lvs --segments -o start", "pvs --segments -o pv_name,start", "vgs -o name,free,extent_size", "vgs -o -attr",
		"lvs -O -lv_size -o lv_name,lv_size vg0", "lvs -O lv_size,-lv_name -o lv_name,lv_size", "lvs -O lv_minor,lv_name -o lv_name,lv_minor",
		"lvs -O -lv_minor,lv_name -o lv_name,lv_minor", "lvs -O lv_read_ahead,lv_name -o lv_name,lv_read_ahead", "lvs -a -O lv_merging,lv_time -o lv_name,lv_time",
		"lvs -O vg_free,-size", "pvs -O -pv_free,pv_name", "vgs -O -vg_size,vg_name", "pvs -o pv_name -O lv_name,pv_name", "vgs -o vg_name -O vg_name,lv_name",
	} {
		b.same(nil, strings.Fields(cmd)...)
	}
	b.same(nil, "lvs", "-O", "", "-o", "lv_name,seg_start", "vg0")
}

func (b *bench) selections() {
	for _, s := range sample([]string{
		"lv_name=root", "name=root", "lv_name=~^s", "lv_name!~^s", "lv_name!=root", "lv_name=going", "lv_size>4m", "lv_size>4", "lv_size=8",
		"lv_size=0.0078125g", "lv_size>=8M && lv_size<100m", "lv_size>=8M,lv_size<100m", "lv_name=root || lv_name=big", "lv_name=root # lv_name=big",
		"!(lv_name=root || lv_name=big)", "(lv_name=root) && (lv_size=20m || lv_size=1m)", "lv_name=root || lv_name=big && lv_size>1t",
		"lv_tags=db", "lv_tags={db}", "lv_tags=[t1,db]", "lv_tags={db,t1}", "lv_tags={zz||t1}", "lv_tags={zz#t1}", `lv_tags=["t1"&&"db"]`, "lv_tags!=zz", "lv_tags={}",
		`lv_tags=""`, `lv_tags!=""`, "lv_tags=[db || t1]", "lv_tags=[db || t1 || x]", "lv_role=snapshot", "lv_attr=~^s", "lv_name='root'", `lv_name="root"`, "lv_name = root", "seg_count=2", "seg_count>1",
		"lv_merging=1", "lv_merging=merging", "lv_merging=0", "lv_merging=yes", "lv_minor=77", "lv_minor=-1", "lv_minor=undef", "lv_minor!=undef", "lv_minor>0",
		"lv_time>2023-12-01", "lv_time since 2023-11-16", `lv_time before "2023-11-17 00:00"`, "lv_time=2023-11", "lv_time>=@1700100000", "lv_time after @1700200000", `lv_time>"2 days ago"`,
		"vg_permissions=rw", "vg_mda_copies=unmanaged", "lv_read_ahead=auto", "vg_name=~^m && lv_name=~e", "origin=root", "lv_skip_activation=1", "selected=1", "all", "",
		"lv_fixed_minor=1 || lv_allocation_locked=yes", "vg_extent_size=1m", "seg_start=0", "lv_allocation_policy=anywhere", "stripes=2", "stripe_size=32k",
	}) {
		// Without a match lvm prints nothing, which same takes for a mistake in the test.
		b.same(nil, "lvs", "-a", "-o", "lv_name,selected", "-O", "vg_name,lv_name", "-S", s)
	}
	for _, cmd := range [][]string{
		{"lvs", "-S", "lv_size>4m"}, {"vgs", "-S", "lv_name=root"}, {"vgs", "-S", "lv_size=4m"}, {"pvs", "-S", "lv_name=root"}, {"pvs", "-S", "pv_free>60m"},
		{"pvs", "-S", "vg_name=vg0", "-o", "pv_name"}, {"pvs", "-S", "pv_tags={slow}"}, {"vgs", "-S", "vg_tags=[aa,zz]"}, {"pvs", "-S", "pv_in_use=0"}, {"pvs", "-S", "pv_allocatable=no"},
	} {
		b.same(nil, cmd...)
	}
}

// everyField compares all columns of all reports, as JSON.
func (b *bench) everyField() {
	for _, cmd := range []string{
		"lvs -a -o all", "lvs -a -o lv_all", "lvs --segments -a -o all", "lvs -a -o lv_name,seg_all", "vgs -o all", "vgs -o vg_all",
		"pvs -o all", "pvs -o pv_all", "pvs --segments -o all", "pvs --segments -o pvseg_all,pv_name", "lvs -a -o lv_all --binary --units s",
		"vgs -o vg_all --binary --units s --nosuffix", "pvs -o pv_all --binary --units h",
	} {
		b.same(unknownToLVM, append(strings.Fields(cmd), "--reportformat", "json")...)
	}
	masks := slices.Concat(unknownToLVM, fragments)
	b.same(masks, "pvs", "--reportformat", "json", "-o", "pv_all,vg_all,pvseg_all,seg_all,lv_all")
	b.same(masks, "pvs", "--reportformat", "json", "-o", "pv_name,vg_all")
}

func (b *bench) displays() {
	const status = "  LV Status " // lvm leaves it out without a driver
	for _, args := range []string{"lvdisplay", "lvdisplay -a", "lvdisplay -m", "lvdisplay -m vg0/big", "lvdisplay --units s vg0", "vgdisplay -v vg0"} {
		b.blocks(status, strings.Fields(args)...)
	}
	for _, args := range []string{"vgdisplay", "vgdisplay --units b"} {
		b.blocks("", strings.Fields(args)...)
	}
	for _, args := range []string{"pvdisplay", "pvdisplay --units k --nosuffix"} {
		b.lines(strings.Fields(args)...)
	}
	for _, args := range []string{"lvdisplay -C", "lvdisplay -C -o lv_name,lv_size --units b", "vgdisplay -C", "pvdisplay -C", "vgdisplay -s vg0", "vgdisplay -s e", "vgdisplay -s --units k limits"} {
		b.same(nil, strings.Fields(args)...)
	}
	for _, vg := range []string{"vg0", "multi-media", "e", "limits"} {
		b.same(nil, "vgdisplay", "-c", vg)
		if vg != "e" {
			b.same(nil, "lvdisplay", "-c", vg)
		}
	}
	for _, dev := range b.devs {
		b.same(nil, "pvdisplay", "-c", dev)
		b.same(nil, "pvdisplay", "-s", dev)
		b.same(nil, "pvdisplay", "-m", dev)
	}
}

// missing unplugs a PV, first for lvm and then for us, and looks again. An
// exported group and one whose only metadata is away are looked at, too.
func (b *bench) missing() {
	b.lvm.Run("vgexport", "limits")
	for _, cmd := range []string{"vgs", "pvs", "pvs -o+pv_exported", "vgdisplay limits"} {
		b.same(nil, strings.Fields(cmd)...)
	}
	b.same(nil, "pvdisplay", b.devs[5])
	b.hide = []string{b.devs[1], b.devs[2]}
	for _, cmd := range []string{
		"pvs", "vgs", "lvs -a -o+devices,lv_health_status vg0", "pvs --segments -v", "pvs -o pv_all", "vgs -o+vg_missing_pv_count", "pvs -S pv_missing=1",
	} {
		b.same(nil, strings.Fields(cmd)...)
	}
	b.same(unknownToLVM, "lvs", "-a", "-o", "all", "--reportformat", "json", "vg0")
	b.same(nil, "vgdisplay", "vg0")
	b.same(nil, "vgdisplay", "-c", "vg0")
	b.lines("pvdisplay", "-c")
	b.lines("pvdisplay", "-s")
	b.lines("pvdisplay", "-m")
	b.blocks("  LV Status ", "lvdisplay", "-m", "vg0")
}
