package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"cowl/internal/block"
	"cowl/internal/export/nbd"
)

// backups is what one tool's backups of the same data took: of all of it, and
// of what 1 % of changes made of it.
type backups struct {
	Tool      string
	Full      takes
	Increment takes
	PeakKiB   int64 // of the command
	DaemonKiB int64 `json:",omitempty"` // of the process that serves the volume meanwhile
}

// takes are one kind of backup, by round.
type takes struct {
	Seconds   []float64
	StoredMiB []float64 // what the target gained, as it lies on the disk
}

// sparseRun is a backup of a volume far larger than what is in it.
type sparseRun struct {
	VolumeGiB, DataMiB, ChangedMiB int64
	Full, Increment                float64 // seconds
	PeakKiB, DaemonKiB             int64
}

// tool makes backups of a file with the same content as cowl's volume; cowl
// makes them of the volume, with all that belongs to that.
type tool struct {
	name  string
	needs string // the program
	init  func(b *bench, dir string) *exec.Cmd
	run   func(b *bench, dir string, n int) *exec.Cmd
}

const cowlTool = "cowl"

var tools = []tool{
	{cowlTool, "", func(b *bench, dir string) *exec.Cmd {
		return b.backupCommand(dir, "repo", "init", "repo:"+dir, "--kdf", "pbkdf2")
	},
		func(b *bench, dir string, _ int) *exec.Cmd {
			return b.backupCommand(dir, "backup", "bench/data", "--to", "repo:"+dir)
		}},
	{"restic", "restic", func(b *bench, dir string) *exec.Cmd { return b.restic(dir, "init") },
		func(b *bench, dir string, _ int) *exec.Cmd { return b.restic(dir, "backup", b.path("plain.img")) }},
	borgTool("borg fixed 4 MiB", "fixed,4194304"),
	borgTool("borg fixed 64 KiB", "fixed,65536"),
	{"qemu-img convert", "qemu-img", nil, func(b *bench, dir string, n int) *exec.Cmd {
		return exec.CommandContext(b.ctx, "qemu-img", "convert", "-O", "qcow2", b.path("plain.img"), filepath.Join(dir, strconv.Itoa(n)))
	}},
	{"dd", "dd", nil, func(b *bench, dir string, n int) *exec.Cmd {
		return exec.CommandContext(b.ctx, "dd", "if="+b.path("plain.img"), "of="+filepath.Join(dir, strconv.Itoa(n)), "bs=1M", "conv=sparse,fsync", "status=none")
	}},
}

// borgTool is borg with chunks of one size, which for images is its best.
func borgTool(name, chunker string) tool {
	borg := func(b *bench, dir string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(b.ctx, "borg", args...)
		cmd.Env = append(os.Environ(), "BORG_BASE_DIR="+b.path("borg"), "BORG_PASSPHRASE=secret", "BORG_REPO="+dir,
			"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes")
		return cmd
	}
	return tool{name, "borg", func(b *bench, dir string) *exec.Cmd { return borg(b, dir, "init", "-e", "repokey-blake2") },
		func(b *bench, dir string, n int) *exec.Cmd {
			return borg(b, dir, "create", "-C", "zstd,1", "--chunker-params", chunker, "::"+strconv.Itoa(n), b.path("plain.img"))
		}}
}

func (b *bench) restic(dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, "restic", append([]string{"-q", "--cache-dir", b.path("restic")}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_REPOSITORY="+dir, "RESTIC_PASSWORD=secret")
	return cmd
}

func (b *bench) backupCommand(_ string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, b.cowl, args...)
	cmd.Env = append(append(os.Environ(), b.cowlEnv()...), "COWL_PASSWORD=secret", "COWL_CACHE_DIR="+b.path("cache"))
	return cmd
}

// measureBackups backs the same data up with each tool in turn, changes 1 % of
// it in clusters at random places, and backs it up again.
func (b *bench) measureBackups() error {
	var here []tool
	for _, t := range tools {
		if _, err := exec.LookPath(t.needs); t.needs != "" && err != nil {
			b.results.Skipped[t.name] = t.needs + " is not installed."
			continue
		}
		here = append(here, t)
		b.results.Backups = append(b.results.Backups, backups{Tool: t.name})
	}
	for round := range b.rounds {
		if err := b.backupRound(here, round); err != nil {
			return err
		}
	}
	err := b.measureSparse()
	b.progress("")
	return err
}

