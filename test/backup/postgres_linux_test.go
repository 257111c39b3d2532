package backup

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cowl/internal/judge"
)

// postgres is a PostgreSQL. It refuses to be run by root, so all is done as the
// user that Debian's package makes.
type postgres struct {
	*account
	bin string // its programs
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		judge.Absent(t, "PostgreSQL not installed (scripts/setup does it on Debian)")
	}
	slices.Sort(found)
	p := &postgres{newAccount(t, "postgres"), filepath.Dir(found[len(found)-1])}
	p.env = append(p.env, "PGHOST="+p.dir, "PGUSER=postgres", "PGDATABASE=postgres")
	return p
}

func (p *postgres) program(name string) string { return filepath.Join(p.bin, name) }

func (p *postgres) create(data string) {
	p.t.Helper()
	p.must(p.program("initdb"), "--no-sync", "--wal-segsize=1", "-A", "trust", "-U", "postgres", "-D", data)
}

// start starts the server on a data directory; it is stopped when the test ends.
func (p *postgres) start(data string) (stop func()) {
	p.t.Helper()
	p.must(p.program("pg_ctl"), "-w", "-D", data, "-l", p.log(), "-o",
		"-c listen_addresses= -c max_connections=20 -c jit=off -c unix_socket_directories="+p.dir+" -c shared_buffers=16MB -c max_wal_size=32MB -c min_wal_size=5MB", "start")
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			p.must(p.program("pg_ctl"), "-w", "-D", data, "-m", "fast", "stop")
		}
	}
	p.t.Cleanup(stop)
	return stop
}

func (p *postgres) fill() { p.t.Helper(); p.must(p.program("pgbench"), "-i", "-q", "-s", "1") }

func (p *postgres) load() *exec.Cmd {
	return p.command(p.program("pgbench"), "-n", "-c", "4", "-T", "600")
}

func (p *postgres) query(sql string) string {
	p.t.Helper()
	return strings.TrimSpace(p.must(p.program("psql"), "-XAtc", sql))
}

func (p *postgres) count() int {
	p.t.Helper()
	n, err := strconv.Atoi(p.query("select count(*) from pgbench_history"))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *postgres) check() {
	p.t.Helper()
	sums := p.query(`select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
		(select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history), (select count(*) from pgbench_accounts)`)
	if f := strings.Split(sums, "|"); len(f) != 5 || f[0] != f[1] || f[1] != f[2] || f[2] != f[3] || f[4] != "100000" {
		p.t.Errorf("balances of accounts, branches, tellers, history, and accounts are %s: some transactions are there in part", sums)
	}
}

// A database under load is backed up without stopping it.
func TestPostgres(t *testing.T) {
	judge.NeedLoop(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "mke2fs", "e2fsck", "mount", "umount")
	p := newPostgres(t)
	newUnderLoad(t, p, p.account).backsUp("")
}
