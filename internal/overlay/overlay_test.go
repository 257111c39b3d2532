package overlay

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

func isNoOverlay(err error) bool { return errs.Is(err, errs.NotFound) }

// place is a directory with a raw base.
type place struct {
	t       *testing.T
	dir     string
	content []byte
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir()}
	_, p.content = random(t, rand.New(rand.NewPCG(1, 2)), 1<<20+512)
	must(t, os.WriteFile(p.at("base"), p.content, 0o600))
	return p
}

func (p *place) at(name string) string { return filepath.Join(p.dir, name) }

func (p *place) create(name string) {
	p.t.Helper()
	if _, err := Create(p.at(name), p.at("base"), CreateOptions{Now: time.Unix(1700000000, 0)}); err != nil {
		p.t.Fatal(err)
	}
}

// write writes to an overlay and returns what it should show then.
func (p *place) write(name string, off int64, text string) []byte {
	p.t.Helper()
	o, err := Open(p.at(name), false)
	must(p.t, err)
	_, err = o.Device().WriteAt([]byte(text), off)
	must(p.t, err)
	content := blocktest.ReadAll(p.t, o.Device())
	must(p.t, o.Close())
	return content
}

func (p *place) read(name string) []byte {
	p.t.Helper()
	o, err := Open(p.at(name), true)
	must(p.t, err)
	defer func() { must(p.t, o.Close()) }()
	return blocktest.ReadAll(p.t, o.Device())
}

func (p *place) refused(name string, kind errs.Kind, parts ...string) {
	p.t.Helper()
	o, err := Open(p.at(name), false)
	if err == nil {
		_ = o.Close()
	}
	if !errs.Is(err, kind) {
		p.t.Errorf("opening %s: %v, want kind %v", name, err, kind)
		return
	}
	for _, part := range append(parts, name) {
		if !strings.Contains(err.Error()+errs.HintOf(err), part) {
			p.t.Errorf("opening %s: %q does not say %q", name, err, part)
		}
	}
}

func (p *place) state(name string, want State) {
	p.t.Helper()
	i, err := Inspect(p.at(name))
	must(p.t, err)
	if i.State != want {
		p.t.Errorf("%s is %q (%s), want %q", name, i.State, i.Reason, want)
	}
}

// Two overlays over one base at the same time: each has its own writes, the
// base has none.
func TestTwoOverlays(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	p.create("b")
	var open []*Overlay
	for i, name := range []string{"a", "b"} {
		o, err := Open(p.at(name), false)
		must(t, err)
		_, err = o.Device().WriteAt(bytes.Repeat([]byte(name), 5000), int64(1000+i))
		must(t, err)
		open = append(open, o)
	}
	for i, o := range open {
		want := bytes.Clone(p.content)
		copy(want[1000+i:], bytes.Repeat([]byte{"ab"[i]}, 5000))
		if !bytes.Equal(blocktest.ReadAll(t, o.Device()), want) {
			t.Errorf("overlay %d does not show its own writes alone", i)
		}
	}
	p.refused("a", errs.Busy)
	p.state("a", InUse)
	if err := Discard(p.at("a"), true); !errs.Is(err, errs.Busy) {
		t.Errorf("discard of what is in use: %v", err)
	}
	must(t, open[0].Close())
	if err := Merge(t.Context(), p.at("a"), 0, nil); !errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), "base") {
		t.Errorf("merge into a base that another overlay uses: %v", err)
	}
	must(t, open[1].Close())
	got, err := os.ReadFile(p.at("base"))
	must(t, err)
	if !bytes.Equal(got, p.content) {
		t.Error("the base was written")
	}
	found, err := Siblings(p.at("a"))
	if err != nil || !slices.Equal(found, []string{p.at("b")}) {
		t.Errorf("siblings %v, %v", found, err)
	}
}

