package nbd

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/block/mem"
	"cowl/internal/judge"
)

// judgedSize is that of the devices which other people's clients work on.
const judgedSize = 24<<20 + 512

// backends are what the server is judged with: each makes an empty device.
var backends = map[string]func(t *testing.T) block.Device{
	"mem": func(*testing.T) block.Device { return mem.New(judgedSize) },
	"file": func(t *testing.T) block.Device {
		d, err := file.Create(filepath.Join(t.TempDir(), "image"), judgedSize)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	},
}

// judged runs a test on each backend, served as "vol" beside another export.
func judged(t *testing.T, programs []string, f func(t *testing.T, dev block.Device, uri string)) {
	judge.Need(t, programs...)
	for name, make := range backends {
		t.Run(name, func(t *testing.T) {
			dev := make(t)
			_, path := startServer(t, newShelf().with("vol", dev).with("the other", mem.New(1<<20)))
			f(t, dev, URI{"unix", path, "vol"}.String())
		})
	}
}

// runTool runs a program and returns what it said.
func runTool(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(judge.Find(program), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// runJSON runs a program whose answer is JSON.
func runJSON(t *testing.T, answer any, program string, args ...string) {
	t.Helper()
	out := runTool(t, program, args...)
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// scatter writes random pieces of data over a device, and returns its content.
func scatter(t *testing.T, dev block.Device) []byte {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	content := make([]byte, dev.Size())
	for range 40 {
		n := 1 + rng.IntN(300<<10)
		off := rng.IntN(len(content) - n)
		for i := range n {
			content[off+i] = byte(rng.Uint32())
		}
		if _, err := dev.WriteAt(content[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

// contentOf reads a device.
func contentOf(t *testing.T, dev block.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// extentsOf lists a device's extents.
func extentsOf(t *testing.T, dev block.Device) []block.Extent {
	t.Helper()
	var list []block.Extent
	for e, err := range block.Coalesce(dev.Extents(0, dev.Size())) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// What libnbd learns of an export must be what it is.
func TestNbdinfo(t *testing.T) {
	judged(t, []string{"nbdinfo"}, func(t *testing.T, dev block.Device, uri string) {
		type information struct {
			Name        string   `json:"export-name"`
			Description string   `json:"description"`
			Size        int64    `json:"export-size"`
			ReadOnly    bool     `json:"is_read_only"`
			Cache       bool     `json:"can_cache"`
			DF          bool     `json:"can_df"`
			FastZero    bool     `json:"can_fast_zero"`
			Flush       bool     `json:"can_flush"`
			FUA         bool     `json:"can_fua"`
			MultiConn   bool     `json:"can_multi_conn"`
			Trim        bool     `json:"can_trim"`
			Zero        bool     `json:"can_zero"`
			Minimum     int      `json:"block_size_minimum"`
			Preferred   int      `json:"block_size_preferred"`
			Maximum     int      `json:"block_size_maximum"`
			Contexts    []string `json:"contexts"`
		}
		var answer struct {
			Protocol string `json:"protocol"`
			Exports  []information
		}
		want := information{
			Name: "vol", Description: "about vol", Size: judgedSize,
			Cache: true, DF: true, FastZero: true, Flush: true, FUA: true, MultiConn: true, Trim: dev.Caps().Discard, Zero: true,
			Minimum: 1, Preferred: 4096, Maximum: 32 << 20,
			Contexts: []string{contextAllocation, contextDepth},
		}
		same := func(got information) {
			t.Helper()
			if a, b := toJSON(t, got), toJSON(t, want); a != b {
				t.Errorf("nbdinfo says\n%s, want\n%s", a, b)
			}
		}
		runJSON(t, &answer, "nbdinfo", "--json", uri)
		same(answer.Exports[0])
		if answer.Protocol != "newstyle-fixed" {
			t.Errorf("protocol %s", answer.Protocol)
		}
		answer.Exports = nil
		runJSON(t, &answer, "nbdinfo", "--json", "--list", uri)
		if len(answer.Exports) != 2 {
			t.Fatalf("%d exports in the list", len(answer.Exports))
		}
		same(answer.Exports[0])
		want.Name, want.Description, want.Size, want.Trim = "the other", "about the other", 1<<20, true
		same(answer.Exports[1])
	})
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// libnbd's map of an export must be the device's extents.
func TestNbdinfoMap(t *testing.T) {
	judged(t, []string{"nbdinfo"}, func(t *testing.T, dev block.Device, uri string) {
		scatter(t, dev)
		for context, state := range map[string]func(e block.Extent) uint32{
			contextAllocation: func(e block.Extent) uint32 { return stateOf(e, idAllocation) },
			contextDepth:      func(e block.Extent) uint32 { return stateOf(e, idDepth) },
		} {
			var got []struct {
				Offset, Length int64
				Type           uint32
			}
			runJSON(t, &got, "nbdinfo", "--json", "--map="+context, uri)
			want := extentsOf(t, dev)
			if len(got) != len(want) {
				t.Fatalf("%s: %d extents, want %d", context, len(got), len(want))
			}
			for i, g := range got {
				if w := want[i]; g.Offset != w.Off || g.Length != w.Len || g.Type != state(w) {
					t.Errorf("%s: %+v, want %+v", context, g, w)
				}
			}
		}
	})
}

// nbdcopy, over four connections with all their requests at once, must copy
// every byte in and out.
func TestNbdcopy(t *testing.T) {
	judged(t, []string{"nbdcopy"}, func(t *testing.T, dev block.Device, uri string) {
		want := scatter(t, dev)
		for _, how := range [][]string{nil, {"--connections=4", "--requests=64"}, {"--synchronous"}, {"--allocated", "--request-size=33554432"}} {
			out := filepath.Join(t.TempDir(), "out")
			runTool(t, "nbdcopy", slices.Concat(how, []string{uri, out})...)
			got, err := os.ReadFile(out)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("nbdcopy %v: what came out differs (%v)", how, err)
			}
			if err := dev.WriteZeroes(0, dev.Size()); err != nil {
				t.Fatal(err)
			}
			runTool(t, "nbdcopy", slices.Concat(how, []string{"--flush", out, uri})...)
			if !bytes.Equal(contentOf(t, dev), want) {
				t.Fatalf("nbdcopy %v: what went in differs", how)
			}
		}
	})
}

// qemu-img must copy in and out, find no difference, and see the same map.
func TestQemuImg(t *testing.T) {
	judged(t, []string{"qemu-img"}, func(t *testing.T, dev block.Device, uri string) {
		want := scatter(t, dev)
		dir := t.TempDir()
		raw, qcow2 := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
		runTool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, qcow2)
		runTool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", qcow2, raw)
		if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("what came out differs (%v)", err)
		}
		if _, err := dev.WriteAt(bytes.Repeat([]byte("old"), 1<<20), 0); err != nil {
			t.Fatal(err)
		}
		runTool(t, "qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "qcow2", "-O", "raw", qcow2, uri)
		if !bytes.Equal(contentOf(t, dev), want) {
			t.Fatal("what went in differs")
		}
		if out := runTool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", qcow2, uri); !strings.Contains(out, "identical") {
			t.Errorf("qemu-img compare: %s", out)
		}
		var got []struct {
			Start, Length int64
			Depth         int
			Zero, Data    bool
		}
		runJSON(t, &got, "qemu-img", "map", "--output=json", "-f", "raw", uri)
		at := int64(0)
		for _, e := range extentsOf(t, dev) {
			for at < e.End() { // qemu may cut extents
				if len(got) == 0 || got[0].Start != at || got[0].Zero != (e.Kind != block.Data) || got[0].Data != (e.Kind != block.Hole) {
					t.Fatalf("map differs at %d: %+v, want %+v", at, got, e)
				}
				at += got[0].Length
				got = got[1:]
			}
		}
	})
}

// qemu-io does what a virtual machine's disk does, at odd places too.
func TestQemuIO(t *testing.T) {
	judged(t, []string{"qemu-io"}, func(t *testing.T, dev block.Device, uri string) {
		script := []string{
			"write -P 0x11 0 1M", "write -f -P 0x22 512 512", "write -P 0x33 1000 3001", "flush",
			"write -z 64k 64k", "write -z -u 256k 64k", "discard 512k 64k", "write -P 0x44 540k 4k",
			"aio_write -P 0x55 2M 1M", "aio_write -P 0x66 3M 1M", "aio_write -P 0x77 4M 64k", "aio_flush",
			"read -P 0x11 0 512", "read -P 0x22 512 488", "read -P 0x33 1000 3001", "read -P 0x11 4001 60k",
			"read -P 0 64k 64k", "read -P 0 256k 64k", "read -P 0x44 540k 4k", "read -P 0x11 800k 10k",
			"read -P 0x55 2M 1M", "read -P 0x66 3M 1M", "read -P 0x77 4M 64k", "read -P 0 20M 1M",
			"write -P 0x88 25165824 512", "read -P 0x88 25165824 512", // the last sector
		}
		args := []string{"-f", "raw"}
		for _, c := range script {
			args = append(args, "-c", c)
		}
		if out := runTool(t, "qemu-io", append(args, uri)...); strings.Contains(out, "fail") || strings.Contains(out, "rror") {
			t.Errorf("qemu-io: %s", out)
		}
	})
}

// fio writes all over the device, 32 requests at a time with flushes between
// them, and finds each block as it wrote it.
func TestFioVerify(t *testing.T) {
	judged(t, []string{"fio"}, func(t *testing.T, dev block.Device, uri string) {
		for _, how := range [][]string{
			{"--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=1", "--fsync=50"},
			{"--rw=randwrite", "--bs=4k", "--fsync=32"},
			{"--rw=write", "--bs=1m"},
		} {
			args := []string{"--name=judge", "--ioengine=nbd", "--uri=" + uri, "--size=16m", "--iodepth=32",
				"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--output-format=terse"}
			runTool(t, "fio", append(args, how...)...)
		}
	})
}

// Our client must get on with other people's servers: a restore may go to
// qemu's disk, and what they send is the best test of what we read.
func TestForeignServers(t *testing.T) {
	servers := map[string]func(socket, image string) *exec.Cmd{
		"nbdkit": func(socket, image string) *exec.Cmd {
			return exec.Command(judge.Find("nbdkit"), "-f", "-U", socket, "file", image)
		},
		"nbdkit plain": func(socket, image string) *exec.Cmd {
			return exec.Command(judge.Find("nbdkit"), "-f", "--no-sr", "-U", socket, "file", image)
		},
		"qemu-nbd": func(socket, image string) *exec.Cmd {
			return exec.Command(judge.Find("qemu-nbd"), "-t", "-e", "4", "-x", "", "-A", "--discard=unmap", "-f", "raw", "-k", socket, image)
		},
	}
	for name, command := range servers {
		t.Run(name, func(t *testing.T) {
			judge.Need(t, strings.Fields(name)[0])
			dir := t.TempDir()
			image, socket := filepath.Join(dir, "image"), filepath.Join(dir, "socket")
			dev, err := file.Create(image, judgedSize)
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			want := scatter(t, dev)
			server := command(socket, image)
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { server.Process.Kill(); server.Wait() }()
			eventually(t, func() bool {
				nc, err := net.Dial("unix", socket)
				if err == nil {
					nc.Close()
				}
				return err == nil
			})

			d := dial(t, socket, "")
			if d.Size() != dev.Size() || !bytes.Equal(contentOf(t, d), want) {
				t.Error("content differs")
			}
			for _, e := range extentsOf(t, d) {
				if e.Kind != block.Data && bytes.Trim(want[e.Off:e.End()], "\x00") != nil {
					t.Errorf("%+v is not", e)
				}
			}
			if name != "nbdkit plain" && len(extentsOf(t, d)) != len(extentsOf(t, dev)) {
				t.Errorf("%d extents, want %d", len(extentsOf(t, d)), len(extentsOf(t, dev)))
			}
			change := func(off, length int64, op func(off, length int64) error, fill byte) {
				t.Helper()
				if err := op(off, length); err != nil {
					t.Error(err)
				}
				for i := range length {
					want[off+i] = fill
				}
			}
			change(12345, 300001, func(off, n int64) error { _, err := d.WriteAt(bytes.Repeat([]byte{7}, int(n)), off); return err }, 7)
			change(54321, 100003, d.WriteZeroes, 0)
			if err := d.Discard(1<<20, 1<<20); err != nil {
				t.Error(err)
			}
			if err := d.Flush(); err != nil {
				t.Error(err)
			}
			got := contentOf(t, dev)
			copy(got[1<<20:2<<20], want[1<<20:])
			if !bytes.Equal(got, want) {
				t.Error("what was written differs")
			}
		})
	}
}
