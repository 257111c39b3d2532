package unpack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cowl/internal/archive"
	"cowl/internal/errs"
)

// memTree is a tree that a hostile image could hold: what nothing checks but us.
type memTree []*memFile

type memFile struct {
	name    string
	h       archive.Header
	content string
	target  string
	err     error // of reading
}

func (t memTree) Walk(_ context.Context, visit func(string, archive.File, error) error) error {
	for _, f := range t {
		if err := visit(f.name, f, nil); err != nil {
			return err
		}
	}
	return nil
}

func (f *memFile) Header() *archive.Header          { return &f.h }
func (f *memFile) Xattrs() ([]archive.Xattr, error) { return nil, nil }
func (f *memFile) Readlink() (string, error)        { return f.target, nil }
func (f *memFile) Open() (archive.Content, error) {
	return archive.Content{ReaderAt: failing{f}}, nil
}

// failing is a file's content, whose end cannot be read if there is an error.
type failing struct{ f *memFile }

func (r failing) ReadAt(p []byte, off int64) (int, error) {
	n, err := strings.NewReader(r.f.content).ReadAt(p, off)
	if r.f.err != nil && off+int64(n) == int64(len(r.f.content)) {
		return n - 1, r.f.err
	}
	return n, err
}

func header(mode uint32, size int) archive.Header {
	t := time.Unix(1_000_000_000, 123456789)
	return archive.Header{Mode: mode, Links: 1, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Size: int64(size), Mtime: t, Atime: t}
}

func folder(name string) *memFile {
	return &memFile{name: name, h: header(archive.ModeDir|0o755, 0)}
}
func plain(name, content string) *memFile {
	return &memFile{name: name, content: content, h: header(archive.ModeFile|0o644, len(content))}
}
func symlink(name, target string) *memFile {
	return &memFile{name: name, target: target, h: header(archive.ModeLink|0o777, len(target))}
}

// world is a directory with a place in it to unpack into, and things outside of
// that which must stay as they are.
func world(t *testing.T) (dest string, check func()) {
	t.Helper()
	dir := t.TempDir()
	dest = filepath.Join(dir, "dest")
	for _, d := range []string{"dest", "outside"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "outside", "secret")
	if err := os.WriteFile(secret, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(secret)
	if err != nil {
		t.Fatal(err)
	}
	return dest, func() {
		t.Helper()
		var names []string
		for _, d := range []string{dir, filepath.Join(dir, "outside")} {
			entries, err := os.ReadDir(d)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				names = append(names, e.Name())
			}
		}
		after, err := os.Stat(secret)
		text, _ := os.ReadFile(secret)
		if got := strings.Join(names, " "); got != "dest outside secret" || err != nil || string(text) != "mine" || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("the world outside has changed: %s, %q, %v, %v", got, text, after, err)
		}
		noPartials(t, dest)
	}
}

// noPartials makes sure that nothing half done is left.
func noPartials(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".partial") {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// An image can have a directory of which one entry is a link and another of the
// same name a directory, or names that no kernel would make.
func TestHostileTrees(t *testing.T) {
	trees := map[string]memTree{
		"link, then directory":    {folder("./"), symlink("./a", "../outside"), folder("./a"), plain("./a/secret", "theirs"), plain("./a/new", "x")},
		"absolute link":           {folder("./"), symlink("./a", "/"), folder("./a"), plain("./a/secret", "x")},
		"link within":             {folder("./"), folder("./b"), symlink("./a", "b"), folder("./a"), plain("./a/x", "x")},
		"link, then file":         {folder("./"), symlink("./a", "../outside/secret"), plain("./a", "theirs")},
		"link, then below it":     {folder("./"), symlink("./a", "../outside"), plain("./a/secret", "theirs")},
		"dots":                    {folder("./"), plain("./../outside/secret", "theirs"), plain("./..", "x"), plain("./.", "x"), folder("./..")},
		"dots in the middle":      {folder("./"), folder("./a"), plain("./a/../../outside/secret", "theirs")},
		"nothing":                 {folder("./"), plain("./a//b", "x"), plain(".//etc", "x"), plain("./\x00", "x")},
		"absolute":                {folder("./"), plain("/etc/hostile", "x")},
		"file, then directory":    {folder("./"), plain("./a", "x"), folder("./a"), plain("./a/b", "x")},
		"hard link to a link":     {folder("./"), symlink("./a", "../outside/secret"), linked(symlink("./b", "../outside/secret"), 7, 3), linked(plain("./c", "theirs"), 7, 3)},
		"directory of many names": {folder("./"), folder("./a"), plain("./a/x", "1"), folder("./a"), plain("./a/x", "2")},
	}
	for name, tree := range trees {
		for _, overwrite := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				dest, check := world(t)
				defer check()
				failed := 0
				o := Options{Overwrite: overwrite, Failed: func(string, error) error { failed++; return nil }}
				for range 2 { // the second time, there is what the first has left
					r, err := Unpack(t.Context(), tree, Place{dest, "x"}, o)
					if err != nil && !(errs.Is(err, errs.Exists) && !overwrite) {
						t.Error(err)
					}
					if int(r.Failed) != failed {
						t.Errorf("%d failed, %d were told", r.Failed, failed)
					}
					failed = 0
				}
			})
		}
	}
}

