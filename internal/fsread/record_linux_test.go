package fsread_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cowl/internal/fsread/fstree"
)

// images are small file systems that stand in testdata, so that the decoders'
// and the reader's fuzz targets and tests of damage need no tools. They hold
// what the names say, and the trees that smallTree makes.
var images = map[string]struct {
	size            int64
	mke2fs, options string
	dirty           bool
}{
	"ext2-1k":      {1 << 20, "-t ext2 -b 1024 -I 128 -N 400", "rw,user_xattr,acl", false},
	"ext4-plain":   {1 << 20, "-t ext4 -b 1024 -I 256 -N 400 -O ^has_journal,^metadata_csum,^uninit_bg,^resize_inode,inline_data,ea_inode", "rw", false},
	"ext4-csum":    {1 << 20, "-t ext4 -b 1024 -I 256 -N 400 -O ^has_journal,^resize_inode,inline_data,ea_inode", "rw", false},
	"dirty-plain":  {3 << 20, "-t ext4 -b 1024 -I 128 -N 400 -J size=1 -O ^metadata_csum,^uninit_bg,^resize_inode,^64bit", "rw,data=journal", true},
	"dirty-csum":   {3 << 20, "-t ext4 -b 1024 -I 256 -N 400 -J size=1 -O ^resize_inode", "rw", true},
	"fast-commit":  {8 << 20, "-t ext4 -b 1024 -I 256 -N 400 -J size=2 -O ^resize_inode,fast_commit", "rw", true},
	"encrypted-4k": {2 << 20, "-t ext4 -b 4096 -I 256 -N 64 -O ^has_journal,^resize_inode,encrypt", "rw", false},
}

// TestRecordImages makes the images of testdata anew, with COWL_RECORD=1.
func TestRecordImages(t *testing.T) {
	if os.Getenv("COWL_RECORD") == "" {
		t.Skip("COWL_RECORD=1 makes the images of testdata anew")
	}
	for name, v := range images {
		t.Run(name, func(t *testing.T) {
			image := fstree.Image(t, v.size, strings.Fields(v.mke2fs)...)
			dir, release := fstree.Mount(t, image, v.options)
			smallTree(t, dir)
			if strings.HasPrefix(name, "encrypted") {
				encrypt(t, filepath.Join(dir, "secret"))
			}
			if v.dirty {
				for i := range 6 {
					small(t, dir, fmt.Sprint("later-", i))
					fsync(t, filepath.Join(dir, "size-60"))
				}
				image = fstree.Copy(t, image)
			} else {
				release()
			}
			record := filepath.Join("..", "format", "ext4", "testdata", name+".img.gz")
			raw, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			var packed bytes.Buffer
			w, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
			w.Write(raw)
			w.Close()
			if err := os.WriteFile(record, packed.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %d bytes", record, packed.Len())
		})
	}
}

// smallTree has a little of everything.
func smallTree(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, n := range []int{0, 1, 60, 100, 155, 5000, 20_000} {
		must(os.WriteFile(path(fmt.Sprint("size-", n)), bytes.Repeat([]byte("0123456789"), n/10+1)[:n], 0o644))
	}
	must(os.MkdirAll(path("a/b/c"), 0o755))
	must(os.MkdirAll(path("many"), 0o755))
	for i := range 150 {
		must(os.Link(path("size-1"), path(fmt.Sprintf("many/name-%d", i))))
	}
	must(os.Symlink("../size-60", path("a/short")))
	must(os.Symlink("/a/"+strings.Repeat("./", 40)+"b", path("long")))
	must(os.Symlink("loop", path("loop")))
	must(unix.Mkfifo(path("fifo"), 0o600))
	must(unix.Mknod(path("device"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 7777))))
	must(unix.Lsetxattr(path("size-60"), "user.small", []byte("value"), 0))
	must(unix.Lsetxattr(path("size-100"), "user.large", bytes.Repeat([]byte("large"), 60), 0))
	_ = unix.Lsetxattr(path("size-155"), "user.huge", bytes.Repeat([]byte("huge"), 1000), 0) // not without ea_inode
	fstree.Run(t, "setfacl", "-m", "u:7:rw,d:g:8:x", path("a"))
	f, err := os.Create(path("fragments"))
	must(err)
	defer f.Close()
	for i := range 120 {
		_, err := f.WriteAt([]byte("x"), int64(i)*2048)
		must(err)
	}
	for _, block := range []int64{12 + 256, 12 + 256 + 65536 + 3, 12 + 256 + 65536 + 70000} {
		_, err := f.WriteAt([]byte("far"), block*1024)
		must(err)
	}
	_ = unix.Fallocate(int(f.Fd()), 0, 300_000, 10_000)
}

// small makes and removes a few things.
func small(t *testing.T, dir, name string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	magic := append([]byte{0xc0, 0x3b, 0x39, 0x98}, name...)
	for i := range 8 {
		if err := os.WriteFile(filepath.Join(path, fmt.Sprint(i)), magic, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if name == "later-3" {
		if err := os.RemoveAll(filepath.Join(dir, "later-1")); err != nil {
			t.Fatal(err)
		}
	}
	fstree.Run(t, "sync", "-f", dir)
}

// fsync changes a file and flushes it alone, which makes a fast commit where
// there are any.
func fsync(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString("appended")
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// encrypt makes a directory whose names and contents fscrypt encrypts, and
// puts something into it.
func encrypt(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const addKey, setPolicy = 0xc0506617, 0x800c6613
	// struct fscrypt_add_key_arg: a key by identifier, its size, the key.
	var key [80 + 64]byte
	key[0], key[40] = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER, 64
	copy(key[80:], bytes.Repeat([]byte("key"), 22))
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), addKey, uintptr(unsafe.Pointer(&key))); e != 0 {
		t.Fatalf("FS_IOC_ADD_ENCRYPTION_KEY: %v", e)
	}
	// struct fscrypt_policy_v2.
	policy := [24]byte{unix.FSCRYPT_POLICY_V2, unix.FSCRYPT_MODE_AES_256_XTS, unix.FSCRYPT_MODE_AES_256_CTS}
	copy(policy[8:], key[8:24])
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), setPolicy, uintptr(unsafe.Pointer(&policy))); e != 0 {
		t.Fatalf("FS_IOC_SET_ENCRYPTION_POLICY: %v", e)
	}
	for i := range 3 {
		name := filepath.Join(path, fmt.Sprintf("secret name %d", i))
		if err := os.WriteFile(name, []byte("secret content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("secret target", filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
}
