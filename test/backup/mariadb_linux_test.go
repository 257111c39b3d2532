package backup

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cowl/internal/judge"
)

// mariadb is a MariaDB. Debian's packages of its programs alone make no user.
type mariadb struct{ *account }

func newMariaDB(t *testing.T) *mariadb {
	t.Helper()
	judge.Need(t, "mariadbd", "mariadb", "mariadb-install-db", "timeout")
	return &mariadb{newAccount(t, "nobody")}
}

// socket is where its server listens.
func (m *mariadb) socket() string { return filepath.Join(m.dir, "socket") }

// client is the client's command.
func (m *mariadb) client() []string {
	return []string{"mariadb", "--no-defaults", "--user=root", "--socket=" + m.socket()}
}

func (m *mariadb) create(data string) {
	m.t.Helper()
	m.must("mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
		"--innodb-log-file-size=8M", "--datadir="+data)
}

// start starts the server on a data directory; it is stopped when the test ends.
func (m *mariadb) start(data string) (stop func()) {
	m.t.Helper()
	server := m.command("mariadbd", "--no-defaults", "--skip-networking", "--datadir="+data, "--socket="+m.socket(), "--log-error="+m.log(),
		"--pid-file="+filepath.Join(m.dir, "pid"), "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M", "--key-buffer-size=1M",
		"--myisam-recover-options=OFF", "--aria-recover-options=OFF") // no table is to need it
	if err := server.Start(); err != nil {
		m.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil {
			m.t.Errorf("mariadbd: %v", err)
		}
	}
	m.t.Cleanup(stop)
	eventually(m.t, func() error {
		out, err := m.sql("select 1").CombinedOutput()
		return talkative(err, append(out, m.said()...))
	})
	return stop
}

func (m *mariadb) sql(statements string) *exec.Cmd {
	client := append(m.client(), "--batch", "--skip-column-names", "--execute="+statements)
	return m.command(client[0], client[1:]...)
}

func (m *mariadb) query(statements string) string {
	m.t.Helper()
	out, err := m.sql(statements).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", statements, err, out)
	}
	return strings.TrimSpace(string(out))
}

// fill makes accounts between which money is moved, and in tables without
// transactions a line before each of these and one after it.
func (m *mariadb) fill() {
	m.t.Helper()
	cmd := m.command(m.client()[0], m.client()[1:]...)
	cmd.Stdin = strings.NewReader(`
		CREATE DATABASE bank;
		USE bank;
		CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL) ENGINE=InnoDB;
		INSERT INTO account SELECT seq, 1000 FROM seq_1_to_100;
		CREATE TABLE history (id BIGINT AUTO_INCREMENT PRIMARY KEY, who INT, whom INT, amount INT, filler CHAR(200)) ENGINE=InnoDB;
		CREATE TABLE begun (id BIGINT AUTO_INCREMENT PRIMARY KEY, filler CHAR(100)) ENGINE=MyISAM;
		CREATE TABLE ended (id BIGINT AUTO_INCREMENT PRIMARY KEY, filler CHAR(100)) ENGINE=Aria;
		DELIMITER //
		CREATE PROCEDURE work() BEGIN
			DECLARE who, whom, amount INT;
			LOOP
				SET who = 1 + FLOOR(RAND() * 50), whom = 51 + FLOOR(RAND() * 50), amount = FLOOR(RAND() * 200) - 100;
				INSERT INTO begun (filler) VALUES ('b');
				START TRANSACTION;
				UPDATE account SET balance = balance - amount WHERE id = who;
				UPDATE account SET balance = balance + amount WHERE id = whom;
				INSERT INTO history (who, whom, amount, filler) VALUES (who, whom, amount, 'h');
				COMMIT;
				INSERT INTO ended (filler) VALUES ('e');
			END LOOP;
		END //
	`)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
}

// clients is how many work at a time.
const clients = 4

func (m *mariadb) load() *exec.Cmd {
	work := strings.Join(m.client(), " ") + ` --execute="CALL bank.work()" & all="$all $!"; `
	return m.command("/bin/sh", "-c", "trap 'kill $all' INT; "+strings.Repeat(work, clients)+"wait")
}

func (m *mariadb) count() int {
	m.t.Helper()
	return m.number("SELECT COUNT(*) FROM bank.history")
}

func (m *mariadb) number(query string) int {
	m.t.Helper()
	n, err := strconv.Atoi(m.query(query))
	if err != nil {
		m.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (m *mariadb) check() {
	m.t.Helper()
	if sum := m.number("SELECT SUM(balance) FROM bank.account"); sum != 100*1000 {
		m.t.Errorf("all accounts together have %d", sum)
	}
	if wrong := m.query(`SELECT a.id FROM bank.account a WHERE balance <> 1000
		- (SELECT COALESCE(SUM(amount), 0) FROM bank.history WHERE who = a.id) + (SELECT COALESCE(SUM(amount), 0) FROM bank.history WHERE whom = a.id)`); wrong != "" {
		m.t.Errorf("accounts whose balance is not what the history says: %q", wrong)
	}
	begun, history, ended := m.number("SELECT COUNT(*) FROM bank.begun"), m.count(), m.number("SELECT COUNT(*) FROM bank.ended")
	if begun < history || begun > history+clients || ended > history || ended < history-clients {
		m.t.Errorf("%d transfers were begun, %d made, %d ended, by %d clients", begun, history, ended, clients)
	}
	// Tables without transactions are at rest only because the hook saw to it.
	for line := range strings.Lines(m.query("CHECK TABLE bank.begun, bank.ended, bank.history, bank.account EXTENDED")) {
		if !strings.HasSuffix(strings.TrimSpace(line), "status\tOK") {
			m.t.Errorf("CHECK TABLE says %s", line)
		}
	}
}

// mariadbHook is the hook of docs/hooks, as a user has it.
func mariadbHook(t *testing.T, m *mariadb, s *site) string {
	t.Helper()
	hook, err := filepath.Abs("../../docs/hooks/mariadb")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("MARIADB", strings.Join(m.client(), " "))
	t.Setenv("HOLD_DIR", s.path("hold"))
	return hook
}

// A MariaDB under load is backed up with the hook that the documentation has.
func TestMariaDB(t *testing.T) {
	judge.NeedLoop(t)
	judge.NeedFile(t, "/dev/fuse")
	judge.Need(t, "mke2fs", "e2fsck", "mount", "umount")
	m := newMariaDB(t)
	u := newUnderLoad(t, m, m.account)
	hook := mariadbHook(t, m, u.site)

	// While somebody holds the server it does not come to rest in time; nothing is
	// left that would keep it from going on.
	t.Setenv("LIMIT", "2")
	holder := m.sql("BACKUP STAGE START; SELECT SLEEP(600)")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		out, err := m.sql("SELECT 1/COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'").CombinedOutput()
		if err == nil && bytes.Contains(out, []byte("NULL")) {
			err = os.ErrNotExist
		}
		return talkative(err, out)
	})
	u.fails("backup vg/db --to backups --before-snapshot "+hook+" --after-snapshot "+hook, "did not come to rest")
	m.query("KILL " + m.query("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%' AND info NOT LIKE '%processlist%'"))
	holder.Wait()
	u.nothingLeft("copy", "db")
	u.reaches(m.count() + 20)

	t.Setenv("LIMIT", "")
	u.backsUp("--before-snapshot " + hook + " --after-snapshot " + hook)
	if _, err := os.Stat(u.path("hold")); !os.IsNotExist(err) {
		t.Errorf("the hook left its directory: %v", err)
	}
}