func TestSparse(t *testing.T) {
	p := newPlace(t)
	must(t, os.Truncate(p.at("base"), 1<<40))
	p.create("a")
	i, err := Inspect(p.at("a"))
	must(t, err)
	if i.Size != 1<<40 || i.Chunk != 4096 || i.Disk > 64<<10 || i.Usage.Total != useful(1<<40, 4096) || i.Usage.Allocated != i.Usage.Metadata {
		t.Errorf("%+v", i)
	}
	o, err := Open(p.at("a"), false)
	must(t, err)
	_, err = o.Device().WriteAt([]byte("far away"), 1<<39)
	must(t, err)
	must(t, o.Close())
	if i, err = Inspect(p.at("a")); err != nil || i.Disk > 64<<10 || i.Chunks != 1 {
		t.Errorf("%+v, %v", i, err)
	}
}

// Whatever changed is found, named, and refused.
func TestBaseChanged(t *testing.T) {
	write := func(p *place, off int64) {
		f, err := os.OpenFile(p.at("base"), os.O_WRONLY, 0)
		must(p.t, err)
		_, err = f.WriteAt([]byte{^p.content[off]}, off)
		must(p.t, err)
		must(p.t, f.Close())
	}
	past := func(p *place) { must(p.t, os.Chtimes(p.at("base"), time.Time{}, time.Unix(1600000000, 0))) }
	for name, c := range map[string]struct {
		do    func(p *place)
		say   string
		state State
	}{
		"written":             {func(p *place) { write(p, 300<<10+1) }, "was written at", Changed},
		"written, time reset": {func(p *place) { write(p, 300<<10+1); past(p) }, "was changed at", Changed},
		"written where it is sampled": {func(p *place) {
			write(p, 100)
		}, "another content", Changed},
		"longer":      {func(p *place) { must(p.t, os.Truncate(p.at("base"), 2<<20)) }, "2097152 bytes and had 1049088", Changed},
		"shorter":     {func(p *place) { must(p.t, os.Truncate(p.at("base"), 1<<20)) }, "1048576 bytes and had 1049088", Changed},
		"empty":       {func(p *place) { must(p.t, os.Truncate(p.at("base"), 0)) }, "is empty", Changed},
		"gone":        {func(p *place) { must(p.t, os.Remove(p.at("base"))) }, "is missing", Missing},
		"a directory": {func(p *place) { must(p.t, os.Remove(p.at("base"))); must(p.t, os.Mkdir(p.at("base"), 0o700)) }, "directory", BaseBad},
		"another file": {func(p *place) {
			must(p.t, os.WriteFile(p.at("new"), p.content, 0o600))
			past(p)
			must(p.t, os.Rename(p.at("new"), p.at("base")))
			past(p)
		}, "another file", Changed},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			past(p)
			p.create("a")
			want := p.write("a", 5000, "mine")
			time.Sleep(20 * time.Millisecond) // for file systems whose clocks are slow
			c.do(p)
			o, err := Open(p.at("a"), false)
			if err == nil {
				_ = o.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), p.at("base")) {
				t.Errorf("%v, want %q", err, c.say)
			}
			if err := Merge(t.Context(), p.at("a"), 0, nil); err == nil {
				t.Error("it was merged")
			}
			p.state("a", c.state)
			_ = want
		})
	}
}

// Somebody who does not ask for locks writes to the base while it is served.
func TestBaseChangesUnderneath(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	o, err := Open(p.at("a"), false)
	must(t, err)
	time.Sleep(20 * time.Millisecond)
	must(t, os.Chtimes(p.at("base"), time.Time{}, time.Unix(1600000000, 0)))
	if err := o.Close(); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "base has changed") {
		t.Errorf("Close: %v", err)
	}
}

func TestRebase(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	want := p.write("a", 5000, "mine")
	must(t, os.Rename(p.at("base"), p.at("moved")))
	p.refused2("a", errs.NotFound, "rebase")
	must(t, Rebase(p.at("a"), p.at("moved")))
	if !bytes.Equal(p.read("a"), want) {
		t.Error("on the moved base it shows something else")
	}
	other := bytes.Clone(p.content)
	other[len(other)-1] ^= 1
	must(t, os.WriteFile(p.at("other"), other, 0o600))
	if err := Rebase(p.at("a"), p.at("other")); !errs.Is(err, errs.Conflict) {
		t.Errorf("on another base: %v", err)
	}
	must(t, os.WriteFile(p.at("short"), other[:1000], 0o600))
	if err := Rebase(p.at("a"), p.at("short")); !errs.Is(err, errs.Conflict) {
		t.Errorf("on a shorter base: %v", err)
	}
	if !bytes.Equal(p.read("a"), want) {
		t.Error("after what was refused it shows something else")
	}
}

