package readme

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cowl/internal/judge"
	"cowl/test/asprogram"
)

func TestMain(m *testing.M) { asprogram.Main(m) }

// step is a command of a session and what the document says it prints.
type step struct {
	command string
	output  string
}

// session returns the ```console blocks of a document as steps: lines that
// begin with "$ " are commands, what follows is their output.
func session(text string) []step {
	var steps []step
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(block[1]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				steps = append(steps, step{command: strings.TrimSuffix(command, "\n")})
			} else if len(steps) > 0 {
				steps[len(steps)-1].output += line
			}
		}
	}
	return steps
}

// pattern makes a regular expression of an output in which "..." stands for
// anything, and any white space for any other.
func pattern(output string) *regexp.Regexp {
	parts := strings.Split(strings.Join(strings.Fields(output), " "), "...")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$")
}

// What the README shows is the first thing that anybody tries.
func TestSession(t *testing.T) {
	judge.Need(t, "mke2fs", "sh")
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := session(string(text))
	if len(steps) < 5 {
		t.Fatalf("the README has a session of %d commands", len(steps))
	}
	short, err := os.MkdirTemp("", "cowl-") // sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	bin := filepath.Dir(asprogram.Install(t))
	env := append(asprogram.Environ(short),
		"PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	t.Cleanup(func() {
		if t.Failed() { // the session's last command ends what it left running
			stop := exec.Command("cowl", "vgchange", "-an")
			stop.Path, stop.Env = filepath.Join(bin, "cowl"), env
			stop.Run()
		}
	})
	dir := t.TempDir()
	start := time.Now()
	for _, s := range steps {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "sh", "-c", s.command)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("$ %s\n%s%v", s.command, out, err)
		}
		if got := strings.Join(strings.Fields(string(out)), " "); !pattern(s.output).MatchString(got) {
			t.Errorf("$ %s\nprints\n%sthe README says\n%s", s.command, out, s.output)
		}
	}
	t.Logf("%d commands in %v", len(steps), time.Since(start).Round(time.Millisecond))
}

// A test that compares nothing would let the README say anything.
func TestPattern(t *testing.T) {
	for _, c := range []struct {
		says, prints string
		match        bool
	}{
		{"a  b\n", "a b", true},
		{"a b", "a c", false},
		{"", "surprise", false},
		{"from ... to ...\nend", "from 1 2 to 3 end", true},
		{"1.5", "1x5", false},
	} {
		if got := pattern(c.says).MatchString(c.prints); got != c.match {
			t.Errorf("%q against %q: %v", c.says, c.prints, got)
		}
	}
}
