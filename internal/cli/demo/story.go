package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cowl/internal/daemon"
	"cowl/internal/errs"
)

// Options say where the story is told.
type Options struct {
	Out        io.Writer
	Color      bool
	Executable string   // this program
	Environ    []string // the process's own
	Dir        string   // empty or not there yet; "" makes one

	fill filling // nil: what is installed decides
}

// story is the demo on its way.
type story struct {
	*shell
	fill   filling
	ledger *ledger
	group  *daemon.Client
	writer *writer
	// atBackup is how many writes the backup holds.
	atBackup uint64
	backup   string // the image, relative to the directory
}

const group, volume = "demo", "data"

// Run tells the story. An error means that something did not do what it
// should; it has been shown already.
func Run(ctx context.Context, o Options) error {
	dir, err := makeDir(o.Dir)
	if err != nil {
		return err
	}
	s := &story{fill: o.fill, shell: &shell{out: o.Out, color: o.Color, cowl: o.Executable, dir: dir}}
	if err := s.prepare(o.Environ); err != nil {
		return err
	}
	started := time.Now()
	err = s.tell(ctx)
	s.end(ctx)
	s.verdict(err, time.Since(started))
	return err
}

// makeDir makes the demo's directory, and refuses one with something in it.
func makeDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "cowl-demo-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = errs.E(errs.Exists, "directory %s is not empty", dir)
	}
	return dir, err
}

// prepare writes the variables that keep the demo to itself, for the commands
// that it runs and for the person who looks around afterwards.
func (s *story) prepare(environ []string) error {
	own := []string{
		"COWL_DEVICES=" + filepath.Join(s.dir, "disk1.img") + "," + filepath.Join(s.dir, "disk2.img"),
		"COWL_RUN_DIR=" + filepath.Join(s.dir, "run"),
		"COWL_STATE_DIR=" + filepath.Join(s.dir, "state"),
	}
	s.env = append(environ, own...)
	var text strings.Builder
	for _, v := range own {
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&text, "export %s=%s\n", name, quote(value))
	}
	return os.WriteFile(filepath.Join(s.dir, "env"), []byte(text.String()), 0o644)
}

// tell runs the chapters in order.
func (s *story) tell(ctx context.Context) error {
	fmt.Fprintf(s.out, "%s\n", s.paint(bold, "cowl demo: a snapshot, a backup, an accident, a restore and a rollback, on real data"))
	fmt.Fprintf(s.out, "All of it happens in %s, needs no root, and touches nothing else.\n", s.dir)
	if s.fill == nil {
		var missing []string
		if s.fill, missing = chooseFilling(s.dir); len(missing) > 0 {
			fmt.Fprintf(s.out, "Not installed: %s (package e2fsprogs). A known pattern takes the place of a file system.\n", strings.Join(missing, ", "))
		}
	}
	for n, chapter := range []func(context.Context, int) error{
		s.makeGroup, s.fillVolume, s.startLoad, s.takeSnapshot, s.makeBackup, s.haveAccident, s.restore, s.rollBack,
	} {
		if err := chapter(ctx, n+1); err != nil {
			return err
		}
	}
	return nil
}

// end leaves no process behind, however the story went.
func (s *story) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if s.writer != nil {
		_ = s.writer.stop() // its error, if there is one, has been told
	}
	if s.group == nil {
		if _, err := daemon.Connect(ctx, filepath.Join(s.dir, "run"), group); err != nil {
			return // it never came so far
		}
	} else {
		s.group.Close()
	}
	if out, code, err := s.quiet(ctx, "cowl", "vgchange", "-an", group); err != nil || code != 0 {
		s.failed(fmt.Errorf("could not stop the daemon: %s%v", out, err))
	}
}

// verdict ends with plain words.
func (s *story) verdict(err error, took time.Duration) {
	if err != nil {
		fmt.Fprintln(s.out)
		s.failed(err)
		fmt.Fprintf(s.out, "\n%s\n", s.paint(red, "The demo did not come to its end."))
	} else {
		fmt.Fprintf(s.out, "\n%s\n", s.paint(green, fmt.Sprintf("All of it held, in %.1f seconds:", took.Seconds())))
		fmt.Fprint(s.out, `
   a snapshot of a volume under load showed one instant, and went on showing it;
   the backup was made under that load, was verified, and restored to the byte;
   a snapshot that was merged back undid everything that came after it.
`)
	}
	fmt.Fprintf(s.out, `
The group is no longer active, and nothing runs any more. To look around:

   cd %s && . ./env
   cowl vgs && cowl lvs -a -o +devices    # what LVM's own tools would show, too
   cowl vgchange -ay %s                 # serve it again; cowl vgchange -an %s ends it

To remove it:  rm -r %s
`, quote(s.dir), group, group, quote(s.dir))
}

// count writes a number with separators.
func count(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
