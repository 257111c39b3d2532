//go:build unix

package nbd

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cowl/internal/errs"
)

// Only the owner may open the socket: whoever else could would read and write
// every volume. Neither a generous nor a mean umask changes that.
func TestListenMode(t *testing.T) {
	for _, mask := range []int{0, 0o777} {
		path := filepath.Join(t.TempDir(), "nbd")
		old := syscall.Umask(mask)
		l, err := Listen(path)
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode() != os.ModeSocket|0o600 {
			t.Errorf("umask %o: mode %v, %v", mask, fi.Mode(), err)
		}
		l.Close()
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the socket outlived its listener: %v", err)
		}
	}
}

// A server that was killed leaves its socket; the next one takes its place.
func TestListenStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nbd")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()

	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go l.Accept()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

// What is in use, or no socket at all, is not replaced.
func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nbd")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(path); !errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), path) {
		t.Errorf("on a living socket: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); !errs.Is(err, errs.Exists) {
		t.Errorf("on a file: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was changed")
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("long", 40))); err == nil {
		t.Error("a path longer than a socket's can be was taken")
	}
	if _, err := Listen(filepath.Join(dir, "none", "nbd")); !errs.Is(err, errs.NotFound) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}

// Of servers that start at once over a dead one's socket, one wins.
func TestListenRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nbd")
	for range 20 {
		dead, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		dead.(*net.UnixListener).SetUnlinkOnClose(false)
		dead.Close()

		var wg sync.WaitGroup
		winners := make(chan net.Listener, 8)
		for range 8 {
			wg.Go(func() {
				l, err := Listen(path)
				if err == nil {
					winners <- l
				} else if !errs.Is(err, errs.Busy) {
					t.Errorf("loser: %v", err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("%d winners", len(winners))
		}
		(<-winners).Close()
	}
}
