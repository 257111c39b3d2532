package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"cowl/internal/errs"
)

// indent stands before every line of LVM's output.
const indent = "  "

// say writes a line to standard output, unless -qq was given.
func (a *app) say(format string, args ...any) {
	if a.quiet < 2 {
		writeLines(a.Stdout, fmt.Sprintf(format, args...))
	}
}

// warn writes a warning to standard error. Of lvm2's own warnings the word is
// there already.
func (a *app) warn(format string, args ...any) {
	const word = "WARNING: "
	text := strings.TrimPrefix(fmt.Sprintf(format, args...), word)
	a.warnings.add(text)
	writeLines(a.Stderr, word+text)
}

// sayings is what was said, from any goroutine. nil takes nothing down.
type sayings struct {
	mu    sync.Mutex
	texts []string
}

func (s *sayings) add(text string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts = append(s.texts, text)
}

func (s *sayings) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}

// note writes a remark to standard error.
func (a *app) note(format string, args ...any) { writeLines(a.Stderr, fmt.Sprintf(format, args...)) }

// tell writes what a change had to say.
func (a *app) tell(notes []string) {
	for _, n := range notes {
		a.say("%s", n)
	}
}

func writeLines(w io.Writer, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintln(w, indent+strings.TrimSuffix(line, "\n"))
	}
}

// finish reports the error, if there is one, and returns the exit code.
func (a *app) finish(err error) int {
	a.complain(err)
	return exitCode(err)
}

// complain writes an error, and below it what to do about it.
func (a *app) complain(err error) {
	switch {
	case err == nil, errors.Is(err, errSilent):
		return
	}
	if errors.Is(err, context.Canceled) {
		err = errs.WithHint(errs.E(errs.Other, "Interrupted..."), "%s", errs.HintOf(err))
	}
	text := err.Error()
	a.complaints.add(text)
	if errs.OnlyWarnings(err) {
		text = "WARNING: " + text
	}
	writeLines(a.Stderr, text)
	if hint := errs.HintOf(err); hint != "" {
		writeLines(a.Stderr, hint)
	}
}

// confirm asks a question that --yes answers. Where nobody can be asked the
// answer is no, as LVM2's is.
func (a *app) confirm(format string, args ...any) (bool, error) {
	question := fmt.Sprintf(format, args...)
	if a.yes {
		return true, nil
	}
	fmt.Fprintf(a.Stderr, "%s [y/n]: ", question)
	if !a.Interactive || a.quiet >= 2 {
		fmt.Fprintln(a.Stderr, "[n]")
		return false, nil
	}
	in := bufio.NewReader(a.Stdin)
	for {
		line, err := in.ReadString('\n')
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		}
		if err != nil {
			fmt.Fprintln(a.Stderr, "[n]")
			return false, nil
		}
		fmt.Fprintf(a.Stderr, "WARNING: Invalid input. %s [y/n]: ", question)
	}
}