// refused2 is refused for errors that name the base, not the overlay.
func (p *place) refused2(name string, kind errs.Kind, hint string) {
	p.t.Helper()
	_, err := Open(p.at(name), false)
	if !errs.Is(err, kind) || !strings.Contains(errs.HintOf(err), hint) {
		p.t.Errorf("opening %s: %v (%s), want kind %v", name, err, errs.HintOf(err), kind)
	}
}

func TestMergeFiles(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	p.create("b")
	want := p.write("a", 5000, strings.Repeat("mine", 50000))
	disk := func() int64 {
		i, err := Inspect(p.at("a"))
		must(t, err)
		return i.Disk
	}
	full := disk()
	var told []int
	must(t, Merge(t.Context(), p.at("a"), 0, func(left, total int) { told = append(told, left) }))
	if len(told) < 2 || told[0] == 0 || told[len(told)-1] != 0 {
		t.Errorf("progress %v", told)
	}
	got, err := os.ReadFile(p.at("base"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the base is not what the overlay showed; %v", err)
	}
	if now := disk(); now > 32<<10 || now >= full {
		t.Errorf("the merged overlay takes %d bytes, it took %d", now, full)
	}
	p.state("a", OK)
	p.state("b", Changed)
	want = p.write("a", 1, "again")
	must(t, Merge(t.Context(), p.at("a"), 0, nil))
	if got, err := os.ReadFile(p.at("base")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the second merge: %v", err)
	}
}

// A merge that is interrupted is recognised, nothing else is possible, and it
// goes on.
func TestMergeInterrupted(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	want := p.write("a", 5000, strings.Repeat("mine", 50000))
	ctx, cancel := context.WithCancel(t.Context())
	err := Merge(ctx, p.at("a"), 0, func(left, total int) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("merge: %v", err)
	}
	p.state("a", Merging)
	p.refused("a", errs.Conflict, "half merged", "cowl overlay merge")
	if err := Discard(p.at("a"), false); !errs.Is(err, errs.Conflict) {
		t.Errorf("discard: %v", err)
	}
	if err := Rebase(p.at("a"), p.at("base")); !errs.Is(err, errs.Conflict) {
		t.Errorf("rebase: %v", err)
	}
	must(t, Merge(t.Context(), p.at("a"), 0, nil))
	if got, err := os.ReadFile(p.at("base")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("merged: %v", err)
	}
	must(t, Discard(p.at("a"), false))
	if _, err := os.Stat(p.at("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("discarded: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	must(t, os.WriteFile(p.at("empty"), nil, 0o600))
	for name, c := range map[string]struct {
		path, base string
		o          CreateOptions
		kind       errs.Kind
	}{
		"a file that is there": {"a", "base", CreateOptions{}, errs.Exists},
		"a base that is not":   {"x", "nosuch", CreateOptions{}, errs.NotFound},
		"an empty base":        {"x", "empty", CreateOptions{}, errs.Conflict},
		"a directory":          {"x", ".", CreateOptions{}, errs.Usage},
		"an odd chunk":         {"x", "base", CreateOptions{Chunk: 5000}, errs.Usage},
		"a tiny store":         {"x", "base", CreateOptions{Size: 8192}, errs.Usage},
		"another format":       {"x", "base", CreateOptions{Format: "vmdk"}, errs.Usage},
		"raw as qcow2":         {"x", "base", CreateOptions{Format: "qcow2"}, errs.Corrupt},
		"nowhere":              {"no/x", "base", CreateOptions{}, errs.NotFound},
	} {
		if _, err := Create(p.at(c.path), p.at(c.base), c.o); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v, want kind %v", name, err, c.kind)
		}
	}
	if _, err := os.Stat(p.at("x")); err == nil {
		t.Error("what was refused left a file")
	}
}

// Bases so large that chunks of 4 KiB would be too many get larger ones.
func TestStoreSize(t *testing.T) {
	for _, c := range []struct {
		base int64
		o    CreateOptions
		want int64
	}{
		{1, CreateOptions{}, 4096},
		{15 << 40, CreateOptions{}, 4096},
		{16 << 40, CreateOptions{}, 8192},
		{16 << 40, CreateOptions{Chunk: 65536}, 65536},
	} {
		if chunk, size, err := storeSize(c.base, c.o); err != nil || chunk != c.want || size != useful(c.base, chunk) {
			t.Errorf("base of %d: chunks of %d, %d bytes, %v", c.base, chunk, size, err)
		}
	}
	if _, _, err := storeSize(16<<40, CreateOptions{Chunk: 4096}); !errs.Is(err, errs.Unsupported) {
		t.Errorf("too many chunks: %v", err)
	}
	if chunk, size, err := storeSize(1<<30, CreateOptions{Size: 1<<20 + 5}); err != nil || chunk != 4096 || size != 1<<20 {
		t.Errorf("a smaller store: %d, %d, %v", chunk, size, err)
	}
}

func TestList(t *testing.T) {
	p := newPlace(t)
	p.create("b")
	p.create("a")
	must(t, os.Mkdir(p.at("dir"), 0o700))
	must(t, os.Symlink(p.at("a"), p.at("link"))) // not looked at twice
	list, err := List(p.dir)
	must(t, err)
	var names []string
	for _, i := range list {
		names = append(names, filepath.Base(i.Path))
	}
	if !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("%v", names)
	}
	damaged, err := os.OpenFile(p.at("a"), os.O_WRONLY, 0)
	must(t, err)
	_, err = damaged.WriteAt([]byte{1}, 600)
	must(t, err)
	must(t, damaged.Close())
	list, err = List(p.dir)
	if len(list) != 1 || !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), p.at("a")) {
		t.Errorf("with a damaged one: %v, %v", list, err)
	}
}

