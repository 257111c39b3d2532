package kerneltest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cowl/internal/judge"
	"cowl/internal/kerneltest/guest"
)

const lvmConf = `devices { use_devicesfile = 0 }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
`

// buildLab makes dir with kernel and initramfs in it. Two builders at once do
// the work twice; the first to finish wins.
func buildLab(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// apt downloads as a user of its own where it can.
	if err := os.Chmod(work, 0o777); err != nil {
		return err
	}

	deb := os.Getenv(kernelVariable)
	if deb == "" {
		if deb, err = download(ctx, work); err != nil {
			return err
		}
	}
	kernel, all, err := unpack(ctx, deb, work)
	if err != nil {
		return err
	}
	agent, err := buildInit(ctx, work)
	if err != nil {
		return err
	}
	out := filepath.Join(work, "lab")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "vmlinuz"), kernel, 0o644); err != nil {
		return err
	}
	if err := writeInitrd(filepath.Join(out, "initrd"), agent, all); err != nil {
		return err
	}
	if err := os.Rename(out, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Stat(dir); statErr != nil {
			return err
		}
	}
	return nil
}

// download fetches the kernel's package without installing it.
func download(ctx context.Context, dir string) (string, error) {
	for _, p := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if judge.Find(p) == "" {
			return "", absent("no %s to fetch a kernel with", p)
		}
	}
	fetch := func() error {
		out, err := output(ctx, dir, "apt-cache", "depends", kernelPackage)
		if err != nil {
			return err
		}
		// The package is empty; what it depends on is the kernel.
		_, real, ok := strings.Cut(out, "Depends: linux-image-")
		if !ok {
			return fmt.Errorf("apt-cache knows no kernel in %s", kernelPackage)
		}
		_, err = output(ctx, dir, "apt-get", "download", "-q", "linux-image-"+strings.Fields(real)[0])
		return err
	}
	err := fetch()
	if err != nil && os.Geteuid() == 0 {
		// The package lists are empty or older than the archive.
		if _, err = output(ctx, dir, "apt-get", "update", "-q"); err == nil {
			err = fetch()
		}
	}
	if err != nil {
		return "", absent("no kernel could be downloaded: %v", err)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download left %d packages in %s", len(debs), dir)
	}
	return debs[0], nil
}

// unpack returns the kernel and all of its modules, by name. Newer packages have
// them compressed.
func unpack(ctx context.Context, deb, dir string) (kernel []byte, all map[string][]byte, err error) {
	tree := filepath.Join(dir, "package")
	if _, err := output(ctx, dir, "dpkg-deb", "--extract", deb, tree); err != nil {
		return nil, nil, err
	}
	if _, err := output(ctx, tree, "find", ".", "-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"); err != nil {
		return nil, nil, err
	}
	all = map[string][]byte{}
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.Type().IsRegular():
			return err
		case strings.HasPrefix(d.Name(), "vmlinuz"):
			kernel, err = os.ReadFile(path)
		case strings.HasSuffix(d.Name(), ".ko"):
			all[moduleName(d.Name())], err = os.ReadFile(path)
		}
		return err
	})
	if err == nil && (kernel == nil || len(all) == 0) {
		err = errors.New("no kernel or no modules in it")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("unpack %s: %w", deb, err)
	}
	return kernel, all, nil
}

// buildInit builds the initramfs's process 1.
func buildInit(ctx context.Context, dir string) ([]byte, error) {
	path := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "cowl/internal/kerneltest/guest/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the lab's init: %w\n%s", err, out)
	}
	return os.ReadFile(path)
}

// writeInitrd writes the initramfs. It is not compressed: under emulation
// unpacking would cost more than loading.
func writeInitrd(path string, agent []byte, all map[string][]byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	c := newCpio(w)
	for _, d := range []string{"dev", "proc", "sys", "tmp", "run", "root", "mnt", "etc/lvm"} {
		c.dir(d)
	}
	c.file("init", 0o755, agent)
	c.file("etc/lvm/lvm.conf", 0o644, []byte(lvmConf))
	for _, p := range programs {
		if err := addProgram(c, judge.Find(p)); err != nil {
			return err
		}
	}
	if err := addAliases(c); err != nil {
		return err
	}
	if err := addModules(c, guest.Modules, all, modules); err != nil {
		return err
	}
	for _, name := range onDemand {
		if err := addModules(c, loadList(name), all, []string{name}); err != nil {
			return err
		}
	}
	return errors.Join(c.close(), w.Flush(), f.Close())
}

// loadList is the file that lists what has to be loaded for a module.
func loadList(name string) string { return "/lib/modules/" + moduleName(name) + ".needs" }

// addModules adds modules with what they depend on, and the list of them in
// loading order. A file that is there already stays.
func addModules(c *cpioWriter, list string, all map[string][]byte, names []string) error {
	order, err := moduleOrder(all, names)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, name := range order {
		path := "/lib/modules/" + name + ".ko"
		c.file(path, 0o644, all[name])
		fmt.Fprintln(&text, path)
	}
	c.file(list, 0o644, text.Bytes())
	return nil
}

// addProgram copies a program to the same name in /usr/sbin, and the
// libraries that it needs to where it looks for them.
func addProgram(c *cpioWriter, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.file("usr/sbin/"+filepath.Base(path), 0o755, text)
	libs, err := libraries(path)
	if err != nil {
		return err
	}
	for _, l := range libs {
		text, err := os.ReadFile(l)
		if err != nil {
			return err
		}
		c.file(l, 0o755, text)
	}
	return nil
}

// addAliases makes the names under which busybox and lvm are called. What is
// there already (dmsetup, mke2fs) keeps its place before busybox's.
func addAliases(c *cpioWriter) error {
	applets, err := output(context.Background(), "", judge.Find("busybox"), "--list")
	if err != nil {
		return err
	}
	for _, a := range strings.Fields(applets) {
		c.symlink("bin/"+a, "/usr/sbin/busybox")
	}
	for _, a := range strings.Fields(`pvs vgs lvs pvcreate pvdisplay pvremove pvck pvscan vgcreate vgextend
		vgreduce vgchange vgdisplay vgremove vgck vgscan vgcfgbackup vgcfgrestore lvcreate lvdisplay lvremove
		lvconvert lvchange lvextend lvreduce lvrename lvscan`) {
		c.symlink("usr/sbin/"+a, "lvm")
	}
	c.symlink("usr/sbin/mkfs.ext4", "mke2fs")
	if conf, err := os.ReadFile("/etc/mke2fs.conf"); err == nil {
		c.file("etc/mke2fs.conf", 0o644, conf)
	}
	return nil
}

// output runs a program in a directory and returns its standard output.
func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}
