package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cowl/internal/archive"
	"cowl/internal/backup/repo"
	"cowl/internal/errs"
	"cowl/internal/kernelfs"
	"cowl/internal/manager"
	"cowl/internal/quiet"
)

// DrillOptions say which backup is to prove that it can be restored.
type DrillOptions struct {
	Image string // path of an image; its manifest stands beside it
	// Repo and Backup are where the image is instead, of a backup in a
	// repository; Image is then how it is called.
	Repo   *repo.Repo
	Backup *repo.Backup
	// Dir is where the scratch file is made, "" for the system's temporary
	// directory. It takes what a restore takes.
	Dir string
	// Command is run on the result, "" for none; Limit and Output are as in quiet.Hooks.
	Command string
	Limit   time.Duration
	Output  io.Writer
	Reporter
}

// DrillStep is one part of a drill.
type DrillStep struct {
	Name    string  `json:"name"`
	Good    bool    `json:"good"`
	Skipped bool    `json:"skipped,omitempty"` // it could not be tried; Detail says why
	Detail  string  `json:"detail,omitempty"`
	Seconds float64 `json:"seconds"`
}

// DrillReport is the verdict on a backup.
type DrillReport struct {
	Backup     string      `json:"backup"`
	VG         string      `json:"vg"`
	LV         string      `json:"lv"`
	Time       time.Time   `json:"time"` // the instant that it shows
	Bytes      int64       `json:"bytes"`
	FileSystem string      `json:"file_system,omitempty"`
	Good       bool        `json:"good"`
	Steps      []DrillStep `json:"steps"`
	Seconds    float64     `json:"seconds"`
}

// drill is one drill on its way.
type drill struct {
	o       DrillOptions
	m       *Manifest // of an image
	scratch string
	report  *DrillReport
	skipped []string
}

// errSkipped is what a step returns that could not be tried.
type errSkipped string

func (e errSkipped) Error() string { return string(e) }

