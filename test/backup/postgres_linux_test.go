package backup

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cowl/internal/judge"
)

// postgres is a PostgreSQL whose data is on a mounted file system of its own.
// It refuses to be run by root, so all is done as the user that Debian's package
// makes.
type postgres struct {
	t   *testing.T
	bin string // its programs
	dir string // of the socket
	uid uint32
	gid uint32
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		judge.Absent(t, "PostgreSQL not installed (scripts/setup does it on Debian)")
	}
	slices.Sort(found)
	u, err := user.Lookup("postgres")
	if err != nil {
		judge.Absent(t, "%v", err)
	}
	dir, err := os.MkdirTemp("", "cowl-pg-") // short: a socket will be in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	p := &postgres{t, filepath.Dir(found[len(found)-1]), dir, uint32(uid), uint32(gid)}
	p.own(dir)
	return p
}

func (p *postgres) own(path string) {
	p.t.Helper()
	if err := os.Chown(path, int(p.uid), int(p.gid)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *postgres) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, program), args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "PGHOST=" + p.dir, "PGUSER=postgres", "PGDATABASE=postgres"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.gid}}
	return cmd
}

func (p *postgres) must(program string, args ...string) string {
	p.t.Helper()
	// Not CombinedOutput: the server that pg_ctl leaves would keep the pipe.
	log := filepath.Join(p.dir, "out")
	f, err := os.Create(log)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	cmd := p.command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	text, _ := os.ReadFile(log)
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(p.dir, "log"))
		p.t.Fatalf("%s %q: %v\n%s\nthe server's log ends with:\n%s", program, args, err, text, said[max(0, len(said)-2000):])
	}
	return string(text)
}

// start starts the server on a data directory; it is stopped when the test ends.
func (p *postgres) start(data string) (stop func()) {
	p.t.Helper()
	p.must("pg_ctl", "-w", "-D", data, "-l", filepath.Join(p.dir, "log"), "-o",
		"-c listen_addresses= -c max_connections=20 -c jit=off -c unix_socket_directories="+p.dir+" -c shared_buffers=16MB -c max_wal_size=32MB -c min_wal_size=5MB", "start")
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			p.must("pg_ctl", "-w", "-D", data, "-m", "fast", "stop")
		}
	}
	p.t.Cleanup(stop)
	return stop
}

func (p *postgres) query(sql string) string {
	p.t.Helper()
	return strings.TrimSpace(p.must("psql", "-XAtc", sql))
}

// mountVolume mounts the file system on a volume, and unmounts it when the test
// ends.
func (s *site) mountVolume(lv, point string) {
	s.t.Helper()
	if err := os.MkdirAll(point, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", s.path("run/vg/"+lv), point).CombinedOutput(); err != nil {
		s.t.Fatalf("mount %s: %v\n%s", lv, err, out)
	}
	s.t.Cleanup(func() {
		// A server that has just stopped may not have left its directory yet.
		eventually(s.t, func() error {
			out, err := exec.Command("umount", point).CombinedOutput()
			return talkative(err, out)
		})
	})
}

// talkative adds what a command said to its error.
func talkative(err error, out []byte) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\n%s", err, out)
}

// eventually calls f until it does not fail, for half a minute at most.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}

// deactivate ends the group's daemon, once the loop devices have let go.
func (s *site) deactivate() {
	s.t.Helper()
	eventually(s.t, func() error {
		_, talk, code := s.run("vgchange -an vg")
		if code != 0 {
			return fmt.Errorf("vgchange -an: %s", talk)
		}
		return nil
	})
}

// A database under load is backed up without stopping it; what is restored
// starts, and has all transactions up to the instant, whole.
func TestPostgres(t *testing.T) {
	judge.NeedLoop(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "mke2fs", "e2fsck", "mount", "umount")
	p := newPostgres(t)
	s := newSite(t, 2*gib)
	t.Cleanup(s.deactivate)
	s.must("lvcreate -L 160M -n db vg")
	s.must("lvcreate -L 160M -n copy vg")
	s.must("vgchange -ay vg")
	if out, err := exec.Command(judge.Find("mke2fs"), "-q", "-t", "ext4", s.path("run/vg/db")).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	mnt := filepath.Join(p.dir, "mnt")
	s.mountVolume("db", mnt)
	p.own(mnt)
	data := filepath.Join(mnt, "data")
	p.must("initdb", "--no-sync", "--wal-segsize=1", "-A", "trust", "-U", "postgres", "-D", data)
	stop := p.start(data)
	p.must("pgbench", "-i", "-q", "-s", "1")
	bench := p.command("pgbench", "-n", "-c", "4", "-T", "600")
	if err := bench.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- bench.Wait() }()
	count := func() int {
		n, err := strconv.Atoi(p.query("select count(*) from pgbench_history"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	for before < 20 {
		before = count()
	}

	// Hooks see the database at work.
	out := s.must("backup vg/db --to backups --json")
	after := count()
	var r struct {
		Image  string
		Frozen []string
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || !slices.Equal(r.Frozen, []string{mnt}) {
		t.Errorf("frozen %q, want %s (%v)\n%s", r.Frozen, mnt, err, out)
	}
	for deadline := after + 20; count() < deadline; { // it goes on
		select {
		case err := <-ended:
			t.Fatalf("pgbench has ended: %v", err)
		default:
		}
	}
	if err := bench.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-ended
	stop()

	// Frozen, the file system was at rest: its journal is empty, and it is clean.
	if out, err := exec.Command(judge.Find("e2fsck"), "-fn", s.path(r.Image)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck of the image: %v\n%s", err, out)
	}
	s.must(fmt.Sprintf("restore %s vg/copy", r.Image))
	restored := filepath.Join(p.dir, "restored")
	s.mountVolume("copy", restored)
	// As PostgreSQL's manual says of file system backups. Here the old server
	// may be a zombie, for which the new one would not start.
	if err := os.Remove(filepath.Join(restored, "data", "postmaster.pid")); err != nil {
		t.Error(err)
	}
	stop = p.start(filepath.Join(restored, "data"))
	got := count()
	if got < before || got > after {
		t.Errorf("the restored database has %d transactions; there were %d before the backup and %d after it", got, before, after)
	}
	sums := p.query(`select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
		(select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history), (select count(*) from pgbench_accounts)`)
	if f := strings.Split(sums, "|"); len(f) != 5 || f[0] != f[1] || f[1] != f[2] || f[2] != f[3] || f[4] != "100000" {
		t.Errorf("balances of accounts, branches, tellers, history, and accounts are %s: some transactions are there in part", sums)
	}
	t.Logf("transactions: %d before, %d in the backup, %d after", before, got, after)
	stop()
}
