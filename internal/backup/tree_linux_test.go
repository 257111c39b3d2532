package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/judge"
)

// nastyTree fills a directory with what file systems hold and archives get
// wrong. As root it has devices and foreign owners as well.
func nastyTree(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string) { t.Helper(); must(os.WriteFile(path(name), []byte(content), 0o644)) }
	must(os.MkdirAll(path("d/"+strings.Repeat("long-directory-name/", 12)), 0o755))
	write("d/"+strings.Repeat("long-directory-name/", 12)+"leaf", "deep")
	write("empty", "")
	write("plain", "hello")
	write("name with spaces, and\nnewline", "x")
	write("bytes-\xff\xfe", "not UTF-8")
	write("grüße-日本語", "UTF-8")
	write(strings.Repeat("n", 255), "longest name")
	must(os.Chmod(path("plain"), 0o4751))
	must(os.Symlink("plain", path("short-link")))
	must(os.Symlink(strings.Repeat("../", 70)+"nowhere", path("long-link")))
	must(os.Link(path("plain"), path("z-hard")))
	must(os.Link(path("plain"), path("d/hard-too")))
	must(unix.Mkfifo(path("fifo"), 0o620))
	if l, err := net.Listen("unix", path("sock")); err == nil {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	sparse, err := os.Create(path("sparse"))
	must(err)
	must(sparse.Truncate(128 << 20))
	for _, off := range []int64{0, 64 << 20, 128<<20 - 4096} {
		_, err = sparse.WriteAt(bytes.Repeat([]byte{7}, 4096), off)
		must(err)
	}
	must(sparse.Close())
	must(os.WriteFile(path("all-hole"), nil, 0o600))
	must(os.Truncate(path("all-hole"), 3<<20+5))
	tail, err := os.Create(path("hole-at-end-" + strings.Repeat("s", 110)))
	must(err)
	_, err = tail.WriteString("head")
	must(err)
	must(tail.Truncate(1 << 20))
	must(tail.Close())
	for name, value := range map[string]string{"user.note": "a\x00b=c\n", "user.odd=%name": "v", "user.empty": ""} {
		err := unix.Lsetxattr(path("plain"), name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) {
			t.Log("this file system has no extended attributes")
			break
		}
		must(err)
	}
	if setfacl := judge.Find("setfacl"); setfacl != "" {
		if out, err := exec.Command(setfacl, "-m", "u:12345:rw,d:g:54321:r", path("d")).CombinedOutput(); err != nil {
			t.Logf("no ACLs here: %s", out)
		}
	}
	if os.Geteuid() == 0 {
		must(unix.Mknod(path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(unix.Mknod(path("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 200000))))
		must(os.Lchown(path("empty"), 3_000_000, 4_000_000_000))
		must(os.Lchown(path("short-link"), 7, 8))
	}
	at := unix.Timespec{Sec: 1234567890, Nsec: 987654321}
	must(unix.UtimesNanoAt(unix.AT_FDCWD, path("short-link"), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
	must(os.Chtimes(path("empty"), time.Unix(-3, 250_000_000), time.Unix(-3, 250_000_000)))
	must(os.Chtimes(path("d"), time.Unix(9, 1), time.Unix(9, 1)))
}

// listing describes a tree so that two of them can be compared as text.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				line += " link " + first[st.Ino]
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", st.Size, h.Sum(nil))
			if st.Size > 1<<20 && st.Blocks*512 > st.Size/2 {
				line += " NOT SPARSE"
			}
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		attrs, err := xattrs(path)
		if err != nil {
			return err
		}
		for _, k := range slices.Sorted(func(yield func(string) bool) {
			for k := range attrs {
				if !yield(k) {
					return
				}
			}
		}) {
			line += fmt.Sprintf(" %s=%q", k, attrs[k])
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func writeTar(t *testing.T, dir string) (path string, notes []string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "x.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := writeTree(context.Background(), f, dir, func(s string) { notes = append(notes, s) }); err != nil {
		t.Fatal(err)
	}
	return path, notes
}

// GNU tar must find no difference, and unpack the same tree, holes included.
func TestTreeAgainstGNUTar(t *testing.T) {
	judge.Need(t, "tar")
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nastyTree(t, dir)
	path, notes := writeTar(t, dir)
	if len(notes) != 1 || !strings.Contains(notes[0], "sock") {
		t.Errorf("notes %q, want one about the socket", notes)
	}
	compare := exec.Command("tar", "--compare", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "-f", path)
	if out, err := compare.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar --compare: %v\n%s", err, out)
	}
	to := t.TempDir()
	unpack := exec.Command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", to, "-xpf", path)
	if os.Geteuid() != 0 {
		unpack.Args = append(unpack.Args, "--no-same-owner")
	}
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("tar -x: %v\n%s", err, out)
	}
	if want, got := listing(t, dir), listing(t, to); want != got {
		t.Errorf("unpacked tree differs.\noriginal:\n%s\nunpacked:\n%s", want, got)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > 1<<20 {
		t.Errorf("the archive of 128 MiB of hole has %d bytes (%v)", st.Size(), err)
	}
}

// A second reader, which is none of ours and none of GNU's.
func TestTreeAgainstArchiveTar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nastyTree(t, dir)
	path, _ := writeTar(t, dir)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	for r := tar.NewReader(f); ; found++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			t.Fatal(err)
		}
		if want := time.Unix(st.Mtim.Unix()); !h.ModTime.Equal(want) {
			t.Errorf("%s: mtime %v, want %v", h.Name, h.ModTime, want)
		}
		if h.Uid != int(st.Uid) || h.Gid != int(st.Gid) || h.Mode != int64(st.Mode&0o7777) {
			t.Errorf("%s: owner %d:%d, mode %o", h.Name, h.Uid, h.Gid, h.Mode)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		want, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		a, b := sha256.New(), sha256.New()
		if _, err := io.Copy(a, want); err != nil {
			t.Fatal(err)
		}
		want.Close()
		if _, err := io.Copy(b, r); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if !bytes.Equal(a.Sum(nil), b.Sum(nil)) {
			t.Errorf("%s: content differs", h.Name)
		}
	}
	if found < 20 {
		t.Errorf("only %d entries", found)
	}
}

// What cannot be read must fail the archive: one that lacks a file is not a
// backup. As root, a directory that vanishes stands for it.
func TestTreeUnreadable(t *testing.T) {
	if _, err := writeTree(context.Background(), io.Discard, filepath.Join(t.TempDir(), "gone"), func(string) {}); err == nil {
		t.Error("an archive of nothing was made")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := writeTree(ctx, io.Discard, dir, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