// Drill restores a backup into a scratch file, compares that with what the
// backup should be, has the file system's own checker look at it, and runs a
// command on it. The scratch file is removed. Nothing else is written.
//
// A verdict that is not good comes with an error, of kind errs.Corrupt if the
// backup is damaged; one that is good as far as could be tried, with a Warning.
func Drill(ctx context.Context, o DrillOptions) (*DrillReport, error) {
	started := time.Now()
	d := &drill{o: o, report: &DrillReport{Backup: o.Image, Steps: []DrillStep{}}}
	dir, err := os.MkdirTemp(o.Dir, "cowl-drill-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	d.scratch = filepath.Join(dir, "scratch.img")
	err = d.run(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("drill of %s %w (%v)", o.Image, ErrInterrupted, context.Cause(ctx))
	}
	d.report.Good = err == nil
	d.report.Seconds = time.Since(started).Seconds()
	if err == nil && len(d.skipped) > 0 {
		err = errs.Warning(errs.E(errs.Unsupported, "drill of %s: not tried: %s", o.Image, strings.Join(d.skipped, "; ")))
	}
	return d.report, err
}

func (d *drill) run(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"restore", d.restoreStored}, {"file system", d.checkFileSystem}, {"command", d.runCommand},
	}
	if d.o.Repo == nil {
		if err := d.step(ctx, "manifest", d.readManifest); err != nil {
			return err
		}
		if steps[0].do = d.restoreImage; d.m.Image.Format == Tar {
			steps = steps[:1]
			steps[0].name, steps[0].do = "read archive", d.readArchive
		}
	}
	for _, s := range steps {
		if err := d.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

// step does one step and notes it down. One that has nothing to say was not
// asked for.
func (d *drill) step(ctx context.Context, name string, do func(context.Context) (string, error)) error {
	started := time.Now()
	detail, err := do(ctx)
	if err == nil && detail == "" {
		return nil
	}
	s := DrillStep{Name: name, Good: err == nil, Detail: detail, Seconds: time.Since(started).Seconds()}
	var skipped errSkipped
	if errors.As(err, &skipped) {
		s.Skipped, s.Detail = true, err.Error()
		d.skipped = append(d.skipped, s.Detail)
		err = nil
	} else if err != nil {
		s.Detail = err.Error()
		err = fmt.Errorf("drill of %s: %s: %w", d.o.Image, name, err)
	}
	d.report.Steps = append(d.report.Steps, s)
	return err
}

// readManifest sees to it that what stands beside the image belongs together.
func (d *drill) readManifest(context.Context) (string, error) {
	m, text, err := readManifest(d.o.Image)
	if err != nil {
		return "", err
	}
	d.m = m
	d.report.VG, d.report.LV, d.report.Time, d.report.Bytes = m.Source.VG, m.Source.LV, m.Snapshot.Time, m.Image.content().Bytes
	return "manifest and checksums agree", checkChecksums(d.o.Image, m, text)
}

// restoreImage copies the image, and compares what it read and what it wrote
// with the manifest.
func (d *drill) restoreImage(ctx context.Context) (string, error) {
	want := d.m.Image.content()
	forget(d.o.Image)
	image, err := openContent(d.o.Image, d.m.Image.Format)
	if err != nil {
		return "", err
	}
	defer image.Close()
	if image.Size() != want.Bytes {
		return "", errs.E(errs.Corrupt, "image %s has %d bytes instead of %d", d.o.Image, image.Size(), want.Bytes)
	}
	out, err := openPartial(d.scratch)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if err := out.Truncate(want.Bytes); err != nil {
		return "", err
	}
	got, _, err := copyDevice(ctx, image, want.Bytes, &fileSink{w: out}, d.o.phase(Reading, want.Bytes))
	if err != nil {
		return "", err
	}
	if err := errDamaged("image "+d.o.Image, differing(want, got.ranges)); err != nil {
		return "", err
	}
	if got.whole != want.SHA256 {
		return "", errs.E(errs.Corrupt, "image %s: SHA-256 differs (want %s, got %s)", d.o.Image, want.SHA256, got.whole)
	}
	if err := out.Sync(); err != nil {
		return "", err
	}
	found, err := checkFile(ctx, d.scratch, &Image{Bytes: want.Bytes, RangeBytes: want.RangeBytes, Ranges: want.Ranges}, d.o.phase(Verifying, want.Bytes))
	if err == nil {
		err = errDamaged("restored image", found)
	}
	return fmt.Sprintf("%d bytes restored, equal to the manifest", want.Bytes), err
}

// differing returns the ranges whose hashes are not those of the image.
func differing(want *Content, got []string) (out []Damage) {
	for n := range want.Ranges {
		if got[n] != want.Ranges[n] {
			off := int64(n) * want.RangeBytes
			out = append(out, Damage{Off: off, Len: min(want.RangeBytes, want.Bytes-off),
				Cause: fmt.Sprintf("SHA-256 differs (want %s, got %s)", want.Ranges[n], got[n])})
		}
	}
	return out
}

// restoreStored restores from the repository, where everything that is read is
// compared with its hash on the way.
func (d *drill) restoreStored(ctx context.Context) (string, error) {
	b := d.o.Backup
	d.report.VG, d.report.LV, d.report.Time = b.VG, b.LV, b.Time
	rec, err := d.o.Repo.Record(ctx, b)
	if err != nil {
		return "", err
	}
	d.report.Bytes = rec.Image.Bytes
	if rec.Image.Bytes != rec.Source.Bytes {
		return "", errs.E(errs.Corrupt, "the image has %d bytes, the volume had %d", rec.Image.Bytes, rec.Source.Bytes)
	}
	if _, err := d.o.Repo.ReadFile(ctx, b, groupFile); err != nil {
		return "", err
	}
	r, err := Export(ctx, ExportOptions{Repo: d.o.Repo, Backup: b, Image: d.o.Image, File: d.scratch, Reporter: d.o.Reporter})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes restored, equal to their hashes, and read back", r.Bytes), nil
}

// readArchive compares an archive with its manifest, and reads all that is in it.
func (d *drill) readArchive(ctx context.Context) (string, error) {
	found, err := checkFile(ctx, d.o.Image, &d.m.Image, d.o.phase(Verifying, d.m.Image.Bytes))
	if err == nil {
		err = errDamaged("image "+d.o.Image, found)
	}
	if err != nil {
		return "", err
	}
	f, err := os.Open(d.o.Image)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	a, err := archive.Open(ctx, f, st.Size(), archive.OpenOptions{})
	if err != nil {
		if errs.Is(err, errs.NotFound) {
			err = errs.E(errs.Corrupt, "%w", err)
		}
		return "", fmt.Errorf("archive %s: %w", d.o.Image, err)
	}
	defer a.Close()
	if err := a.Err(); err != nil {
		return "", errs.E(errs.Corrupt, "archive %s: %w", d.o.Image, err)
	}
	return fmt.Sprintf("%d entries, equal to the manifest", a.Entries()), nil
}

// checkers are the commands that check a file system without repairing it. The
// snapshot of a file system in use has a journal to be replayed first: that is no
// damage. prepare does it in the scratch file.
var checkers = map[string]struct {
	prepare func(context.Context, string) error
	command []string
}{
	"ext2": {replayExt, []string{"e2fsck", "-fn"}},
	"ext3": {replayExt, []string{"e2fsck", "-fn"}},
	"ext4": {replayExt, []string{"e2fsck", "-fn"}},
	"xfs":  {replayXFS, []string{"xfs_repair", "-n"}},
}

func replayExt(ctx context.Context, image string) error {
	if needed, err := extNeedsRecovery(image); err != nil || !needed {
		return err // e2fsck would also repair what it should only find
	}
	out, err := exec.CommandContext(ctx, tool("e2fsck"), "-y", "-E", "journal_only", image).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 { // it did something, as it should
		return nil
	}
	if err != nil {
		return errs.E(errs.Corrupt, "replaying the journal: %w: %s", err, lastLine(out))
	}
	return nil
}

// extNeedsRecovery tells whether the journal of an ext3 or ext4 has something in
// it: by the flag 4 of the superblock's incompatible features.
func extNeedsRecovery(image string) (bool, error) {
	f, err := os.Open(image)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], 1024+0x60)
	return b[0]&4 != 0, err
}

