package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// server is something that serves a volume of b.size bytes.
type server struct {
	name  string
	needs []string                       // programs
	check func(b *bench) (reason string) // why it cannot be measured; may be nil
	start func(b *bench) (*running, error)
}

// servers are the rows of the table.
var servers = []server{
	{name: "raw psync", start: raw("psync")},
	{name: "raw io_uring", start: raw("io_uring"), check: hasURing},
	{name: "cowl", start: cowl(0, "")},
	{name: "cowl 1 snapshot 4k", start: cowl(1, "4k")},
	{name: "cowl 1 snapshot 64k", start: cowl(1, "64k")},
	{name: "cowl 8 snapshots 4k", start: cowl(8, "4k")},
	{name: "nbdkit file", needs: []string{"nbdkit"}, start: nbdkit()},
	{name: "nbdkit cow 4k", needs: []string{"nbdkit"}, check: hasCow, start: nbdkit("--filter=cow", "4k")},
	{name: "nbdkit cow 64k", needs: []string{"nbdkit"}, check: hasCow, start: nbdkit("--filter=cow", "64k")},
	{name: "qemu-nbd raw", needs: []string{"qemu-nbd"}, start: qemuRaw},
	{name: "qemu-nbd qcow2+snapshot", needs: []string{"qemu-nbd", "qemu-img"}, start: qemuSnapshot},
	{name: "qemu copy-before-write", needs: []string{"qemu-storage-daemon"}, start: qemuCopyBeforeWrite},
}

// prepare makes the files that the servers work on: the same content, all of
// it allocated. Raw files are shared by those that serve such.
func (b *bench) prepare(servers []server) error {
	if err := b.fill(b.path("raw.img")); err != nil {
		return err
	}
	has := func(prefix string) bool {
		return slices.ContainsFunc(servers, func(s server) bool { return strings.HasPrefix(s.name, prefix) })
	}
	if has("qemu-nbd qcow2") {
		if err := b.do(nil, "qemu-img", "convert", "-O", "qcow2", b.path("raw.img"), b.path("qcow2.img")); err != nil {
			return err
		}
	}
	if has("cowl") {
		if err := b.prepareCowl(); err != nil {
			return err
		}
	}
	return b.warm()
}

// fill writes a file of b.size bytes that no server can take for holes.
func (b *bench) fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = io.CopyN(f, rand.New(rand.NewSource(seed)), b.size); err != nil {
		return err
	}
	return f.Sync()
}

// raw is the limit: fio on the file itself, through the page cache.
func raw(engine string) func(*bench) (*running, error) {
	return func(b *bench) (*running, error) {
		file := b.path("raw.img")
		return &running{target: target{engine: engine, file: file, args: []string{"--filename=" + file, "--invalidate=0"}}, depth1: engine == "psync"}, nil
	}
}

func hasURing(b *bench) string {
	file := b.path("probe")
	defer os.Remove(file)
	if b.do(nil, "fio", "--name=probe", "--ioengine=io_uring", "--rw=write", "--size=4k", "--filename="+file) != nil {
		return "fio cannot use io_uring here."
	}
	return ""
}

// overNBD is an export on a unix socket. fio's engine names its file "nbd".
func overNBD(export, socket string) target {
	return target{engine: "nbd", file: "nbd", args: []string{"--uri=nbd+unix:///" + export + "?socket=" + socket}}
}

const cowSlack = 64 * mib // for a store's metadata, more than it needs

// cowlEnv keeps cowl to our two files and out of the user's directories.
func (b *bench) cowlEnv() []string {
	return []string{"COWL_DEVICES=" + b.path("pv.img") + "," + b.path("cow.img"),
		"COWL_RUN_DIR=" + b.path("run"), "COWL_STATE_DIR=" + b.path("state")}
}

func (b *bench) cowlDo(args ...string) error { return b.do(b.cowlEnv(), b.cowl, args...) }

// cowSize is the size of the sparse PV for 8 snapshots.
func (b *bench) cowSize() int64 { return 8*(b.size+b.size/16+cowSlack) + cowSlack }

// prepareCowl makes a group of two PVs: one for the volume, one for snapshots.
func (b *bench) prepareCowl() error {
	pv, cow := b.path("pv.img"), b.path("cow.img")
	return errors.Join(
		sparse(pv, b.size+cowSlack),
		sparse(cow, b.cowSize()),
		b.cowlDo("pvcreate", "-y", pv, cow),
		b.cowlDo("vgcreate", "bench", pv, cow),
		b.cowlDo("lvcreate", "-y", "-L", fmt.Sprintf("%dm", b.size/mib), "-n", "data", "bench", pv),
		b.fillCowl(),
	)
}

// fillCowl writes the raw file's content into the volume.
func (b *bench) fillCowl() error {
	r, err := b.serveCowl()
	if err != nil {
		return err
	}
	err = b.do(nil, "fio", append([]string{"--name=fill", "--ioengine=nbd", "--rw=write", "--bs=1M", "--iodepth=4",
		fmt.Sprintf("--size=%d", b.size)}, r.target.args...)...)
	return errors.Join(err, r.stop())
}

