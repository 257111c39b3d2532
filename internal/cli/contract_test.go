package cli

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/format/checksum"
)

// The contract that every verb keeps: help, a bad option, input that is not
// there, input that is damaged. A new verb has to say here how it is called.

// call is how a verb is called in the contract: with the name of something
// that does not exist, and on a group "vg" whose only PV, disk.img, is damaged.
type call struct{ missing, damaged string }

var calls = map[string]call{
	"pvcreate":      {"pvcreate nosuch", "pvcreate disk.img"},
	"pvs":           {"pvs nosuch", "pvs -a -o+pv_mda_free"},
	"pvdisplay":     {"pvdisplay nosuch", "pvdisplay -m"},
	"pvscan":        {"", "pvscan"},
	"pvresize":      {"pvresize nosuch", "pvresize disk.img"},
	"pvremove":      {"pvremove nosuch", "pvremove disk.img"},
	"vgcreate":      {"vgcreate vg2 nosuch", "vgcreate vg2 disk.img"},
	"vgextend":      {"vgextend nosuch disk.img", "vgextend vg disk.img"},
	"vgreduce":      {"vgreduce nosuch disk.img", "vgreduce vg disk.img"},
	"vgchange":      {"vgchange -ay nosuch", "vgchange -an vg"},
	"vgs":           {"vgs nosuch", "vgs -o all vg"},
	"vgdisplay":     {"vgdisplay nosuch", "vgdisplay -v vg"},
	"vgremove":      {"vgremove nosuch", "vgremove vg"},
	"lvcreate":      {"lvcreate -L 4M nosuch", "lvcreate -L 4M vg"},
	"lvextend":      {"lvextend -L +4M nosuch/lv", "lvextend -L +4M vg/lv"},
	"lvchange":      {"lvchange -p r nosuch/lv", "lvchange -p r vg/lv"},
	"lvconvert":     {"lvconvert --merge nosuch/lv", "lvconvert --merge vg/snap"},
	"lvs":           {"lvs nosuch/lv", "lvs -a -o all vg"},
	"lvdisplay":     {"lvdisplay nosuch", "lvdisplay -a -m vg"},
	"lvremove":      {"lvremove nosuch/lv", "lvremove vg/lv"},
	"serve":         {"serve nosuch", "serve --nofiles vg nosuch"},
	"version":       {"", "version"},
	"snapshot":      {"snapshot nosuch/lv", "snapshot vg -L 4M"},
	"rollback":      {"rollback nosuch/lv", "rollback -y vg/snap"},
	"backup":        {"backup nosuch/lv --to backups", "backup vg/lv --to backups"},
	"verify":        {"verify nosuch", "verify disk.img"},
	"drill":         {"drill nosuch.raw", "drill disk.img"},
	"restore":       {"restore nosuch vg/lv", "restore disk.img vg/lv"},
	"ls":            {"ls nosuch/lv:/", "ls -lR vg/lv"},
	"cat":           {"cat nosuch/lv:/file", "cat vg/lv:/file"},
	"diff":          {"diff nosuch/lv vg/lv", "diff vg/snap vg/lv"},
	"cp":            {"cp nosuch/lv:/file dest", "cp vg/lv:/file dest"},
	"tar":           {"tar nosuch/lv", "tar vg/lv:/"},
	"list":          {"list nosuch", "list vg"},
	"forget":        {"forget nosuch --keep-last 1", "forget vg --keep-last 1"},
	"repo":          {"", ""},
	"guest":         {"", ""},
	"guest freeze":  {"guest freeze nosuch", "guest freeze disk.img"},
	"guest thaw":    {"guest thaw nosuch", "guest thaw disk.img"},
	"guest status":  {"guest status nosuch", "guest status disk.img"},
	"job":           {"", ""},
	"job run":       {"job run --jobs nosuch", "job run --jobs disk.img"},
	"job list":      {"job list --jobs nosuch", "job list --jobs disk.img"},
	"job check":     {"job check --jobs nosuch", "job check --jobs disk.img"},
	"job units":     {"job units --jobs nosuch", "job units --jobs disk.img"},
	"repo init":     {"repo init repo:nosuch/dir --password-command=pwd", "repo init repo:disk.img --password-command=pwd"},
	"repo status":   {"repo status repo:nosuch", "repo status repo:disk.img"},
	"repo maintain": {"repo maintain repo:nosuch", "repo maintain repo:disk.img"},
	"repo unlock":   {"repo unlock repo:nosuch", "repo unlock repo:disk.img"},
	"demo":          {"", ""},
	"advise":        {"advise nosuch/lv", "advise vg/lv"},
	"cleanup":       {"cleanup nosuch", "cleanup vg"},
	"map":           {"map nosuch/lv", "map vg/lv --since snap"},

	"overlay":         {"", ""},
	"overlay create":  {"overlay create nosuch vm.cow", "overlay create -t disk.img vm.cow"},
	"overlay list":    {"overlay list nosuch", "overlay list disk.img"},
	"overlay usage":   {"overlay usage nosuch", "overlay usage disk.img"},
	"overlay serve":   {"overlay serve nosuch", "overlay serve --nofiles disk.img"},
	"overlay merge":   {"overlay merge -y nosuch", "overlay merge -y disk.img"},
	"overlay rebase":  {"overlay rebase -y nosuch", "overlay rebase -y disk.img"},
	"overlay discard": {"overlay discard -y nosuch", "overlay discard -y disk.img"},
}

