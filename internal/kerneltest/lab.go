package kerneltest

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"cowl/internal/judge"
)

// The recipe: Debian's kernel for virtual machines, these modules of it, those
// that VM.Load loads when a test asks for them, and these programs of the machine
// that the test runs on.
const kernelPackage = "linux-image-cloud-amd64"

// kernelVariable names the package of another kernel, a file, to judge by that one.
const kernelVariable = "COWL_KERNEL_DEB"

var (
	modules  = []string{"virtio_pci", "virtio_blk", "virtio_console", "dm-mod", "dm-snapshot", "dm-delay"}
	onDemand = []string{"dm-thin-pool", "dm-mirror", "dm-raid", "raid1", "dm-cache", "dm-cache-smq", "fuse", "loop"}
	programs = []string{"busybox", "lvm", "dmsetup", "mke2fs", "e2fsck"}
)

// recipe is the text whose change makes a cached lab obsolete.
//
//go:embed lab.go build.go cpio.go elf.go guest/*.go guest/init/*.go
var recipe embed.FS

// lab is a kernel and its initramfs.
type lab struct{ kernel, initrd string }

// find returns this machine's lab, which is built when it is asked for first:
// about 10 s, most of it for downloading the kernel.
var find = sync.OnceValues(func() (lab, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return lab{}, absent("the kernel lab is for linux/amd64, this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	for _, p := range append([]string{"qemu-system-x86_64"}, programs...) {
		if judge.Find(p) == "" {
			return lab{}, absent("%s not installed (scripts/setup does it on Debian)", p)
		}
	}
	key, err := recipeKey()
	if err != nil {
		return lab{}, err
	}
	root := os.Getenv("COWL_KERNEL_LAB")
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		root = filepath.Join(cache, "cowl-kernel-lab")
	}
	dir := filepath.Join(root, key)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := buildLab(dir); err != nil {
			return lab{}, err
		}
	} else if err != nil {
		return lab{}, err
	}
	return lab{filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd")}, nil
})

// absentError is why there is no lab on this machine, which is not a fault.
type absentError struct{ reason string }

func (e absentError) Error() string { return e.reason }

func absent(format string, args ...any) error { return absentError{fmt.Sprintf(format, args...)} }

// recipeKey changes when the recipe, one of the machine's programs or the kernel's
// package does.
func recipeKey() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(recipe, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := recipe.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
		return err
	})
	var used []string
	for _, p := range programs {
		used = append(used, judge.Find(p))
	}
	if deb := os.Getenv(kernelVariable); deb != "" {
		used = append(used, deb)
	}
	for _, path := range used {
		info, e := os.Stat(path)
		if e != nil {
			return "", e
		}
		fmt.Fprintf(h, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}