func linked(f *memFile, ino uint64, links uint32) *memFile {
	f.h.Ino, f.h.Links = ino, links
	return f
}

// Somebody has put links where files are to come back to. They are neither
// followed nor, unless that is wanted, replaced.
func TestLinksInTheWay(t *testing.T) {
	dest, check := world(t)
	defer check()
	for from, to := range map[string]string{"dir": "../../outside", "file": "../../outside/secret", "loop": "loop"} {
		if err := os.MkdirAll(filepath.Join(dest, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(dest, "x", from)); err != nil {
			t.Fatal(err)
		}
	}
	tree := memTree{folder("./"), plain("./file", "theirs"), plain("./loop", "2"), folder("./dir"), plain("./dir/secret", "theirs")}
	_, err := Unpack(t.Context(), tree, Place{dest, "x"}, Options{})
	if !errs.Is(err, errs.Exists) || !strings.Contains(err.Error(), "x/file and 2 more") || !strings.Contains(errs.HintOf(err), "--overwrite") {
		t.Errorf("%v", err)
	}
	var failed []string
	r, err := Unpack(t.Context(), tree, Place{dest, "x"}, Options{Overwrite: true, Failed: func(_ string, err error) error {
		failed = append(failed, err.Error())
		return nil
	}})
	if err != nil || r.Files != 2 || r.Failed != 1 || len(failed) != 1 || !strings.Contains(failed[0], "x/dir exists already and is no directory") {
		t.Errorf("%+v, %v, %q", r, err, failed)
	}
	if text, err := os.ReadFile(filepath.Join(dest, "x", "loop")); string(text) != "2" {
		t.Errorf("%q, %v", text, err)
	}
}

// What cannot be read to its end gets no name, and replaces nothing.
func TestUnreadable(t *testing.T) {
	dest, check := world(t)
	defer check()
	old := filepath.Join(dest, "x", "bad")
	if err := os.MkdirAll(filepath.Dir(old), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := plain("./bad", strings.Repeat("new", copyBytes))
	bad.err = errors.New("bad sector")
	tree := memTree{folder("./"), plain("./a", "1"), bad, plain("./c", "3")}
	r, err := Unpack(t.Context(), tree, Place{dest, "x"}, Options{Overwrite: true})
	if err == nil || !strings.Contains(err.Error(), "bad: byte 3145727: bad sector") || r.Files != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = Unpack(t.Context(), tree, Place{dest, "x"}, Options{Overwrite: true, Failed: func(string, error) error { return nil }})
	if err != nil || r.Files != 2 || r.Failed != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if text, err := os.ReadFile(old); string(text) != "old" {
		t.Errorf("%.10q, %v", text, err)
	}
}

// An interrupted run leaves whole files and none that are half there.
func TestInterrupted(t *testing.T) {
	dest, check := world(t)
	defer check()
	ctx, cancel := context.WithCancel(t.Context())
	big := plain("./big", strings.Repeat("0123456789abcdef", copyBytes/4))
	r, err := Unpack(ctx, memTree{folder("./"), plain("./a", "1"), big, plain("./c", "3")}, Place{dest, "x"}, Options{
		Failed:   func(string, error) error { return nil },
		Progress: func(done int64) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	entries, _ := os.ReadDir(filepath.Join(dest, "x"))
	if r.Files != int64(len(entries)) || len(entries) > 1 {
		t.Errorf("%+v, %v", r, entries)
	}
}

// A dry run makes nothing, and finds what is in the way.
func TestDryRun(t *testing.T) {
	dest, check := world(t)
	defer check()
	tree := memTree{folder("./"), plain("./a", "1"), symlink("./b", "a"), folder("./c"), linked(plain("./c/d", "2"), 9, 2), linked(plain("./c/e", "2"), 9, 2)}
	r, err := Unpack(t.Context(), tree, Place{dest, "x"}, Options{DryRun: true})
	if err != nil || r.Files != 2 || r.Directories != 2 || r.Symlinks != 1 || r.HardLinks != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if entries, _ := os.ReadDir(dest); len(entries) > 0 {
		t.Errorf("%v", entries)
	}
	if _, err := Unpack(t.Context(), tree, Place{dest, "x"}, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(t.Context(), tree, Place{dest, "x"}, Options{DryRun: true}); !errs.Is(err, errs.Exists) {
		t.Errorf("%v", err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for path, want := range map[string]string{"a": "1", "b": "1", "c/e": "2"} {
		if text, err := os.ReadFile(filepath.Join(dest, "x", path)); string(text) != want {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}
