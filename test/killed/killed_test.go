//go:build linux

package killed

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/daemon"
	"cowl/internal/export/nbd"
	"cowl/internal/judge"
	"cowl/test/asprogram"
)

func TestMain(m *testing.M) { asprogram.Main(m) }

const (
	mib = 1 << 20

	size      = 8 * mib // of the volume
	blockSize = 4096
	sector    = block.SectorSize
)

// site is a directory with a group "vg" on one sparse file, and the program.
type site struct {
	t       *testing.T
	dir     string
	program string
	disk    string
}

// newSite makes a group on a sparse file of 128 MiB in a directory, "" for one of
// its own.
func newSite(t *testing.T, where string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-kill-") // short: sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, program: asprogram.Install(t), disk: filepath.Join(dir, "disk")}
	if where != "" {
		s.disk = filepath.Join(where, "disk")
	}
	t.Cleanup(func() {
		s.run("vgchange", "-an", "vg")
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is still in use: %v", err)
		}
	})
	if err := os.WriteFile(s.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.disk, 128*mib); err != nil {
		t.Fatal(err)
	}
	s.must("vgcreate", "-s", "1m", "vg", s.disk)
	return s
}

// run returns what a command says.
func (s *site) run(args ...string) (string, error) {
	cmd := exec.Command(s.program, args...)
	cmd.Dir = s.dir
	cmd.Env = append(asprogram.Environ(s.dir), "COWL_DEVICES="+s.disk)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *site) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("cowl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// serve starts the daemon.
func (s *site) serve() *daemon.Client {
	s.t.Helper()
	s.must("vgchange", "-ay", "vg")
	c, err := daemon.Connect(s.t.Context(), filepath.Join(s.dir, "run"), "vg")
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// kill ends the daemon as the kernel's out-of-memory killer does, and returns
// when it is gone.
func (s *site) kill(pid int) {
	s.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	for syscall.Kill(pid, 0) == nil && !isZombie(pid) {
		time.Sleep(time.Millisecond)
	}
}

// isZombie reports whether a process has ended and only its parent does not know.
func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, found := strings.Cut(string(b), ") ")
	return err != nil || found && strings.HasPrefix(state, "Z")
}

func (s *site) uri(lv string) string {
	return nbd.URI{Network: "unix", Addr: filepath.Join(s.dir, "run", "vg.nbd"), Export: lv}.String()
}

// fio runs a job over a volume.
func (s *site) fio(lv string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(judge.Find("fio"), append([]string{"--name=job", "--ioengine=nbd", "--uri=" + s.uri(lv),
		"--bs=4k", fmt.Sprintf("--size=%d", int64(size)), "--verify=crc32c", "--rw=randwrite", "--randseed=7"}, args...)...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("fio %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// read returns all that a volume holds.
func read(t *testing.T, c *daemon.Client, lv string) []byte {
	t.Helper()
	d, err := c.Open(context.Background(), lv, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// writer overwrites some blocks of the volume again and again, and knows what
// may be found in each of their sectors.
type writer struct {
	rng    *rand.Rand
	blocks []int64
	may    map[int64][][]byte // by block: what was flushed, and what was written since; the last is newest
}

// stamped returns a block that says which write of which block it is, in each
// sector.
func stamped(no int64, n uint64) []byte {
	b := make([]byte, blockSize)
	for off := 0; off < len(b); off += 16 {
		binary.LittleEndian.PutUint64(b[off:], uint64(no))
		binary.LittleEndian.PutUint64(b[off+8:], n)
	}
	return b
}

// run writes until the device fails. Before every write it asks whether to.
func (w *writer) run(d block.Device, go_ func() bool) {
	for go_() {
		no := w.blocks[w.rng.IntN(len(w.blocks))]
		b := stamped(no, w.rng.Uint64())
		w.may[no] = append(w.may[no], b) // also if it fails
		if _, err := d.WriteAt(b, no*blockSize); err != nil {
			return
		}
		if w.rng.IntN(24) > 0 {
			continue
		}
		if d.Flush() != nil {
			return
		}
		w.flushed()
	}
}

// flushed forgets what was replaced by what a flush has covered.
func (w *writer) flushed() {
	for no, list := range w.may {
		w.may[no] = list[len(list)-1:]
	}
}

// check compares what is found, and takes it for what there is from now on.
func (w *writer) check(found []byte) error {
	for _, no := range w.blocks {
		got := found[no*blockSize:][:blockSize]
		for off := 0; off < blockSize; off += sector {
			ok := false
			for _, b := range w.may[no] {
				ok = ok || bytes.Equal(b[off:off+sector], got[off:off+sector])
			}
			if !ok {
				return fmt.Errorf("block %d, sector %d, is none of the %d that may be there since the last flush", no, off/sector, len(w.may[no]))
			}
		}
		w.may[no] = [][]byte{bytes.Clone(got)}
	}
	return nil
}

// A process that serves volumes is killed at random moments, under writes of
// several clients who flush now and then, over and over. What they had flushed is
// there, whatever else is; snapshots show their instants, one of them fio's.
func TestKilled(t *testing.T) {
	judge.Need(t, "fio")
	kills := 2
	if blocktest.Long() {
		kills = 200
	}
	for _, chunk := range []string{"4k", "64k"} {
		t.Run(chunk, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
			s := newSite(t, "")
			c := s.serve()
			s.must("lvcreate", "-L", fmt.Sprint(size/mib), "-n", "data", "vg")
			s.fio("data", "--do_verify=0", "--end_fsync=1", "--iodepth=8")
			s.must("lvcreate", "-s", "-c", chunk, "-l", "100%ORIGIN", "-n", "first", "vg/data")
			writers := newWriters(rng, read(t, c, "data"), 3)
			var instant []byte // of the snapshot "later", nil while there is none
			for i := range kills {
				s.underWrites(c, writers, 1+rng.IntN(600))
				c = s.serve()
				found := read(t, c, "data")
				for _, w := range writers {
					if err := w.check(found); err != nil {
						t.Fatalf("after kill %d: %v", i+1, err)
					}
				}
				s.fio("first", "--verify_only=1", "--iodepth=8")
				if instant != nil && !bytes.Equal(read(t, c, "later"), instant) {
					t.Fatalf("after kill %d the second snapshot has changed", i+1)
				}
				if i%2 == 0 {
					s.must("lvcreate", "-s", "-c", chunk, "-l", "100%ORIGIN", "-n", "later", "vg/data")
					instant = found
				} else {
					s.must("lvremove", "-y", "vg/later")
					instant = nil
				}
			}
		})
	}
}

func newWriters(rng *rand.Rand, content []byte, n int) []*writer {
	writers := make([]*writer, n)
	for i := range writers {
		writers[i] = &writer{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), may: map[int64][][]byte{}}
	}
	for no := range int64(len(content) / blockSize) {
		w := writers[rng.IntN(n)]
		w.blocks = append(w.blocks, no)
		w.may[no] = [][]byte{content[no*blockSize:][:blockSize]}
	}
	return writers
}

// underWrites kills the daemon when its clients have made so many writes.
func (s *site) underWrites(c *daemon.Client, writers []*writer, writes int) {
	s.t.Helper()
	enough := make(chan struct{})
	var mu sync.Mutex
	count := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if writes--; writes == 0 {
			close(enough)
		}
		return writes > -5000 // a kill that does not stop them fails the test below
	}
	var wg sync.WaitGroup
	for _, w := range writers {
		d, err := c.Open(context.Background(), "data", false)
		if err != nil {
			s.t.Fatal(err)
		}
		wg.Go(func() {
			w.run(d, count)
			d.Close()
		})
	}
	<-enough
	s.kill(c.PID())
	wg.Wait()
	if writes <= -5000 {
		s.t.Fatal("the writers went on without a daemon")
	}
}

// A daemon that was killed in the middle of a merge goes on with it, and the
// origin shows what the snapshot held from the first moment on.
func TestKilledWhileMerging(t *testing.T) {
	judge.Need(t, "fio")
	rng := rand.New(rand.NewPCG(blocktest.Seed(t), 0))
	kills := 2
	if blocktest.Long() {
		kills = 100
	}
	s := newSite(t, "")
	c := s.serve()
	s.must("lvcreate", "-L", fmt.Sprint(size/mib), "-n", "data", "vg")
	s.fio("data", "--do_verify=0", "--end_fsync=1", "--iodepth=8")
	s.must("lvcreate", "-s", "-l", "100%ORIGIN", "-n", "first", "vg/data")
	writers := newWriters(rng, read(t, c, "data"), 3)
	s.underWrites(c, writers, 3000)
	c = s.serve()
	s.must("lvconvert", "--merge", "-b", "--rate", "200k", "vg/first")
	for i := range kills {
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond) // at whatever step it is
		s.kill(c.PID())
		c = s.serve()
		if i == 0 {
			s.fio("data", "--verify_only=1", "--iodepth=8")
			writers = newWriters(rng, read(t, c, "data"), 3)
		} else {
			s.underWrites(c, writers, 1+rng.IntN(200))
			c = s.serve()
		}
		found := read(t, c, "data")
		for _, w := range writers {
			if err := w.check(found); err != nil {
				t.Fatalf("after kill %d: %v", i+1, err)
			}
		}
	}
	before := read(t, c, "data")
	if out, err := s.run("lvconvert", "--merge", "--rate", "0", "vg/first"); err != nil && !strings.Contains(out, "not found") {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Equal(read(t, c, "data"), before) {
		t.Error("the end of the merge changed the origin")
	}
}