// Bytes that somebody changed give errors, and no panic.
func TestDamagedFile(t *testing.T) {
	p := newPlace(t)
	p.create("a")
	p.write("a", 5000, "mine")
	good, err := os.ReadFile(p.at("a"))
	must(t, err)
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	for range 60 {
		b := bytes.Clone(good)
		for range 1 + rng.IntN(4) {
			b[rng.IntN(8192)] = byte(rng.Uint32())
		}
		must(t, os.WriteFile(p.at("a"), b[:len(b)-rng.IntN(2)*rng.IntN(len(b))], 0o600))
		if o, err := Open(p.at("a"), false); err == nil {
			_, _ = o.Device().WriteAt([]byte("x"), 77777)
			_ = o.Close()
		}
		_, _ = Inspect(p.at("a"))
	}
}

// A disk as the base: shared with other overlays, not with who writes.
func TestDiskAsBase(t *testing.T) {
	judge.NeedLoop(t)
	p := newPlace(t)
	out, err := exec.Command("losetup", "--find", "--show", p.at("base")).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	disk := strings.TrimSpace(string(out))
	defer func() {
		if out, err := exec.Command("losetup", "--detach", disk).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	}()
	for _, name := range []string{"a", "b"} {
		_, err := Create(p.at(name), disk, CreateOptions{Now: time.Now()})
		must(t, err)
	}
	a, err := Open(p.at("a"), false)
	must(t, err)
	b, err := Open(p.at("b"), false)
	must(t, err)
	if d, err := file.Open(disk, file.Options{Lock: file.Exclusive}); err == nil {
		_ = d.Close()
		t.Error("a base in use can be opened exclusively")
	}
	must(t, a.Close())
	must(t, b.Close())
	want := p.write("b", 9000, "through the disk")
	owner, err := file.Open(disk, file.Options{Lock: file.Exclusive})
	must(t, err)
	p.refused2("a", errs.Busy, "")
	must(t, owner.Close())
	must(t, Merge(t.Context(), p.at("b"), 0, nil))
	if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, want) {
		t.Errorf("merged into a disk: %v", err)
	}
	p.state("b", OK)
	p.state("a", Changed)
}

