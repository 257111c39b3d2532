package fstree

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cowl/internal/judge"
)

// Scale says how much a tree has of what is nasty by number.
type Scale struct {
	Entries int   // in the largest directory
	Extents int   // of the most fragmented file
	Sparse  int64 // size of the largest file, bytes; most of it is a hole
}

// builder fills a directory. What a file system cannot hold is left out.
type builder struct {
	t   testing.TB
	dir string
}

func (b builder) path(name string) string { return filepath.Join(b.dir, name) }

func (b builder) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// try accepts that the file system has no such thing, or no room for it.
func (b builder) try(what string, err error) {
	b.t.Helper()
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EFBIG), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ENAMETOOLONG):
		b.t.Logf("left out: %s: %v", what, err)
	default:
		b.must(err)
	}
}

func (b builder) write(name, content string) {
	b.t.Helper()
	b.must(os.WriteFile(b.path(name), []byte(content), 0o644))
}

// Nasty fills a directory with what file systems hold and readers get wrong.
// As root it has devices and foreign owners as well.
func Nasty(t testing.TB, dir string, s Scale) {
	t.Helper()
	b := builder{t, dir}
	b.names()
	b.kinds()
	b.contents(s)
	b.attributes()
	b.many(s.Entries)
	b.owners()
	b.times()
}

// names are odd names and deep directories.
func (b builder) names() {
	deep := "d/" + strings.Repeat("long-directory-name/", 12)
	b.must(os.MkdirAll(b.path(deep), 0o755))
	b.write(deep+"leaf", "deep")
	b.write("name with spaces, and\nnewline", "x")
	b.write("bytes-\xff\xfe", "not UTF-8")
	b.write("grüße-日本語", "UTF-8")
	b.write(strings.Repeat("n", 255), "longest name")
	b.write("-", "a dash")
	b.write("%s=;\\", "signs")
}

// kinds has every type of file.
func (b builder) kinds() {
	b.write("plain", "hello")
	b.must(unix.Chmod(b.path("plain"), 0o4751))
	for _, n := range []int{1, 58, 59, 60, 61, 120, 155, 1000, 4000} {
		target := strings.Repeat("../", n/3) + strings.Repeat("x", n%3)
		b.try("link", os.Symlink(target[:n], b.path(fmt.Sprintf("link-%d", n))))
	}
	b.must(os.Symlink("plain", b.path("good-link")))
	b.must(os.Symlink("/d", b.path("absolute-link")))
	b.must(os.Link(b.path("plain"), b.path("z-hard")))
	b.must(os.Link(b.path("plain"), b.path("d/hard-too")))
	b.must(os.Link(b.path("good-link"), b.path("d/hard-link")))
	b.must(unix.Mkfifo(b.path("fifo"), 0o620))
	b.must(os.Mkdir(b.path("sticky"), 0o755))
	b.must(os.Chmod(b.path("sticky"), 0o777|os.ModeSticky|os.ModeSetgid))
	b.must(unix.Mknod(b.path("sock"), unix.S_IFSOCK|0o711, 0))
	if os.Geteuid() == 0 {
		for name, dev := range map[string]uint64{"null": unix.Mkdev(1, 3), "old-dev": unix.Mkdev(255, 255), "new-dev": unix.Mkdev(259, 200000), "low-minor": unix.Mkdev(300, 4)} {
			b.must(unix.Mknod(b.path(name), unix.S_IFCHR|0o666, int(dev)))
		}
		b.must(unix.Mknod(b.path("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 17))))
	}
}

// contents are files of all sizes and shapes.
func (b builder) contents(s Scale) {
	random := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, 59, 60, 61, 100, 155, 160, 250, 1023, 1024, 1025, 4095, 4096, 4097, 65537, 300_000} {
		data := make([]byte, n)
		random.Read(data)
		b.write(fmt.Sprintf("size-%d", n), string(data))
	}
	b.sparse("sparse", s.Sparse)
	b.must(os.WriteFile(b.path("all-hole"), nil, 0o600))
	b.must(os.Truncate(b.path("all-hole"), 3<<20+5))
	b.write("hole-at-end", "head")
	b.must(os.Truncate(b.path("hole-at-end"), 1<<20))
	b.fragmented("fragments", s.Extents)
	b.unwritten("unwritten")
	b.write("shrunk", strings.Repeat("shrunk", 20_000))
	b.must(os.Truncate(b.path("shrunk"), 10))
}

// sparse makes a file with data at its ends and where the next level of
// indirect blocks begins, for blocks of 1 and 4 KiB.
func (b builder) sparse(name string, size int64) {
	f, err := os.Create(b.path(name))
	b.must(err)
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		b.try("sparse", err)
		return
	}
	for _, k := range []int64{1 << 10, 2 << 10, 4 << 10} {
		per := k / 4
		for _, block := range []int64{0, 11, 12, 12 + per - 1, 12 + per, 12 + per + per*per - 1, 12 + per + per*per, 12 + per + 2*per*per + 5} {
			if off := block * k; off+k <= size {
				_, err := f.WriteAt(bytes.Repeat([]byte{byte(block), byte(k >> 8)}, int(k/2)), off)
				b.must(err)
			}
		}
	}
	_, err = f.WriteAt([]byte("the end"), size-7)
	b.must(err)
}

// fragmented makes a file with so many extents.
func (b builder) fragmented(name string, extents int) {
	f, err := os.Create(b.path(name))
	b.must(err)
	defer f.Close()
	for i := range extents {
		_, err := f.WriteAt([]byte(fmt.Sprintf("extent %d", i)), int64(i)*2*4096)
		b.must(err)
	}
}

// unwritten makes a file with space that was never written, also behind its
// end.
func (b builder) unwritten(name string) {
	f, err := os.Create(b.path(name))
	b.must(err)
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 200_000); err != nil {
		b.try("unwritten", err)
		return
	}
	_, err = f.WriteAt([]byte("in the middle"), 100_000)
	b.must(err)
	b.must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 200_000, 100_000))
}

