package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"cowl/internal/judge"
)

// database is a database server whose data is on a volume.
type database interface {
	create(data string) // an empty database, in a directory that does not exist
	start(data string) (stop func())
	fill() // the tables that load and check use
	// load runs transactions until it is interrupted.
	load() *exec.Cmd
	count() int // of the transactions that were committed
	check()     // that each transaction is there as a whole, or not at all
}

// account is a user, not root, that a server is run by, with a directory.
type account struct {
	t   *testing.T
	dir string // its path is short: a socket will be in it
	uid uint32
	gid uint32
	env []string
}

func newAccount(t *testing.T, name string) *account {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		judge.Absent(t, "%v", err)
	}
	dir, err := os.MkdirTemp("", "cowl-db-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	a := &account{t, dir, uint32(uid), uint32(gid), []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}}
	a.own(dir)
	return a
}

func (a *account) own(path string) {
	a.t.Helper()
	if err := os.Chown(path, int(a.uid), int(a.gid)); err != nil {
		a.t.Fatal(err)
	}
}

func (a *account) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = a.dir
	cmd.Env = a.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
	return cmd
}

// log is where the server writes what it has to say.
func (a *account) log() string { return filepath.Join(a.dir, "log") }

// said is the end of that.
func (a *account) said() []byte {
	text, _ := os.ReadFile(a.log())
	return text[max(0, len(text)-2000):]
}

func (a *account) must(program string, args ...string) string {
	a.t.Helper()
	// Not CombinedOutput: a server that is left would keep the pipe.
	out := filepath.Join(a.dir, "out")
	f, err := os.Create(out)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	cmd := a.command(program, args...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	text, _ := os.ReadFile(out)
	if err != nil {
		a.t.Fatalf("%s %q: %v\n%s\nthe server's log ends with:\n%s", program, args, err, text, a.said())
	}
	return string(text)
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

// underLoad is a database on a mounted volume, vg/db, with transactions running.
type underLoad struct {
	*site
	db       database
	account  *account
	mnt      string
	stop     func() // the server
	bench    *exec.Cmd
	finished chan error
}

// newUnderLoad waits until transactions come through. Before it, judge.Need what
// the database needs.
func newUnderLoad(t *testing.T, db database, a *account) *underLoad {
	t.Helper()
	s := newSite(t, 2*gib)
	t.Cleanup(s.deactivate)
	s.must("lvcreate -L 160M -n db vg")
	s.must("lvcreate -L 160M -n copy vg")
	s.must("vgchange -ay vg")
	if out, err := exec.Command(judge.Find("mke2fs"), "-q", "-t", "ext4", s.path("run/vg/db")).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	u := &underLoad{site: s, db: db, account: a, mnt: filepath.Join(a.dir, "mnt"), finished: make(chan error, 1)}
	s.mountVolume("db", u.mnt)
	a.own(u.mnt)
	data := filepath.Join(u.mnt, "data")
	db.create(data)
	u.stop = db.start(data)
	db.fill()
	u.bench = db.load()
	var talk bytes.Buffer
	u.bench.Stdout, u.bench.Stderr = &talk, &talk
	if err := u.bench.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := u.bench.Wait()
		u.finished <- talkative(err, talk.Bytes())
	}()
	u.reaches(20)
	return u
}

// reaches waits until so many transactions were made.
func (u *underLoad) reaches(n int) {
	u.t.Helper()
	for u.db.count() < n {
		select {
		case err := <-u.finished:
			u.t.Fatalf("the load has ended: %v", err)
		default:
		}
	}
}

// backsUp backs the database up while it works, with some options, restores it to
// another volume, and starts a server there, which has all transactions up to the
// instant, whole.
func (u *underLoad) backsUp(options string) {
	t, db := u.t, u.db
	t.Helper()
	before := db.count()
	out := u.must("backup vg/db --to backups --json " + options)
	after := db.count()
	var r struct {
		Image  string
		Frozen []string
		Quiet  float64 `json:"quiet_seconds"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || !slices.Equal(r.Frozen, []string{u.mnt}) {
		t.Errorf("frozen %q, want %s (%v)\n%s", r.Frozen, u.mnt, err, out)
	}
	u.reaches(after + 20) // it goes on
	if err := u.bench.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-u.finished
	u.stop()

	// Frozen, the file system was at rest: its journal is empty, and it is clean.
	if out, err := exec.Command(judge.Find("e2fsck"), "-fn", u.path(r.Image)).CombinedOutput(); err != nil {
		t.Errorf("e2fsck of the image: %v\n%s", err, out)
	}
	u.must(fmt.Sprintf("restore %s vg/copy", r.Image))
	restored := filepath.Join(u.account.dir, "restored")
	u.mountVolume("copy", restored)
	// As PostgreSQL's manual says of file system backups. Here the old server
	// may be a zombie, for which the new one would not start.
	if err := os.Remove(filepath.Join(restored, "data", "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	stop := db.start(filepath.Join(restored, "data"))
	got := db.count()
	if got < before || got > after {
		t.Errorf("the restored database has %d transactions; there were %d before the backup and %d after it", got, before, after)
	}
	db.check()
	t.Logf("transactions: %d before, %d in the backup, %d after; quiet for %.2f s", before, got, after, r.Quiet)
	stop()
}
