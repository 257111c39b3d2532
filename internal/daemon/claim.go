package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/export/nbd"
)

// claim is one daemon's right to a group's names in the run directory. Its
// lock file is locked as long as the process lives, whatever way it ends, so
// whoever gets the lock knows that sockets found beside it are nobody's.
type claim struct {
	path string
	lock *os.File
}

// takeClaim makes the run directory where it is missing and claims the
// group's names in it. A living daemon is errs.Busy with its process id.
func takeClaim(p Paths, group string) (*claim, error) {
	if err := makeRunDir(p.Dir); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(p.Lock, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		c := &claim{path: p.Lock, lock: f}
		switch err := lockFile(f); {
		case errors.Is(err, errLocked):
			defer f.Close()
			return nil, errAlive(group, readPID(f))
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", p.Lock, err)
		}
		if !isAt(f, p.Lock) { // its owner removed the file between our open and our lock
			f.Close()
			continue
		}
		if err := c.writePID(); err != nil {
			c.release()
			return nil, err
		}
		return c, nil
	}
}

func errAlive(group string, pid int) error {
	who := "another daemon"
	if pid != 0 {
		who = fmt.Sprintf("a daemon (pid %d)", pid)
	}
	return errs.WithHint(errs.E(errs.Busy, "volume group %s is served by %s already", group, who),
		"vgchange -an %s ends it", group)
}

// writePID says who the owner is, for those who are refused.
func (c *claim) writePID() error {
	if err := c.lock.Truncate(0); err != nil {
		return err
	}
	_, err := c.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// release gives up the claim. Whoever waits for the daemon to be gone finds
// nothing of it in the run directory but its log.
func (c *claim) release() error { return removeLocked(c.lock, c.path) }

// listen makes a socket that only this user can connect to, in place of one
// that a dead daemon left.
func listen(path string) (net.Listener, error) {
	l, err := nbd.Listen(path)
	if err != nil {
		return nil, err
	}
	return sameUser{l}, nil
}

// makeRunDir creates dir for this user alone. One that exists must belong to
// the user and be writable by nobody else: whoever can rename a socket away
// can stand in for the daemon.
func makeRunDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !ownedByUs(fi) {
		return errs.E(errs.Denied, "run directory %s belongs to another user", dir)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return errs.WithHint(errs.E(errs.Denied, "run directory %s can be written by other users", dir),
			"chmod 700 %s", dir)
	}
	return nil
}

// isAt reports whether path still names the open file.
func isAt(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(open, named)
}

// readPID returns the process id in a lock file, 0 if there is none yet.
func readPID(f *os.File) int {
	b := make([]byte, 32)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

// sameUser is a listener that hangs up on other users. The socket's mode
// keeps them out already; this holds where a file system ignores modes.
type sameUser struct{ net.Listener }

func (l sameUser) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peerAllowed(c) {
			return c, nil
		}
		c.Close()
	}
}