// bystander runs commands in a directory of its own.
type bystander struct {
	t   *testing.T
	dir string
}

func (b *bystander) run(args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	var out, talk bytes.Buffer
	vars := map[string]string{
		"COWL_DEVICES": b.devices(), "COWL_STATE_DIR": filepath.Join(b.dir, "state"),
		"COWL_RUN_DIR": filepath.Join(b.dir, "run"), "HOME": b.dir,
	}
	env := &Env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk, Getenv: func(k string) string { return vars[k] },
		Now: time.Now, Zone: time.UTC, Executable: "/nonexistent/cowl",
	}
	defer func() {
		if r := recover(); r != nil {
			b.t.Errorf("cowl %s panicked: %v", strings.Join(args, " "), r)
			code = -1
		}
	}()
	code = Main(b.t.Context(), env, args)
	return out.String(), talk.String(), code
}

// devices is the disk, once it is there.
func (b *bystander) devices() string {
	path := filepath.Join(b.dir, "disk.img")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// group makes disk.img hold a group "vg" with a volume and a snapshot.
func (b *bystander) group() {
	b.t.Helper()
	b.t.Chdir(b.dir)
	if err := os.WriteFile("disk.img", nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Truncate("disk.img", 64<<20); err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll("backups", 0o700); err != nil {
		b.t.Fatal(err)
	}
	for _, cmd := range []string{"vgcreate vg disk.img", "lvcreate -L 8M -n lv vg", "lvcreate -s -L 4M -n snap vg/lv"} {
		if out, talk, code := b.run(strings.Fields(cmd)...); code != 0 {
			b.t.Fatalf("cowl %s: %d\n%s%s", cmd, code, out, talk)
		}
	}
}

// eachVerb runs f for every verb and every verb below one, by their full names.
func eachVerb(t *testing.T, f func(t *testing.T, verb string)) {
	a := &app{Env: &Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}}
	var walk func(cmds []*cobra.Command)
	walk = func(cmds []*cobra.Command) {
		for _, cmd := range cmds {
			verb := strings.TrimPrefix(cmd.CommandPath(), "cowl ")
			if _, ok := calls[verb]; !ok {
				t.Errorf("the contract does not say how %s is called: add it to calls", verb)
				continue
			}
			t.Run(verb, func(t *testing.T) { f(t, verb) })
			walk(cmd.Commands())
		}
	}
	walk(a.root().Commands())
}

func TestContractHelp(t *testing.T) {
	eachVerb(t, func(t *testing.T, verb string) {
		b := &bystander{t: t, dir: t.TempDir()}
		words := strings.Fields(verb)
		out, talk, code := b.run(append(words, "--help")...)
		if code != 0 || talk != "" {
			t.Errorf("--help: exit code %d, stderr %q", code, talk)
		}
		for _, part := range []string{"Usage:", "Examples:", "Flags:", "cowl " + verb} {
			if !strings.Contains(out, part) {
				t.Errorf("the help has no %q:\n%s", part, out)
			}
		}
		if viaHelp, _, _ := b.run(append([]string{"help"}, words...)...); viaHelp != out {
			t.Errorf("cowl help %s says something else than --help", verb)
		}
	})
}

func TestContractBadOption(t *testing.T) {
	eachVerb(t, func(t *testing.T, verb string) {
		b := &bystander{t: t, dir: t.TempDir()}
		for _, arg := range []string{"--no-such-option", "-@", "--config=x"} {
			out, talk, code := b.run(append(strings.Fields(verb), arg)...)
			if code != exitUsage || out != "" {
				t.Errorf("%s: exit code %d, stdout %q", arg, code, out)
			}
			if want := strings.Trim(strings.Split(arg, "=")[0], "-"); !strings.Contains(talk, want) || !strings.Contains(talk, "Error during parsing of command line.") {
				t.Errorf("%s: stderr does not name it: %q", arg, talk)
			}
		}
	})
}

func TestContractMissingInput(t *testing.T) {
	eachVerb(t, func(t *testing.T, verb string) {
		c := calls[verb]
		if c.missing == "" {
			t.Skip("takes no input")
		}
		b := &bystander{t: t, dir: t.TempDir()}
		b.group()
		_, talk, code := b.run(strings.Fields(c.missing)...)
		if code != exitFailed {
			t.Errorf("%s: exit code %d, stderr %q", c.missing, code, talk)
		}
		if !strings.Contains(talk, "nosuch") {
			t.Errorf("%s: stderr does not name what is missing: %q", c.missing, talk)
		}
	})
}

// damages are what can have happened to a PV, and whether the group can still
// be found.
var damages = []struct {
	name string
	do   func(t *testing.T, head []byte) []byte
}{
	{"label", func(_ *testing.T, img []byte) []byte { img[512+100] ^= 1; return img }},
	{"metadata area header", func(_ *testing.T, img []byte) []byte { img[4096+50] ^= 1; return img }},
	{"text", func(_ *testing.T, img []byte) []byte { img[textAt(img)+30] ^= 1; return img }},
	{"cut off in the metadata", func(_ *testing.T, img []byte) []byte { return img[:6000] }},
	{"cut off in the data", func(_ *testing.T, img []byte) []byte { return append(img, make([]byte, 2<<20)...) }},
	{"all ones", func(_ *testing.T, img []byte) []byte { return bytes.Repeat([]byte{0xff}, len(img)) }},
	{"hostile extents", func(t *testing.T, img []byte) []byte {
		return rewrite(t, img, `(extent_count = )\d`, "${1}9999999999")
	}},
	{"hostile start", func(t *testing.T, img []byte) []byte { return rewrite(t, img, `(start_extent = )\d`, "${1}-5") }},
	{"hostile extent size", func(t *testing.T, img []byte) []byte { return rewrite(t, img, `(extent_size = )\d+`, "${1}0") }},
	{"origin that is not there", func(t *testing.T, img []byte) []byte { return rewrite(t, img, `(origin = )"lv"`, `${1}"xx"`) }},
	{"snapshot of itself", func(t *testing.T, img []byte) []byte { return rewrite(t, img, `(origin = )"lv"`, `${1}"snap"`) }},
	{"unknown segment type", func(t *testing.T, img []byte) []byte {
		return rewrite(t, img, `(type = )"striped"`, `${1}"frobnicate"`)
	}},
	{"names with slashes", func(t *testing.T, img []byte) []byte { return rewrite(t, img, `lv \{`, "../../lv {") }},
	{"no volumes section", func(t *testing.T, img []byte) []byte { return rewrite(t, img, `logical_volumes`, "illogical_volumes") }},
}

// textAt returns where the committed text of the first metadata area begins.
func textAt(img []byte) int64 { return 4096 + int64(binary.LittleEndian.Uint64(img[4096+40:])) }

// rewrite changes the committed metadata and makes all checksums right again.
func rewrite(t *testing.T, img []byte, pattern, replacement string) []byte {
	t.Helper()
	header := img[4096 : 4096+512]
	at, length := textAt(img), int64(binary.LittleEndian.Uint64(header[48:]))
	text := img[at : at+length-1] // without its NUL
	changed := regexp.MustCompile(pattern).ReplaceAll(text, []byte(replacement))
	if bytes.Equal(changed, text) {
		t.Fatalf("nothing in the metadata matches %s:\n%s", pattern, text)
	}
	out := slices.Clone(img)
	clear(out[at : at+length])
	copy(out[at:], changed)
	header = out[4096 : 4096+512]
	binary.LittleEndian.PutUint64(header[48:], uint64(len(changed)+1))
	binary.LittleEndian.PutUint32(header[56:], checksum.LVM(append(changed, 0)))
	binary.LittleEndian.PutUint32(header, checksum.LVM(header[4:]))
	return out
}

func TestContractDamagedInput(t *testing.T) {
	b := &bystander{t: t, dir: t.TempDir()}
	b.group()
	whole, err := os.ReadFile("disk.img")
	if err != nil {
		t.Fatal(err)
	}
	good := whole[:metadataEnd:metadataEnd]
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			b.t = t
			img := d.do(t, slices.Clone(good))
			for verb, c := range calls {
				if c.damaged == "" {
					continue
				}
				damage(t, img)
				_, talk, code := b.run(strings.Fields(c.damaged)...)
				if !slices.Contains([]int{exitOK, exitUsage, exitInit, exitFailed}, code) {
					t.Errorf("%s: exit code %d\n%s", c.damaged, code, talk)
				}
				if code != 0 && !regexp.MustCompile(`disk\.img|vg|lv|snap`).MatchString(talk) {
					t.Errorf("%s: exit code %d, and stderr names nothing: %q", verb, code, talk)
				}
			}
		})
	}
}

