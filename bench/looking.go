package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"
)

// looking is what looking into an image took, beside the kernel and the usual
// tools on a mount of the same image.
type looking struct {
	What         string
	Ours, Theirs string    // the commands
	OurSeconds   []float64 // by round
	TheirSeconds []float64
	OurPeakKiB   int64
	AtLeast      float64 // how many times as fast cowl is to be; 0 for no promise
}

// lookingImages are the file systems that are looked into: a tree as a home
// directory is one, and a directory that is far larger than it should be.
const (
	treeFiles = 100_000
	hugeNames = 1_000_000
)

// measureLooking makes the images, by the kernel, and looks into them with each
// tool in turn. Before every run, of either, nothing of the image is in the
// caches, but the programs themselves are; mounting is not measured, opening the
// image is.
func (b *bench) measureLooking() error {
	if os.Geteuid() != 0 {
		return errors.New("-look mounts images and drops the page cache: it needs root")
	}
	files, names := treeFiles, hugeNames
	if b.quick {
		files, names = 2000, 5000
	}
	tree, huge := b.path("tree.img"), b.path("huge.img")
	if err := b.makeImage(tree, 2048*mib, func(dir string) error { return makeTree(dir, files) }); err != nil {
		return err
	}
	if err := b.makeImage(huge, 512*mib, func(dir string) error { return makeHuge(dir, names) }); err != nil {
		return err
	}
	const find, tar = "find . -print", "tar --numeric-owner --xattrs --acls -cf - . | cat"
	runs := []struct {
		looking
		image string
		ours  []string
	}{
		{looking{What: fmt.Sprintf("list a tree of %d files", files), Ours: "ls -R", Theirs: find, AtLeast: 1}, tree, []string{"ls", "-R", tree}},
		{looking{What: "the same, unsorted", Ours: "ls -RU", Theirs: find, AtLeast: 1}, tree, []string{"ls", "-RU", tree}},
		{looking{What: "list it with sizes and times", Ours: "ls -lR", Theirs: "find . -ls", AtLeast: 1}, tree, []string{"ls", "-lR", tree}},
		{looking{What: "archive it", Ours: "tar", Theirs: tar, AtLeast: 0.8}, tree, []string{"tar", tree}},
		{looking{What: fmt.Sprintf("list a directory of %d names", names), Ours: "ls", Theirs: find}, huge, []string{"ls", huge + ":/huge"}},
		{looking{What: "the same, unsorted", Ours: "ls -U", Theirs: find}, huge, []string{"ls", "-U", huge + ":/huge"}},
	}
	for i := range runs {
		b.results.Looking = append(b.results.Looking, runs[i].looking)
	}
	for round := range b.rounds {
		for i := range runs {
			r, into := &runs[i], &b.results.Looking[i]
			b.progress("round %d/%d, %s", round+1, b.rounds, r.What)
			ours := func() error {
				if err := b.chill(); err != nil {
					return err
				}
				cmd := exec.CommandContext(b.ctx, b.cowl, r.ours...)
				took, err := timed(cmd)
				into.OurSeconds, into.OurPeakKiB = append(into.OurSeconds, took), max(into.OurPeakKiB, peakOf(cmd))
				return err
			}
			theirs := func() error {
				return b.mounted(r.image, "ro", func(dir string) error {
					cmd := exec.CommandContext(b.ctx, "sh", "-c", r.Theirs)
					cmd.Dir = dir
					took, err := timed(cmd)
					into.TheirSeconds = append(into.TheirSeconds, took)
					return err
				})
			}
			turns := []func() error{ours, theirs}
			if round%2 == 1 {
				turns = []func() error{theirs, ours}
			}
			for _, turn := range turns {
				if err := turn(); err != nil {
					return fmt.Errorf("%s: %w", r.What, err)
				}
			}
		}
	}
	b.progress("")
	return nil
}

// timed runs a command whose output goes through a pipe to nobody: GNU tar
// would read nothing if it went to /dev/null.
func timed(cmd *exec.Cmd) (seconds float64, err error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stderr = os.Stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, out, make([]byte, mib))
	err = errors.Join(err, cmd.Wait())
	return time.Since(began).Seconds(), err
}

// chill empties the kernel's caches of pages, names and inodes, and brings the
// programs back, whose size is not what is measured.
func (b *bench) chill() error {
	syncAll()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		return err
	}
	return b.do(nil, "sh", "-c", `"$0" version && find --version && tar --version && cat /dev/null`, b.cowl)
}

// mounted mounts an image, with nothing of it in a cache, while f runs.
func (b *bench) mounted(image, how string, f func(dir string) error) (err error) {
	dir := b.path("mnt")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := b.do(nil, "mount", "-o", "loop,"+how, image, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.do(nil, "umount", dir)) }()
	if err := b.chill(); err != nil {
		return err
	}
	return f(dir)
}

// makeImage makes an ext4 and lets the kernel fill it.
func (b *bench) makeImage(path string, size int64, fill func(dir string) error) error {
	b.progress("making %s", filepath.Base(path))
	if err := sparse(path, size); err != nil {
		return err
	}
	if err := b.do(nil, "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0", path); err != nil {
		return err
	}
	return b.mounted(path, "rw", fill)
}

// makeTree makes files of up to 8 KiB, a hundred to a directory, ten directories
// to each of these.
func makeTree(root string, files int) error {
	rng := rand.New(rand.NewPCG(seed, 2))
	noise := make([]byte, 8*kib)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("part-%d/group-%d", i/1000, i/100%10))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		name := filepath.Join(dir, fmt.Sprintf("file-%x-%d", rng.Uint32(), i))
		if err := os.WriteFile(name, noise[:rng.IntN(len(noise))], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeHuge makes one directory of very many names, of few files: it is the
// directory that counts.
func makeHuge(root string, names int) error {
	const links = 60_000 // a file cannot have many more on ext4
	dir, file := filepath.Join(root, "huge"), ""
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range names {
		name := filepath.Join(dir, "a name of middling length "+strconv.Itoa(i))
		if i%links == 0 {
			file = name
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				return err
			}
			continue
		}
		if err := os.Link(file, name); err != nil {
			return err
		}
	}
	return nil
}

// printLooking writes the table.
func (r *results) printLooking(to io.Writer) {
	if len(r.Looking) == 0 {
		return
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nlooking into an image, cold\tcowl\ts\tpeak MiB\ton a mount\ts\ttimes as fast\tpromised\t\n")
	for _, l := range r.Looking {
		if len(l.OurSeconds) == 0 || len(l.TheirSeconds) == 0 {
			continue
		}
		promised := ""
		if l.AtLeast > 0 {
			promised = fmt.Sprintf("%.1f", l.AtLeast)
		}
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%d\t%s\t%.2f\t%s\t%s\t\n", l.What, l.Ours, median(l.OurSeconds), l.OurPeakKiB/kib,
			l.Theirs, median(l.TheirSeconds), times(l.TheirSeconds, l.OurSeconds), promised)
	}
	w.Flush()
}
