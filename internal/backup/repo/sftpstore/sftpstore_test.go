package sftpstore

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/backup/repo/storetest"
	"cowl/internal/errs"
	"cowl/internal/judge"
)

// at is a directory behind a real sshd.
func at(t *testing.T, s *judge.SSH, dir string, more ...string) Options {
	t.Helper()
	return Options{User: s.User, Host: "127.0.0.1", Port: s.Port, Path: dir, Command: s.Command(more...)}
}

func made(t *testing.T, o Options) *store {
	t.Helper()
	s, err := New(t.Context(), o, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(t.Context()) })
	return s.(*store)
}

func TestBlobs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	storetest.Run(t, made(t, at(t, judge.StartSSH(t), dir)))
	if left, err := filepath.Glob(dir + "/*/*/*.tmp.*"); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Error(st.Mode(), err)
	}
}

// Looking at a place leaves nothing there, and what is wrong is said.
func TestNothingThere(t *testing.T) {
	s, dir := judge.StartSSH(t), t.TempDir()
	for _, c := range []struct {
		path   string
		create bool
		kind   errs.Kind
	}{{dir, false, errs.NotFound}, {dir + "/a/b", true, errs.NotFound}, {dir + "/a", false, errs.NotFound}, {s.Key, false, errs.Usage}} {
		if _, err := New(t.Context(), at(t, s, c.path), c.create); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	if found, err := os.ReadDir(dir); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
}

// A host that is not known, or is not what it was, gets nothing; nor does one
// that does not know us.
func TestRefused(t *testing.T) {
	s, dir := judge.StartSSH(t), t.TempDir()
	other := judge.StartSSH(t)
	refused := func(o Options, want string) {
		t.Helper()
		_, err := New(t.Context(), o, true)
		if err == nil || !strings.Contains(err.Error(), want) || errs.HintOf(err) == "" {
			t.Errorf("%v, not %q", err, want)
		}
	}
	refused(at(t, s, dir, "-oUserKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=yes"), "Host key verification failed")
	text, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(other.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Fields(string(text))[0] + " " + strings.Join(strings.Fields(string(theirs))[1:], " ") + "\n"
	if err := os.WriteFile(s.KnownHosts, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(at(t, s, dir), "Host key verification failed")
	if err := os.WriteFile(s.KnownHosts, text, 0o600); err != nil {
		t.Fatal(err)
	}
	o := at(t, s, dir)
	o.Command = strings.Replace(o.Command, s.Key, other.Key, 1)
	refused(o, "Permission denied")
	o = at(t, s, dir)
	o.Port = 1
	refused(o, "refused")
	if found, err := os.ReadDir(dir); err != nil || len(found) > 0 {
		t.Error(found, err)
	}
}

// A connection that breaks is made anew; Ctrl-C, which reaches ssh as well,
// does not break it.
func TestConnectionLost(t *testing.T) {
	old := pauses
	pauses = []time.Duration{time.Millisecond, time.Millisecond}
	t.Cleanup(func() { pauses = old })
	s := made(t, at(t, judge.StartSSH(t), t.TempDir()))
	put := func() {
		t.Helper()
		if err := s.PutBlob(t.Context(), storetest.Names[1], storetest.Text("x"), blob.PutOptions{}); err != nil {
			t.Error(err)
		}
	}
	put()
	first := s.f.line.now
	if err := first.signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	put()
	if s.f.line.now != first {
		t.Error("the connection did not outlive a Ctrl-C")
	}
	if err := first.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.ended
	put()
	if s.f.line.now == first {
		t.Error("the connection is still the one that was killed")
	}
	s.f.line.o.Port = 1
	if err := s.f.line.now.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetMetadata(t.Context(), storetest.Names[1]); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("with the host gone: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, o := range []Options{{Path: "/x"}, {Host: "-oProxyCommand=x", Path: "/x"}, {Host: "h", User: "-l", Path: "/x"}, {Host: "h"}, {Host: "h", Path: "x", Port: 70000}} {
		if err := o.Validate(); !errs.Is(err, errs.Usage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