// metadataEnd is where a PV's extents begin; damage is done before it.
const metadataEnd = 1 << 20

// damage writes what was made of the beginning of the disk. If that has
// another length than it had, the disk ends there.
func damage(t *testing.T, head []byte) {
	t.Helper()
	f, err := os.OpenFile("disk.img", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(64 << 20)
	if len(head) != metadataEnd {
		size = int64(len(head))
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// TestNowhereToLook: without knowing which devices there are, nothing can begin.
func TestNowhereToLook(t *testing.T) {
	b := &bystander{t: t, dir: t.TempDir()}
	for _, verb := range []string{"pvs", "vgs", "lvs", "pvscan", "vgchange -an"} {
		_, talk, code := b.run(append(strings.Fields(verb), "--devices", "", "--devicesfile", filepath.Join(b.dir, "no", "file"))...)
		if code != exitInit || !strings.Contains(talk, "no/file") {
			t.Errorf("%s: exit code %d, stderr %q", verb, code, talk)
		}
	}
}

func TestUnknownCommand(t *testing.T) {
	b := &bystander{t: t, dir: t.TempDir()}
	for name, hint := range map[string]string{"foo": "", "lvz": "lvs", "lvcreat": "lvcreate", "vgcretae": "vgcreate", "bakcup": "backup", "overlay crate": "create"} {
		out, talk, code := b.run(append(strings.Fields(name), "--whatever", "x")...)
		if code != exitNoCommand || out != "" {
			t.Errorf("%s: exit code %d, stdout %q", name, code, out)
		}
		if !strings.Contains(talk, "No such command '"+name+"'") || !strings.Contains(talk, hint) {
			t.Errorf("%s: %q", name, talk)
		}
	}
	out, _, code := b.run()
	if code != 0 || !strings.Contains(out, "LVM's commands:") {
		t.Errorf("cowl alone: exit code %d\n%s", code, out)
	}
}