// attributes are extended attributes, ACLs, and the flags of chattr.
func (b builder) attributes() {
	b.write("attrs", "some")
	b.write("attr-large", "one")
	b.write("attr-huge", "one")
	b.must(os.Mkdir(b.path("attr-dir"), 0o750))
	b.must(os.Symlink("attrs", b.path("attr-link")))
	set := func(file, name, value string) {
		b.try(name, unix.Lsetxattr(b.path(file), name, []byte(value), 0))
	}
	set("attrs", "user.note", "a\x00b=c\n")
	set("attrs", "user.odd=%name", "v")
	set("attrs", "user.empty", "")
	set("attr-dir", "user.on-a-directory", strings.Repeat("d", 100))
	set("attr-large", "user.large", strings.Repeat("large", 150))
	set("attr-large", "user.small", "s")
	set("attr-huge", "user.huge", strings.Repeat("huge ", 8000))
	set("attr-huge", "user.small", "s")
	if os.Geteuid() == 0 {
		set("attrs", "trusted.secret", "t")
		set("attr-link", "trusted.of-a-link", strings.Repeat("l", 70))
		set("attrs", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	}
	if setfacl := judge.Find("setfacl"); setfacl != "" {
		if out, err := exec.Command(setfacl, "-m", "u:12345:rw,g:7:x,d:u:1:rwx,d:g:54321:r", b.path("attr-dir")).CombinedOutput(); err != nil {
			b.t.Logf("left out: ACLs: %s", out)
		}
	}
}

// many is a directory with very many entries, and one from which most were
// removed again.
func (b builder) many(entries int) {
	b.must(os.Mkdir(b.path("many"), 0o755))
	b.must(os.Mkdir(b.path("few"), 0o755))
	for i := range entries {
		b.must(os.Link(b.path("fifo"), b.path(fmt.Sprintf("many/entry-%d-%s", i, strings.Repeat("m", i%60)))))
		if i%100 == 99 { // no file has more than 65000 links
			b.must(os.Remove(b.path("fifo")))
			b.must(unix.Mkfifo(b.path("fifo"), 0o620))
		}
		if i < 600 {
			b.write(fmt.Sprintf("few/%d", i), "x")
		}
	}
	for i := range min(entries, 600) {
		if i%50 != 7 {
			b.must(os.Remove(b.path(fmt.Sprintf("few/%d", i))))
		}
	}
}

func (b builder) owners() {
	if os.Geteuid() != 0 {
		return
	}
	large := uint32(4_000_000_000) // more than an int has on some systems
	b.must(os.Lchown(b.path("size-0"), 3_000_000, int(large)))
	b.must(os.Lchown(b.path("good-link"), 7, 8))
	b.must(os.Lchown(b.path("d"), 65536, 65535))
}

// times are before the epoch, to the nanosecond, and beyond 2038 and 2106.
func (b builder) times() {
	for name, at := range map[string]time.Time{
		"size-1": time.Unix(-3, 250_000_000), "size-59": time.Unix(1<<31, 1), "size-60": time.Unix(1<<32+5, 999_999_999),
		"size-61": time.Unix(1<<33+7, 123), "size-100": time.Unix(-1<<31, 0), "d": time.Unix(9, 1), "good-link": time.Unix(1234567890, 987654321),
	} {
		ts := unix.NsecToTimespec(at.UnixNano())
		b.must(unix.UtimesNanoAt(unix.AT_FDCWD, b.path(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}