// qcow2 images as bases, with backing files; cloned content, own writes.
func TestQcow2AsBase(t *testing.T) {
	judge.Need(t, "qemu-img", "qemu-io")
	p := newPlace(t)
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = p.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base", "top")
	run("qemu-io", "-c", "write -q -P 17 100k 300k", "top")
	_, err := Create(p.at("a"), p.at("top"), CreateOptions{})
	must(t, err)
	copy(p.content[100<<10:400<<10], bytes.Repeat([]byte{17}, 300<<10))
	copy(p.content[101<<10:], "mine")
	if got := p.write("a", 101<<10, "mine"); !bytes.Equal(got, p.content) {
		t.Error("the overlay does not show the image with what was written")
	}
	if err := Merge(t.Context(), p.at("a"), 0, nil); !errs.Is(err, errs.Unsupported) {
		t.Errorf("merge into qcow2: %v", err)
	}
	// The file below the image is part of the base.
	must(t, os.Chtimes(p.at("base"), time.Time{}, time.Unix(1600000000, 0)))
	p.refused2("a", errs.Conflict, "rebase")
	must(t, Rebase(p.at("a"), p.at("top")))
	p.read("a")

	// Images that lead elsewhere.
	must(t, os.Mkdir(p.at("in"), 0o700))
	run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "../base", "in/up")
	if _, err := Create(p.at("x"), p.at("in/up"), CreateOptions{}); !errs.Is(err, errs.Denied) || !strings.Contains(errs.HintOf(err), "--backing-anywhere") {
		t.Errorf("backed by a file elsewhere: %v", err)
	}
	_, err = Create(p.at("x"), p.at("in/up"), CreateOptions{BackingAnywhere: true})
	must(t, err)
	p.read("x")
	run("qemu-img", "create", "-q", "-f", "qcow2", "loop", "1M")
	run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "loop", "loop")
	if _, err := Create(p.at("y"), p.at("loop"), CreateOptions{}); !errs.Is(err, errs.Corrupt) {
		t.Errorf("backed by itself: %v", err)
	}
	for name, backing := range map[string]string{"json": "json:{\"driver\":\"raw\"}", "nbd": "nbd://127.0.0.1/x"} {
		run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, name, "1M")
		if _, err := Create(p.at("y"), p.at(name), CreateOptions{}); !errs.Is(err, errs.Unsupported) {
			t.Errorf("backed by %s: %v", backing, err)
		}
	}
}

// A file system that is full: writes fail, and nothing is lost.
func TestFullFileSystem(t *testing.T) {
	judge.NeedRoot(t)
	small := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1M", "none", small).CombinedOutput(); err != nil {
		judge.Absent(t, "cannot mount a tmpfs: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	p := newPlace(t)
	must(t, os.Truncate(p.at("base"), 16<<20))
	path := filepath.Join(small, "a")
	_, err := Create(path, p.at("base"), CreateOptions{})
	must(t, err)
	o, err := Open(path, false)
	must(t, err)
	want := make([]byte, 16<<20)
	copy(want, p.content)
	failed := 0
	for off := int64(0); off < 16<<20; off += 10000 {
		b := bytes.Repeat([]byte{byte(off)}, 5000)
		b = b[:min(int64(len(b)), 16<<20-off)]
		switch _, err := o.Device().WriteAt(b, off); {
		case err == nil:
			copy(want[off:], b)
		case errs.Is(err, errs.NoSpace):
			failed++
		default:
			t.Fatal(err)
		}
	}
	if failed == 0 {
		t.Fatal("16 MiB fit into 1 MiB")
	}
	must(t, o.Device().Flush())
	if !bytes.Equal(blocktest.ReadAll(t, o.Device()), want) {
		t.Error("the content is not what was written")
	}
	must(t, o.Close())
	o, err = Open(path, true)
	must(t, err)
	if !bytes.Equal(blocktest.ReadAll(t, o.Device()), want) {
		t.Error("opened again, the content is not what was written")
	}
	must(t, o.Close())
}
