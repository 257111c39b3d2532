package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// shell runs commands in the demo's directory and shows them as a person
// would type and see them.
type shell struct {
	out   io.Writer
	color bool
	cowl  string   // what the word "cowl" runs
	dir   string   // where
	env   []string // in what environment
}

// The attributes of text on a terminal.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (s *shell) paint(attribute, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

func (s *shell) title(n int, format string, args ...any) {
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, fmt.Sprintf("%d. ", n)+fmt.Sprintf(format, args...)))
}

// say explains, in lines that begin with a hash as they would in a script.
func (s *shell) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintln(s.out, "   "+s.paint(dim, "# "+strings.TrimSuffix(line, "\n")))
	}
}

// proved shows a claim that has been checked.
func (s *shell) proved(format string, args ...any) {
	fmt.Fprintln(s.out, "   "+s.paint(green, "✓")+" "+fmt.Sprintf(format, args...))
}

// failed shows one that did not hold.
func (s *shell) failed(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "\n     ")
	fmt.Fprintln(s.out, "   "+s.paint(red, "✗")+" "+text)
}

// run runs a command that has to succeed.
func (s *shell) run(ctx context.Context, args ...string) (string, error) {
	out, code, err := s.try(ctx, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with exit code %d", strings.Join(args[:min(2, len(args))], " "), code)
	}
	return out, err
}

// try shows and runs a command, and shows what it said.
func (s *shell) try(ctx context.Context, args ...string) (output string, code int, err error) {
	s.typed(args...)
	output, code, err = s.quiet(ctx, args...)
	for line := range strings.Lines(output) {
		fmt.Fprintln(s.out, "     "+strings.TrimRight(strings.TrimPrefix(line, "  "), "\n"))
	}
	return output, code, err
}

// typed shows a command line.
func (s *shell) typed(args ...string) {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = quote(a)
	}
	fmt.Fprintln(s.out, "   "+s.paint(dim, "$")+" "+s.paint(bold, strings.Join(words, " ")))
}

// quiet runs a command without showing it.
func (s *shell) quiet(ctx context.Context, args ...string) (output string, code int, err error) {
	program := s.cowl
	if args[0] != "cowl" {
		if program = find(args[0]); program == "" {
			return "", 0, fmt.Errorf("%s is not installed", args[0])
		}
	}
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Dir, cmd.Env = s.dir, s.env
	// An interrupted command gets the time to clean up behind itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return out.String(), 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return out.String(), exit.ExitCode(), nil
	}
	return out.String(), 0, err
}

// quote makes a word safe for a shell, where it needs that.
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$&|;<>()*?[]#~`!{}") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// find looks a program up, also where a plain user's PATH does not.
func find(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if st, err := os.Stat(filepath.Join(dir, program)); err == nil && st.Mode().IsRegular() {
			return filepath.Join(dir, program)
		}
	}
	return ""
}