// backupRound does one round, with new targets.
func (b *bench) backupRound(here []tool, round int) (err error) {
	rng := rand.New(rand.NewPCG(seed, uint64(round)))
	clusters := b.size / clusterBytes
	served, err := b.serveEmpty(b.size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, served.stop(), b.clearBackups()) }()
	if err := sparse(b.path("plain.img"), b.size); err != nil {
		return err
	}
	plain, err := os.OpenFile(b.path("plain.img"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer plain.Close()
	places := rng.Perm(int(clusters))
	if err := b.scatter(rng, places[:clusters/2], plain); err != nil {
		return err
	}
	for kind, what := range []string{"full", "increment"} {
		if kind == 1 {
			n := max(1, int(clusters/100))
			// As in life, what changes is more often where something was before.
			changed := append(slices.Clone(places[:n*3/4]), places[clusters/2:][:n-n*3/4]...)
			if err := b.scatter(rng, changed, plain); err != nil {
				return err
			}
		}
		for i := range here {
			t := (i + round) % len(here)
			b.progress("round %d/%d, %s, %s", round+1, b.rounds, what, here[t].name)
			if err := b.backUp(here[t], &b.results.Backups[t], kind); err != nil {
				return fmt.Errorf("%s: %w", here[t].name, err)
			}
		}
	}
	for i := range b.results.Backups {
		if r := &b.results.Backups[i]; r.Tool == cowlTool {
			r.DaemonKiB = max(r.DaemonKiB, served.process.peakKiB())
		}
	}
	return nil
}

// backUp makes one backup and adds what it took.
func (b *bench) backUp(t tool, r *backups, kind int) error {
	dir := b.path("target-" + strconv.Itoa(slices.IndexFunc(tools, func(o tool) bool { return o.name == t.name })))
	if kind == 0 {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if t.init != nil {
			if err := runCommand(t.init(b, dir)); err != nil {
				return err
			}
		}
	}
	before, err := onDisk(dir)
	if err != nil {
		return err
	}
	syncAll() // what others wrote is not this one's to wait for
	cmd := t.run(b, dir, kind)
	began := time.Now()
	if err := runCommand(cmd); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	syncAll()
	after, err := onDisk(dir)
	if err != nil {
		return err
	}
	to := &r.Full
	if kind == 1 {
		to = &r.Increment
	}
	to.Seconds = append(to.Seconds, took)
	to.StoredMiB = append(to.StoredMiB, float64(after-before)/mib)
	r.PeakKiB = max(r.PeakKiB, peakOf(cmd))
	return nil
}

// runCommand runs a command to its end.
func runCommand(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

// onDisk is what a directory takes on the disk, bytes.
func onDisk(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n += allocated(info)
		return nil
	})
	return n, err
}

// serveEmpty serves a new volume of a size, with room for snapshots, that is all
// holes.
func (b *bench) serveEmpty(size int64) (*running, error) {
	pv, cow := b.path("pv.img"), b.path("cow.img")
	err := errors.Join(
		sparse(pv, size+cowSlack), sparse(cow, size/2+cowSlack),
		b.cowlDo("pvcreate", "-y", pv, cow), b.cowlDo("vgcreate", "bench", pv, cow),
		b.cowlDo("lvcreate", "-y", "-L", fmt.Sprintf("%dm", size/mib), "-n", "data", "bench", pv),
	)
	if err != nil {
		return nil, err
	}
	return b.serveCowl()
}

// scatter writes noise into clusters of the served volume, and of a file
// unless that is nil.
func (b *bench) scatter(rng *rand.Rand, places []int, plain io.WriterAt) (err error) {
	dev, err := nbd.Dial(b.ctx, "unix", filepath.Join(b.path("run"), "bench.nbd"), "data")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	var key [32]byte
	for i := range key {
		key[i] = byte(rng.Uint32())
	}
	noise := rand.NewChaCha8(key)
	buf := make([]byte, clusterBytes)
	for _, p := range places {
		noise.Read(buf)
		for _, to := range []io.WriterAt{dev, plain} {
			if to == nil {
				continue
			}
			if _, err := to.WriteAt(buf, int64(p)*clusterBytes); err != nil {
				return err
			}
		}
	}
	return block.Device(dev).Flush()
}