// replayXFS has the kernel replay the log: nobody else can.
func replayXFS(_ context.Context, image string) error {
	if err := kernelfs.Possible(); err != nil {
		return nil // xfs_repair then looks at it as it is, and says so
	}
	_, release, err := kernelfs.Mount(image, false)
	if err != nil {
		return err
	}
	return release()
}

// tool finds a program, which may be where only root's PATH leads.
func tool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// checkFileSystem has the file system's own checker look at the scratch file.
func (d *drill) checkFileSystem(ctx context.Context) (string, error) {
	dev, err := manager.OpenDevice(d.scratch)
	if err != nil {
		return "", err
	}
	d.report.FileSystem, err = manager.Signature(dev)
	if err := errors.Join(err, dev.Close()); err != nil {
		return "", err
	}
	kind := d.report.FileSystem
	c, known := checkers[kind]
	switch {
	case kind == "":
		return "no file system is recognised: there is nothing to check", nil
	case !known:
		return "", errSkipped("no checker for " + kind)
	case tool(c.command[0]) == "":
		return "", errSkipped(c.command[0] + " is not installed")
	}
	if err := c.prepare(ctx, d.scratch); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, tool(c.command[0]), append(c.command[1:], d.scratch)...).CombinedOutput()
	if err != nil {
		return "", errs.E(errs.Corrupt, "%s finds the %s damaged (%w): %s", strings.Join(c.command, " "), kind, err, lastLine(out))
	}
	return kind + ": " + strings.Join(c.command, " ") + " finds nothing wrong", nil
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// runCommand runs the person's command on the result. As root it is run in the
// file system, mounted read-only.
func (d *drill) runCommand(ctx context.Context) (string, error) {
	if d.o.Command == "" {
		return "", nil
	}
	env := []string{"COWL_IMAGE=" + d.scratch, "COWL_TIME=" + d.report.Time.UTC().Format(time.RFC3339), "COWL_MOUNT="}
	how := "run on the image, which is not mounted: "
	if err := kernelfs.Possible(); err != nil {
		how += "that needs root"
	} else if root, release, err := kernelfs.Mount(d.scratch, false); err != nil {
		how += err.Error()
	} else {
		defer release()
		// The mount is reached through this process: its child has another self.
		root = strings.Replace(root, "/proc/self/", "/proc/"+strconv.Itoa(os.Getpid())+"/", 1)
		env[len(env)-1] += root
		how = "run with the file system mounted read-only"
	}
	h := quiet.Hooks{Commands: map[quiet.Stage]string{drillStage: d.o.Command}, Limit: d.o.Limit, Output: d.o.Output}
	return how, h.Run(ctx, drillStage, quiet.Subject{Volumes: []string{d.report.VG + "/" + d.report.LV}}, env...)
}

// drillStage is the stage of a command of a drill.
const drillStage quiet.Stage = "drill"