// cowl serves the volume with so many fresh snapshots of a chunk size.
func cowl(snapshots int, chunk string) func(*bench) (*running, error) {
	return func(b *bench) (*running, error) {
		if err := b.takeSnapshots(snapshots, chunk); err != nil {
			return nil, err
		}
		r, err := b.serveCowl()
		if err != nil {
			return nil, err
		}
		r.cleanup = func() error { return b.dropSnapshots(snapshots) }
		return r, nil
	}
}

// takeSnapshots makes snapshots that cannot fill up.
func (b *bench) takeSnapshots(n int, chunk string) error {
	for i := range n {
		err := b.cowlDo("lvcreate", "-y", "-s", "-L", fmt.Sprintf("%dm", (b.size+b.size/16+cowSlack)/mib), "-c", chunk,
			"-n", fmt.Sprintf("snap%d", i), "bench/data", b.path("cow.img"))
		if err != nil {
			return err
		}
	}
	return nil
}

// dropSnapshots removes the snapshots, and frees their PV's blocks so that the
// next ones have to allocate theirs, as the peers' overlays do.
func (b *bench) dropSnapshots(n int) error {
	for i := range n {
		if err := b.cowlDo("lvremove", "-y", fmt.Sprintf("bench/snap%d", i)); err != nil {
			return err
		}
	}
	cow := b.path("cow.img")
	return errors.Join(os.Truncate(cow, mib), os.Truncate(cow, b.cowSize())) // labels and metadata are in the first MiB
}

// serveCowl starts what vgchange -ay starts, in the foreground.
func (b *bench) serveCowl(trace ...string) (*running, error) {
	socket := b.path("run/bench.nbd")
	command := append(trace, b.cowl, "serve", "--nofiles", "bench")
	p, err := b.launch(socket, b.cowlEnv(), command[0], command[1:]...)
	if err != nil {
		return nil, err
	}
	return &running{target: overNBD("data", socket), process: p}, nil
}

// nbdkit serves the raw file, through the cow filter with a block size or without.
func nbdkit(cow ...string) func(*bench) (*running, error) {
	return func(b *bench) (*running, error) {
		socket := b.path("nbdkit.sock")
		args := []string{"-f", "-U", socket}
		if len(cow) > 0 {
			args = append(args, cow[0])
		}
		args = append(args, "file", b.path("raw.img"))
		if len(cow) > 0 {
			args = append(args, "cow-block-size="+cow[1])
		}
		p, err := b.launch(socket, []string{"TMPDIR=" + b.dir}, "nbdkit", args...) // the overlay is a file there
		if err != nil {
			return nil, err
		}
		return &running{target: overNBD("", socket), process: p}, nil
	}
}

func hasCow(b *bench) string {
	out, _ := exec.CommandContext(b.ctx, "nbdkit", "null", "--filter=cow", "--help").CombinedOutput()
	if !strings.Contains(string(out), "cow-block-size") {
		return "This nbdkit has no cow filter with block sizes."
	}
	return ""
}

func qemuRaw(b *bench) (*running, error) { return b.qemuNBD("raw", b.path("raw.img"), nil) }

// qemuSnapshot takes an internal snapshot. Its clusters are free for the next
// run's afterwards, so that from the second run on qemu need not allocate
// blocks of the file: an advantage that only it has.
func qemuSnapshot(b *bench) (*running, error) {
	file := b.path("qcow2.img")
	if err := b.do(nil, "qemu-img", "snapshot", "-c", "before", file); err != nil {
		return nil, err
	}
	return b.qemuNBD("qcow2", file, func() error { return b.do(nil, "qemu-img", "snapshot", "-d", "before", file) })
}

func (b *bench) qemuNBD(format, file string, cleanup func() error) (*running, error) {
	socket := b.path("qemu.sock")
	p, err := b.launch(socket, nil, "qemu-nbd", "-t", "-f", format, "--cache=writeback", "-k", socket, file)
	if err != nil {
		return nil, err
	}
	return &running{target: overNBD("", socket), process: p, cleanup: cleanup}, nil
}

// qemuCopyBeforeWrite copies old clusters to a fresh raw file, as qemu's
// fleecing backups do.
func qemuCopyBeforeWrite(b *bench) (*running, error) {
	socket, copied := b.path("qsd.sock"), b.path("copied.img")
	if err := sparse(copied, b.size); err != nil {
		return nil, err
	}
	p, err := b.launch(socket, nil, "qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=file,filename="+b.path("raw.img"),
		"--blockdev", "driver=raw,node-name=disk,file=file",
		"--blockdev", "driver=file,node-name=copied,filename="+copied,
		"--blockdev", "driver=raw,node-name=target,file=copied",
		"--blockdev", "driver=copy-before-write,node-name=cbw,file=disk,target=target",
		"--nbd-server", "addr.type=unix,addr.path="+socket,
		"--export", "type=nbd,id=export,node-name=cbw,name=data,writable=on")
	if err != nil {
		return nil, err
	}
	return &running{target: overNBD("data", socket), process: p, cleanup: func() error { return os.Remove(copied) }}, nil
}