// clearBackups removes what a round made.
func (b *bench) clearBackups() error {
	var problems []error
	for i := range tools {
		problems = append(problems, os.RemoveAll(b.path("target-"+strconv.Itoa(i))))
	}
	for _, name := range []string{"plain.img", "pv.img", "cow.img", "restic", "borg", "cache", "state"} {
		problems = append(problems, os.RemoveAll(b.path(name)))
	}
	return errors.Join(problems...)
}

// measureSparse backs up a volume of which next to nothing was ever written:
// the cost must be that of what changed.
func (b *bench) measureSparse() (err error) {
	s := sparseRun{VolumeGiB: 1024, DataMiB: 1024, ChangedMiB: 1024}
	if b.quick {
		s = sparseRun{VolumeGiB: 64, DataMiB: 16, ChangedMiB: 16}
	}
	size := s.VolumeGiB * 1024 * mib
	served, err := b.serveEmpty(size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, served.stop(), b.clearBackups()) }()
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := b.path("target-0")
	if err := errors.Join(os.Mkdir(dir, 0o700), runCommand(tools[0].init(b, dir))); err != nil {
		return err
	}
	for kind, bytes := range []int64{s.DataMiB * mib, s.ChangedMiB * mib} {
		b.progress("%d GiB, %d MiB written", s.VolumeGiB, bytes/mib)
		var places []int
		for range bytes / clusterBytes {
			places = append(places, int(rng.Int64N(size/clusterBytes)))
		}
		if err := b.scatter(rng, places, nil); err != nil {
			return err
		}
		cmd := tools[0].run(b, dir, kind)
		began := time.Now()
		if err := runCommand(cmd); err != nil {
			return err
		}
		*[]*float64{&s.Full, &s.Increment}[kind] = time.Since(began).Seconds()
		s.PeakKiB = max(s.PeakKiB, peakOf(cmd))
	}
	s.DaemonKiB = served.process.peakKiB()
	b.results.Sparse = &s
	return nil
}

// printBackups writes the table, and what the others take for each of ours.
func (r *results) printBackups(to io.Writer) {
	if len(r.Backups) == 0 {
		return
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nbackup of %d MiB, half of it data\tfull, s\tafter 1 %%, s\tstored MiB\tafter 1 %%\tpeak MiB\ttime, times cowl's\tstored, times cowl's\t\n", r.SizeMiB)
	ours := r.Backups[0]
	for _, t := range r.Backups {
		if len(t.Increment.Seconds) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.0f\t%.1f\t%d\t%s\t%s\t\n", t.Tool, median(t.Full.Seconds), median(t.Increment.Seconds),
			median(t.Full.StoredMiB), median(t.Increment.StoredMiB), t.PeakKiB/kib,
			times(t.Increment.Seconds, ours.Increment.Seconds), times(t.Increment.StoredMiB, ours.Increment.StoredMiB))
	}
	w.Flush()
	fmt.Fprintf(to, "Times and sizes are medians; times cowl's is of the increment, the median of the rounds with the least and the greatest.\n")
	fmt.Fprintf(to, "The process that serves cowl's volume, peak: %d MiB.\n", ours.DaemonKiB/kib)
	if s := r.Sparse; s != nil {
		fmt.Fprintf(to, "%d GiB volume, cowl: %d MiB of data in it %.2f s, %d MiB changed since %.2f s; peak %d MiB, the serving process %d MiB.\n",
			s.VolumeGiB, s.DataMiB, s.Full, s.ChangedMiB, s.Increment, s.PeakKiB/kib, s.DaemonKiB/kib)
	}
}

// times is how many times ours theirs is.
func times(theirs, ours []float64) string {
	var list []float64
	for i := range min(len(theirs), len(ours)) {
		list = append(list, theirs[i]/ours[i])
	}
	return fmt.Sprintf("%.1f (%.1f to %.1f)", median(list), slices.Min(list), slices.Max(list))
}
