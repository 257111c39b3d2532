package fstree

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/judge"
)

// Run runs a program, wherever it is installed, and ends the test if it fails.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(judge.Find(args[0]), args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Image makes a sparse file of the size in bytes and mke2fs's file system in
// it.
func Image(t testing.TB, size int64, mke2fs ...string) string {
	t.Helper()
	judge.Need(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "fs.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	Run(t, append(append([]string{"mke2fs", "-q", "-F"}, mke2fs...), path)...)
	return path
}

// Mount mounts an image, ro or rw with further options, until the test ends or
// release is called.
func Mount(t testing.TB, image, options string) (dir string, release func()) {
	t.Helper()
	judge.NeedLoop(t)
	judge.Need(t, "mount", "umount", "blockdev")
	loop := strings.TrimSpace(Run(t, "losetup", "--find", "--show", image))
	mounted := false
	t.Cleanup(func() {
		if mounted {
			Run(t, "umount", dir)
		}
		Run(t, "losetup", "--detach", loop)
	})
	// A loop device that was read-only once may still be.
	Run(t, "blockdev", "--setrw", loop)
	dir = t.TempDir()
	Run(t, "mount", "-o", options, loop, dir)
	mounted = true
	return dir, func() {
		if mounted {
			mounted = false
			Run(t, "umount", dir)
		}
	}
}

// Copy copies an image as it is now, holes kept.
func Copy(t testing.TB, image string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.img")
	Run(t, "cp", "--sparse=always", image, to)
	return to
}

// Sum256 is the SHA-256 of a file.
func Sum256(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
